"""Whether a repair says the same again: small models often answer feedback with the source that it was about."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from agentopt_local.errors import FunctionError
from agentopt_local.source import clean, parsed
from agentopt_local.source_limits import check_limits
from agentopt_local.source_questions import Failed
from agentopt_local.trials import Trials

NAMING: dict[type[ast.AST], str] = {
    ast.FunctionDef: "name", ast.arg: "arg", ast.ExceptHandler: "name", ast.alias: "asname",
}  # fmt: skip
"""Nodes that give a name, and where they hold it."""


class FailedIdeas:
    """Sources of one draft that failed, and what they returned."""

    def __init__(self) -> None:
        self._why: dict[str, str | Trials] = {}
        self._results: set[tuple[str, ...]] = set()

    def find(self, source: str) -> str | Trials | None:
        """Why ``source`` failed before; None if it is new.

        One that was tried is the same up to names, docstring, comments and formatting. One that was refused may have
        been refused for its name or its docstring, so only comments and formatting are left out there.
        """
        forms = (form_of(source, by_name=True), form_of(source, by_name=False))
        return next((self._why[form] for form in forms if form in self._why), None)

    def gave(self, trials: Trials) -> bool:
        """Whether one of them returned just this, or failed in just this way, on all shown problems."""
        return trials.results in self._results

    def add(self, failed: Failed) -> Failed:
        """Remember a source that failed, and return it."""
        tried = isinstance(failed.why, Trials)
        self._why[form_of(failed.source, by_name=not tried)] = failed.why
        if isinstance(failed.why, Trials):
            self._results.add(failed.why.results)
        return failed


def form_of(source: str, *, by_name: bool) -> str:
    """The code of ``source`` without comments and formatting: equal code gives equal text.

    ``by_name``: names and docstrings count too. What is not Python, or too deep to be looked at, is compared as text.
    """
    text = clean(source)
    try:
        check_limits(text)
        tree = parsed(text)
    except FunctionError:
        return "\n".join(line.rstrip() for line in text.strip().split("\n"))
    if not by_name:
        names = {name: f"_{number}" for number, name in enumerate(dict.fromkeys(bound(tree)))}
        for node in ast.walk(tree):
            rename(node, names)
    return f"{by_name} {ast.dump(tree, annotate_fields=False)}"


def bound(tree: ast.Module) -> Iterator[str]:
    """The names that the code itself gives, in the order of the tree: functions, parameters, variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                yield node.id
        elif (field := NAMING.get(type(node))) and getattr(node, field):
            yield getattr(node, field)


def rename(node: ast.AST, names: dict[str, str]) -> None:
    """Give a node its name from ``names``, and a function no docstring."""
    field = "id" if isinstance(node, ast.Name) else NAMING.get(type(node))
    if field is not None:
        given = getattr(node, field)
        setattr(node, field, names.get(given, given))
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
