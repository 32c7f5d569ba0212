"""What came of a draft's function where it was tried, and how its author is told."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

from agentopt_local.errors import FunctionError
from agentopt_local.evidence import cut
from agentopt_local.functions import Function, FunctionSet, render_value
from agentopt_local.sandbox.base import Execution

SHOWN = 200
"""Characters of an argument, a result or an expected answer in the report of a trial."""
LEAST_SHOWN = 40
PLACE = re.compile(r"line \d+|\.\.\. \d+ more calls")
"""How the lines of an error begin that say where it was raised."""


def error_of(execution: Execution) -> str:
    """An error without the places where it was raised, to be compared with others."""
    lines = (execution.error or "").split("\n")
    return "\n".join(["failed", *(line for line in lines if not PLACE.match(line))])


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
        return error_of(self.execution)

    def pair(self, shown: int) -> str:
        """What the function was given and what it has to return; at most about ``shown`` characters of each."""
        values = list(self.given.values())
        given = (
            str(values[0]) if len(values) == 1 else ", ".join(f"{key}={value!r}" for key, value in self.given.items())
        )
        return f"{cut(given, 2 * shown)} -> {cut(self.expected, shown)}"

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


class ProgramTrial(NamedTuple):
    """A program that solved a problem, rewritten so that it calls a function."""

    number: int
    code: str
    execution: Execution
    expected: str
    right: bool
    calls: bool
    """Whether it calls the function."""

    @property
    def result(self) -> str:
        """What came of it, to be compared with other programs for the same problem."""
        return f"printed {self.execution.stdout}" if self.execution.ok else error_of(self.execution)

    def line(self, shown: int) -> str:
        """The program with what it printed and what was expected; at most about ``shown`` characters of each."""
        done = f"- for problem {self.number}:\n```python\n{cut(self.code.strip(), 2 * shown)}\n```\n "
        if not self.execution.ok:
            return f"{done} failed: {cut(self.execution.error or '', 2 * shown)}"
        printed = cut(self.execution.stdout.strip(), shown) or "nothing"
        verdict = "which is right" if self.right else f"but expected was: {cut(self.expected, shown)}"
        return f"{done} printed: {printed}\n  {verdict if self.calls else 'but it does not call your function'}"


class Trials(NamedTuple):
    """The trials on all shown problems, in order."""

    each: tuple[Trial | ProgramTrial, ...]
    opening: str = "Trial calls of your function:"

    @property
    def matches(self) -> int:
        """How many gave the expected answer."""
        return sum(each.right for each in self.each)

    @property
    def ran(self) -> bool:
        """Whether all calls ended without an error; of programs, which may be wrong themselves, one is enough."""
        ran = [each.execution.ok for each in self.each]
        return all(ran) if self.examples else any(ran)

    @property
    def examples(self) -> tuple[dict[str, Any], ...]:
        """The arguments of the calls; none of programs, which choose their own."""
        return tuple(each.given for each in self.each if isinstance(each, Trial))

    @property
    def complete(self) -> bool:
        """Whether all gave the expected answer."""
        return self.matches == len(self.each)

    @property
    def results(self) -> tuple[str, ...]:
        """What came of each."""
        return tuple(each.result for each in self.each)

    def pairs(self, shown: int = SHOWN) -> str:
        """What the function was given in each call, and what it has to return; see :meth:`Trial.pair`."""
        return "\n".join(each.pair(shown) for each in self.each if isinstance(each, Trial))

    def text(self, shown: int = SHOWN) -> str:
        """What the optimizer must fix; see :meth:`Trial.line`."""
        return f"{self.opening}\n" + "\n".join(each.line(shown) for each in self.each)


class NotTriedError(FunctionError):
    """A function could not be tried, which need not be its fault."""


class Verifier(Protocol):
    """Tries functions on what their author was shown."""

    async def trials(self, function: Function, functions: FunctionSet) -> Trials:
        """The trials of ``function``, which is one of ``functions``. Raises NotTriedError, ModelError, SandboxError."""
        ...
