"""What the optimizer is shown: the most informative rollouts, within a token budget.

Near misses are the most informative: failed rollouts in which a learned function was called. The other failures come
next. Failures on one kind of problem are shown together, because one function may fix them all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.train_state import FailedUpdate
from agentopt_local.trajectory import PYTHON, Trajectory, function_use

CHARS_PER_TOKEN = 3
"""A conservative estimate: English and code have about four characters per token, digits fewer."""


class Evidence(Record):
    """A problem and one rollout on it."""

    problem: Problem
    trajectory: Trajectory


def focus_groups(attempts: Sequence[Evidence]) -> list[list[Evidence]]:
    """The failures by kind of problem: the kind with the most failures first, and within a kind near misses first."""
    groups: dict[str, list[Evidence]] = {}
    for each in attempts:
        if not each.trajectory.correct:
            groups.setdefault(each.problem.kind, []).append(each)
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    return [sorted(group, key=lambda each: not each.trajectory.calls) for group in ordered]


def pick(group: Sequence[Evidence], n: int, seed: int) -> tuple[Evidence, ...]:
    """``n`` rollouts of a group, drawn by ``seed``, with near misses in front."""
    order = random.Random(seed).sample(range(len(group)), len(group))
    order.sort(key=lambda index: not group[index].trajectory.calls)
    return tuple(group[index] for index in order[:n])


def transcript_text(number: int, attempt: Evidence, max_chars: int) -> str:
    """One rollout in words, at most ``max_chars`` characters."""
    problem, trajectory = attempt.problem, attempt.trajectory
    did = []
    for each in trajectory.executed:
        code = each.arguments.get("code")
        if each.name == PYTHON and isinstance(code, str):  # a model may also call a function of this name
            did.append(f"The agent ran:\n{code.strip()}\nwhich printed: {each.result}")
        else:
            arguments = ", ".join(f"{key}={value!r}" for key, value in each.arguments.items())
            did.append(f"The agent called {each.name}({arguments})\nwhich returned: {each.result}")
    reason = "" if trajectory.correct else trajectory.grade.reason
    ending = [
        f"The agent answered: {cut(trajectory.answer, max_chars // 6) if trajectory.answer is not None else 'nothing'}"
        f" ({'right' if trajectory.correct else 'wrong'})",
        f"Expected answer: {cut(problem.answer, max_chars // 6)}",
    ]
    head = f"## Problem {number}\n{cut(problem.question, max_chars // 2)}"
    tail = "\n".join(ending + ([f"Reason: {cut(reason, 200)}"] if reason and trajectory.answer is None else []))
    room = max(0, max_chars - len(head) - len(tail) - 2)
    middle = cut("\n".join(did), room)
    return "\n".join(part for part in (head, middle, tail) if part)


def cut(text: str, max_chars: int) -> str:
    """``text``, with its middle cut out if it is longer than ``max_chars``."""
    if len(text) <= max_chars:
        return text
    if max_chars < 40:
        return ""
    half = (max_chars - 10) // 2
    return f"{text[:half]} [...] {text[-half:]}"


def transcripts_text(attempts: Sequence[Evidence], max_tokens: int) -> str:
    """The rollouts in words; they share a budget of about ``max_tokens`` tokens evenly."""
    share = max_tokens * CHARS_PER_TOKEN // max(1, len(attempts))
    return "\n\n".join(transcript_text(i + 1, each, share) for i, each in enumerate(attempts))


def functions_text(functions: FunctionSet, attempts: Sequence[Evidence], max_tokens: int) -> str:
    """The functions and how they performed in ``attempts``; sources beyond the budget are omitted."""
    if not functions.functions:
        return "There are none yet."
    parts, left = [], max_tokens * CHARS_PER_TOKEN
    for function in functions.each():
        use = function_use(function.name, [each.trajectory for each in attempts])
        stats = (
            f"`{function.signature}`: called {use['calls']} times, {use['ok']} without error; "
            f"{use['solved']} of {use['problems']} problems that used it were solved."
        )
        body = f"```python\n{function.source}```"
        parts.append(f"{stats}\n{body}" if len(body) <= left else stats)
        left -= len(parts[-1])
    return "\n".join(parts)


def failures_text(failures: Sequence[FailedUpdate], max_tokens: int) -> str:
    """The latest updates that did not help, as many as fit the budget, worst first."""
    rows, left = [], max_tokens * CHARS_PER_TOKEN
    for failed in reversed(failures):
        too_little = ", too little to be more than chance" if failed.accuracy > failed.accuracy_before else ""
        row = (
            f"- {'; '.join(failed.actions)}: accuracy went from "
            f"{failed.accuracy_before:.2f} to {failed.accuracy:.2f}{too_little}, so it was undone."
        )
        if len(row) > left:
            break
        rows.append((failed.accuracy, row))
        left -= len(row)
    if not rows:
        return ""
    lines = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    return "\n# Updates that did not help\n" + "\n".join(lines) + "\n"
