"""Learned functions outside this program: as a package, as tools for other agents, as logs, and back again."""

FORMATS = ("python", "openai", "openai-responses", "anthropic", "mcp", "inspect")
"""What a run can be exported as."""
