"""What a rollout leaves: every turn, every execution, the answer, its grade, and why it ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from agentopt_local.chat import Message, Usage
from agentopt_local.grading import Grade
from agentopt_local.record import Record

StopReason = Literal["answer", "max_turns", "max_tokens", "context", "no_action"]
"""``answer``: the agent answered · ``max_turns``, ``max_tokens``: a budget was used up · ``context``: the
conversation outgrew the model's context · ``no_action``: a turn held neither call, code nor answer, twice."""


class Executed(Record):
    """One function call or interpreter block that the agent made."""

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
    executed: tuple[Executed, ...] = ()
    observations: tuple[Message, ...] = ()
    """What the agent was told; empty after the answer."""


class Trajectory(Record):
    """One attempt at one problem. A bad one is data, never an exception."""

    problem_id: str
    functions: str
    """Fingerprint of the function set."""
    seed: int
    steps: tuple[Step, ...]
    answer: str | None
    stop_reason: StopReason
    usage: Usage
    wall_s: float
    context_tokens: int = 0
    """Prompt and reply of its last request: what it held of a KV cache at its end; 0 where no tokens were counted."""
    grade: Grade | None = None
    """Set by the rollout, once the task has judged the answer."""

    @property
    def correct(self) -> bool:
        """Whether the answer was graded right."""
        return self.grade is not None and self.grade.correct

    @property
    def executed(self) -> tuple[Executed, ...]:
        """All executions in order."""
        return tuple(each for step in self.steps for each in step.executed)

    @property
    def calls(self) -> tuple[Executed, ...]:
        """Executions of learned functions."""
        return tuple(each for each in self.executed if each.name != "python")

    def used(self, name: str, *, without_error: bool = False) -> bool:
        """Whether a learned function was called, directly or by code that ran; perhaps only where that went well."""
        in_code = re.compile(rf"(?<!def )\b{re.escape(name)}\s*\(")
        return any(
            each.name == name or (each.name == "python" and in_code.search(str(each.arguments.get("code", ""))))
            for each in self.executed
            if each.ok or not without_error
        )


def function_use(name: str, trajectories: Sequence[Trajectory]) -> dict[str, int]:
    """Calls, calls without error, attempts that used the function (in code too), and of these the solved ones."""
    calls = [call for each in trajectories for call in each.calls if call.name == name]
    users = [each for each in trajectories if each.used(name)]
    return {
        "calls": len(calls),
        "ok": sum(call.ok for call in calls),
        "problems": len(users),
        "solved": sum(each.correct for each in users),
    }
