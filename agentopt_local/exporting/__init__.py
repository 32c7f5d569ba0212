"""Learned functions outside this program: as a package, as tools for other agents, as logs, and back again."""
