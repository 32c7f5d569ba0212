"""The names that a new function may have and bind, on whichever way it enters: written by a model or read from a file.

All functions of a set and the code that an agent writes share one namespace, so a name that is bound at the top level
is bound for all of them.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re

from agentopt_local.errors import FunctionError
from agentopt_local.source import RUNTIME_NAMES

MAX_NAME_CHARS = 64
"""Longest name of a function or parameter, as in the tools of the common interfaces."""
TOOL_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME_CHARS - 1}}}")
"""Names that Python and all interfaces accept for a function or a parameter."""
BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
RESERVED = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist) | BUILTINS | RUNTIME_NAMES | {"python"}
"""Names that no new function may have: Python's own, those that every set imports, and that of the code interpreter."""
HIDDEN = frozenset({"__import__", "__builtins__", "__loader__", "__spec__", "__globals__", "__subclasses__"})
"""Names by which code reaches packages that its import statements do not name."""


def check_name(name: str) -> None:
    """Raise FunctionError if no new function can be called ``name``."""
    if not TOOL_NAME.fullmatch(name):
        raise FunctionError(
            f"a function cannot be called {name[:80]!r}; use at most {MAX_NAME_CHARS} letters a to z, digits and _"
        )
    if name in RESERVED or name.casefold() == "python" or name.startswith("__"):
        raise FunctionError(f"a function cannot be called {name!r}; that name is reserved, choose another")


def check_names(tree: ast.Module, node: ast.FunctionDef) -> None:
    """Raise FunctionError if the function ``node``, with the imports of ``tree`` above it, has or binds a name that it
    must not, or uses one that hides an import."""
    check_name(node.name)
    for arg in (*node.args.args, *node.args.kwonlyargs):
        if not TOOL_NAME.fullmatch(arg.arg):
            raise FunctionError(
                f"{node.name}: the parameter {arg.arg[:80]!r} needs another name: at most {MAX_NAME_CHARS} characters "
                "of a to z, digits and _"
            )
    for name, target in bindings(tree).items():
        if name == "*":
            raise FunctionError(f"{node.name}: import the names that it uses from {target[:-2]}, instead of *")
        if name in RESERVED and target != f"typing.{name}":
            raise FunctionError(
                f"{node.name}: its import of {target} would replace {name!r} for all other code; move the import into "
                "the function"
            )
    for each in ast.walk(tree):
        for name in each.names if isinstance(each, ast.Global) else ():
            if name in RESERVED or name == node.name:
                raise FunctionError(f"{node.name}: global {name} would replace {name!r} for all other code; rename it")
        used = each.id if isinstance(each, ast.Name) else each.attr if isinstance(each, ast.Attribute) else ""
        if used in HIDDEN:
            raise FunctionError(f"{node.name}: {used} is not allowed; import packages with an import statement")


def bindings(tree: ast.Module) -> dict[str, str]:
    """The names that top-level imports bind, each with what it then means: ``{"sqrt": "math.sqrt"}``."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                found[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found
