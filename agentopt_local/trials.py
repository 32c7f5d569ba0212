"""What a draft's function returned on the shown problems, and how its author is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from agentopt_local.evidence import Evidence, cut
from agentopt_local.functions import render_value
from agentopt_local.sandbox.base import Execution, Sandbox
from agentopt_local.tasks.base import Task

SHOWN = 200
"""Characters of an argument, a result or an expected answer in the report of a trial."""
LEAST_SHOWN = 40
PLACE = re.compile(r"line \d+|\.\.\. \d+ more calls")
"""How the lines of an error begin that say where it was raised."""


class Trial(NamedTuple):
    """One call of a function on a shown problem."""

    name: str
    given: dict[str, Any]
    execution: Execution
    expected: str
    right: bool

    @property
    def result(self) -> str:
        """What came of it, to be compared with other calls on the same problem: an error wherever it was raised."""
        if self.execution.ok:
            return f"returned {render_value(self.execution.value)}"
        lines = (self.execution.error or "").split("\n")
        return "\n".join(["failed", *(line for line in lines if not PLACE.match(line))])

    def line(self, shown: int) -> str:
        """The call with what it returned and what was expected; at most about ``shown`` characters of each."""
        execution = self.execution
        # arguments share their room: a function may have any number of them
        each = max(LEAST_SHOWN, 2 * shown // max(2, len(self.given)))
        arguments = ", ".join(f"{key}={cut(repr(value), each)}" for key, value in self.given.items())
        call = f"- {self.name}({cut(arguments, 4 * shown)})"
        if not execution.ok:
            return f"{call} failed: {cut(execution.error or '', 2 * shown)}"
        kind = "" if isinstance(execution.value, str) else f" ({type(execution.value).__name__}, not str)"
        verdict = "which is right" if self.right else f"but expected was: {cut(self.expected, shown)}"
        return f"{call} returned: {cut(render_value(execution.value), shown)}{kind}\n  {verdict}"


class Trials(NamedTuple):
    """The calls on all shown problems, in order."""

    each: tuple[Trial, ...]

    @property
    def matches(self) -> int:
        """How many gave the expected answer."""
        return sum(each.right for each in self.each)

    @property
    def ran(self) -> bool:
        """Whether all ended without an error."""
        return all(each.execution.ok for each in self.each)

    @property
    def complete(self) -> bool:
        """Whether all gave the expected answer."""
        return self.matches == len(self.each)

    @property
    def results(self) -> tuple[str, ...]:
        """What came of each."""
        return tuple(each.result for each in self.each)

    def text(self, shown: int = SHOWN) -> str:
        """What the optimizer must fix; see :meth:`Trial.line`."""
        return "Trial calls of your function:\n" + "\n".join(each.line(shown) for each in self.each)


async def judged(
    calls: Sequence[tuple[Evidence, dict[str, Any], Execution]], name: str, task: Task, sandbox: Sandbox
) -> Trials:
    """The calls of the function ``name``, each compared with the expected answer by the task's grader."""
    found = []
    for attempted, given, execution in calls:
        right = False
        if execution.ok:
            right = (await task.grade(attempted.problem, render_value(execution.value), sandbox)).correct
        found.append(Trial(name, given, execution, attempted.problem.answer, right))
    return Trials(tuple(found))
