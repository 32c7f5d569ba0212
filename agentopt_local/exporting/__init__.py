"""Learned functions outside this program: as a package, as tools of other agents, as logs, and back again."""
