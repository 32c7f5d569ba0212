"""Which packages the functions of a call may import, checked where imports happen.

A source that begins with a line ``# packages: math, sympy`` is held to these packages, however it asks for others: by
``__import__``, in text that it evaluates, in code that it is given. What the packages themselves import is not
restricted. This is a rule for honest code, which the package of an export should be able to rely on; what code can do
to the machine is up to the kernel's walls.
"""

from __future__ import annotations

import builtins
from typing import Any

PACKAGES = "# packages:"
"""Begins the line."""
_ALWAYS = {"__future__", "typing"}
"""What precedes every set of functions imports them."""


def builtins_for(source: str) -> dict[str, Any]:
    """The built-ins with which ``source`` is executed."""
    first = source.partition("\n")[0]
    if not first.startswith(PACKAGES):
        return vars(builtins)
    named = {name.strip() for name in first.removeprefix(PACKAGES).split(",")}
    return {**vars(builtins), "__import__": _importer(named | _ALWAYS)}


def _importer(allowed: set[str]) -> Any:
    real = builtins.__import__

    def guarded(name: str, scope: Any = None, inner: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        # Modules written in C import by this function as well, in the name of their caller, and with these arguments.
        for_library = type(fromlist) is list and not fromlist and inner is scope is not None
        if not for_library and (level or str(name).partition(".")[0] not in allowed):
            raise ImportError(f"the functions import no package {name!r}: use only packages of their import statements")
        return real(name, scope, inner, fromlist, level)

    return guarded
