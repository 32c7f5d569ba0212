"""What an attempt leaves: every turn, every tool run, the answer and why it ended; a Trajectory adds the grade."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import model_validator

from agentopt_local.chat import Message, Usage
from agentopt_local.functions import FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.record import Record

StopReason = Literal["answer", "max_turns", "max_tokens", "context", "refused", "no_action"]
"""``answer``: the agent answered · ``max_turns``, ``max_tokens``: a budget was used up · ``context``: the
conversation outgrew the model's context · ``refused``: the model or its server refused the prompt for good ·
``no_action``: two turns in a row held neither a call, nor code, nor an answer, or a creator's code gave no answer."""

PYTHON = "python"
"""The name of a tool run that ran code in the interpreter."""


class ToolRun(Record):
    """One function call or one interpreter block of the agent, with its result."""

    name: str
    """The function's name; ``python`` for a block."""
    arguments: dict[str, Any]
    """The call's arguments; ``{"code": ...}`` for a block."""
    ok: bool
    result: str
    """What the agent was shown: the value or the printed output, or the error."""


class Step(Record):
    """One turn of the agent and what came back."""

    message: Message
    """The assistant's turn."""
    executed: tuple[ToolRun, ...] = ()
    """What the turn ran, in order."""
    observations: tuple[Message, ...] = ()
    """The replies that the agent was shown; empty after the answer."""


class Attempt(Record):
    """One try at one problem, not graded yet. A bad one is data, never an exception."""

    problem_id: str
    functions: str
    """Fingerprint of the function set."""
    view: str = ""
    """Fingerprint of what it saw of the set: attempts at a problem with equal views and seeds are the same."""
    seed: int
    steps: tuple[Step, ...]
    answer: str | None
    stop_reason: StopReason
    usage: Usage
    wall_s: float
    context_tokens: int = 0
    """Prompt and reply of its last request: what it held of a KV cache at its end; 0 where no tokens were counted."""
    error: str = ""
    """Why the prompt was refused, if ``stop_reason`` is ``refused``."""
    offered: tuple[str, ...] | None = None
    """The functions that the problem was offered (``agent.offer``, ``agent.max_functions``); None: the whole set."""

    @model_validator(mode="before")
    @classmethod
    def _of_older_versions(cls, values: Any) -> Any:
        """They wrote an empty offer for the whole set."""
        if isinstance(values, dict) and not values.get("offered") and "view" not in values:
            return {key: value for key, value in values.items() if key != "offered"}
        return values

    def offers(self, functions: FunctionSet) -> tuple[str, ...]:
        """The names of the functions of its set, ``functions``, that it was offered."""
        return functions.names if self.offered is None else self.offered

    @property
    def executed(self) -> tuple[ToolRun, ...]:
        """All tool runs in order."""
        return tuple(each for step in self.steps for each in step.executed)

    @property
    def calls(self) -> tuple[ToolRun, ...]:
        """Calls of learned functions."""
        return tuple(each for each in self.executed if each.name != PYTHON)

    def used(self, name: str, *, without_error: bool = False) -> bool:
        """Whether the learned function ``name`` was called, directly or from code that ran.

        ``without_error``: count only calls and blocks that succeeded. Code that defines this name itself calls its own.
        """
        word = re.escape(name)
        called = re.compile(rf"\b{word}\s*\(")
        own = re.compile(rf"\b(?:def|class)[ \t]+{word}\b|^[ \t]*{word}[ \t]*=(?!=)", re.MULTILINE)
        return any(
            each.name == name or (each.name == PYTHON and called.search(code) and not own.search(code))
            for each in self.executed
            if each.ok or not without_error
            for code in (str(each.arguments.get("code", "")),)
        )

    def graded(self, grade: Grade) -> Trajectory:
        """The rollout that this attempt becomes with ``grade``."""
        return Trajectory(**{name: getattr(self, name) for name in Attempt.model_fields}, grade=grade)


class Trajectory(Attempt):
    """A rollout: an attempt with its grade."""

    grade: Grade
    copied: bool = False
    """Whether it was made with another set, of which the problem saw the same."""

    @property
    def spent(self) -> Usage:
        """Its tokens; none for a copy, which was paid for once."""
        return Usage() if self.copied else self.usage

    def with_set(self, functions: FunctionSet, offered: tuple[str, ...] | None) -> Trajectory:
        """The same rollout with another set, of which its problem sees the same."""
        return self.model_copy(update={"functions": functions.fingerprint, "offered": offered, "copied": True})

    @property
    def correct(self) -> bool:
        """Whether the answer was graded right."""
        return self.grade.correct


def function_use(name: str, trajectories: Sequence[Trajectory]) -> dict[str, int]:
    """How often the function ``name`` was called and helped.

    ``calls``; ``ok``: calls without error; ``problems``: rollouts that used it, from code too; ``only_in_code``: those
    of them without a direct call; ``solved``: those that were graded right.
    """
    calls = [call for each in trajectories for call in each.calls if call.name == name]
    users = [each for each in trajectories if each.used(name)]
    return {
        "calls": len(calls),
        "ok": sum(call.ok for call in calls),
        "problems": len(users),
        "only_in_code": sum(all(call.name != name for call in each.calls) for each in users),
        "solved": sum(each.correct for each in users),
    }


def sum_usage(trajectories: Sequence[Trajectory]) -> Usage:
    """Tokens of all trajectories."""
    return sum((each.usage for each in trajectories), Usage())


def used_functions(functions: FunctionSet, trajectories: Sequence[Trajectory]) -> FunctionSet:
    """Only the functions that were called without error at least once in ``trajectories``, including from code."""
    names = (name for name in functions.names if any(each.used(name, without_error=True) for each in trajectories))
    return functions.keeping(frozenset(names))


def accuracy(trajectories: Sequence[Trajectory]) -> float:
    """The share of correct answers, 0 to 1; 0 for no trajectories."""
    return sum(each.correct for each in trajectories) / len(trajectories) if trajectories else 0.0


def mean_reward(trajectories: Sequence[Trajectory]) -> float:
    """The mean reward, 0 to 1; equal to the accuracy where grades are right or wrong; 0 for no trajectories."""
    if not trajectories:
        return 0.0
    return sum(each.grade.reward for each in trajectories) / len(trajectories)
