"""Limits of a new source: what is legal Python, but what a later step could fail or hang on."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from agentopt_local.errors import FunctionError
from agentopt_local.source import MAX_DEPTH, TOO_DEEP, parsed

MAX_COPIED = 20_000
"""Most parts of the syntax tree in all copies of a ``finally`` block together; an ordinary one has a few hundred."""
MAX_BITS = 13_000
"""Largest whole number in a new source: about 3,900 digits. Python refuses to print one of more than 4,300."""
_NOWHERE, _TRY, _FINALLY = 0, 1, 2
"""Where code is: in no try with finally, in the same function as one, in the block that Python copies."""


def check_limits(source: str) -> None:
    """Raise FunctionError for a source that is Python, but that a later step could fail or hang on.

    Every new source must pass; functions of older runs need not.
    """
    level: list[tuple[ast.AST, int]] = [(parsed(source), _NOWHERE)]
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[ast.AST, int]] = []
        for node, place in level:
            if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value.bit_length() > MAX_BITS:
                raise FunctionError(f"line {node.lineno}: a number has too many digits; compute it, as in 10**5000")
            final: list[ast.stmt] = getattr(node, "finalbody", [])
            copied = {id(each) for each in final}
            if final:
                _check_finally(node, final, place)
                below += [(child, _FINALLY) for child in final]
            inner = max(place, _TRY) if final else place
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and place == _TRY:
                inner = _NOWHERE
            below += [(child, inner) for child in ast.iter_child_nodes(node) if id(child) not in copied]
        if not below:
            return
        level = below
    raise FunctionError(TOO_DEEP)


def _check_finally(node: ast.AST, final: Sequence[ast.stmt], place: int) -> None:
    """Raise FunctionError for a ``finally`` that compiles slowly: Python makes a copy of it for every way out of the
    ``try``, so the numbers of nested ones multiply."""
    if place != _NOWHERE:
        raise FunctionError("a try with finally is inside another one; move it into a function of its own")
    ways = sum(isinstance(each, ast.Return | ast.Break | ast.Continue) for each in ast.walk(node))
    size = sum(1 for each in final for _ in ast.walk(each))
    if ways * size > MAX_COPIED:
        raise FunctionError(
            f"a finally block of {size} parts is compiled once for each of the {ways} ways out of its try; put what it "
            "does into a function"
        )
