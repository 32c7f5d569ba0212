"""Names that the programs at the other end take: model providers, MCP clients, package tools, log viewers.

Providers match the names of tools and of their parameters with ``[a-zA-Z0-9_-]{1,64}``, and answer 400 to a request in
which one does not fit. MCP clients make these names from a server's and a tool's: Claude Code calls them
``mcp__SERVER__TOOL`` and splits them at the underscores, Cursor leaves out tools where both together have more than 60
characters.
"""

from __future__ import annotations

import re
import unicodedata

from agentopt_local.chat import ToolSpec
from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.unicode_form import normal_form

MOST = 64
"""Longest name of a tool or a parameter, in characters."""
SERVER_AND_TOOL = MOST - len("mcp____")
"""Longest names of an MCP server and a tool together."""
MOST_OF_SERVER = 40
"""Longest name of a server that is made here; it leaves room for tools that are added later."""
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MOST}}}")
_SERVER = re.compile(r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*")


def slug(text: str, joint: str, most: int) -> str:
    """The ASCII letters and digits of ``text``, with ``joint`` for all between them; empty if there are none."""
    plain = "".join(char for char in normal_form("NFKD", text) if not unicodedata.combining(char))
    return re.sub(r"[^A-Za-z0-9]+", joint, plain).strip(joint)[:most].strip(joint)


def portable_specs(functions: FunctionSet) -> tuple[ToolSpec, ...]:
    """The functions as tools. Raises ConfigError if one has a name, or a parameter, that providers refuse."""
    specs = functions.tool_specs()
    for spec in specs:
        for what, name in (("", spec.name), *(("parameter ", each) for each in spec.parameters["properties"])):
            if not _NAME.fullmatch(name):
                whose = f"the {what}{name!r} of the function {spec.name!r}" if what else f"the function {name!r}"
                raise ConfigError(
                    f"{whose} cannot be a tool there: names have at most {MOST} characters of a-z, A-Z, 0-9 and _; "
                    "export it as a package, rename it, and import it again"
                )
    return specs


def server_name(wanted: str | None, place: str, functions: FunctionSet) -> str:
    """The name of an MCP server for ``functions``: the ``wanted`` one, or one made from ``place``, a file's name.

    Raises ConfigError if the wanted name, or one of the functions', leaves clients no name for a tool.
    """
    longest = max((spec.name for spec in portable_specs(functions)), key=len, default="")
    room = SERVER_AND_TOOL - len(longest)
    if room < 1:
        raise ConfigError(
            f"the function {longest!r} has {len(longest)} characters, and MCP clients put their own names before it; "
            f"{SERVER_AND_TOOL - 1} is the most: export it as a package, rename it, and import it again"
        )
    if wanted is None:
        most = min(room, MOST_OF_SERVER)
        return slug(place, "-", most) or "functions"[:most]
    if not _SERVER.fullmatch(wanted):
        instead = slug(wanted, "-", min(room, MOST_OF_SERVER)) or "functions"
        raise ConfigError(
            f"--name {wanted!r} cannot be the name of an MCP server: clients allow letters, digits and single - or _ "
            f"between them; use for example {instead!r}"
        )
    if len(wanted) > room:
        raise ConfigError(
            f"--name {wanted!r} has {len(wanted)} characters; with the function {longest!r}, MCP clients leave room "
            f"for {room}"
        )
    return wanted
