"""Rollouts, functions and failed updates in words for the optimizer, each within its budget of tokens.

Near misses are the most informative: failed rollouts in which a learned function was called. Of an update that did not
help, its code says most, if it is about the kind of problem at hand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from agentopt_local.errors import FunctionError
from agentopt_local.evidence import CHARS_PER_TOKEN, Evidence, cut
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.memorising import answer_sign, literals, plain
from agentopt_local.problem import Problem
from agentopt_local.train_state import FailedUpdate
from agentopt_local.trajectory import PYTHON, Trajectory

REASON_CHARS = 200
ERROR_CHARS = 120
QUESTION_CHARS = 80
QUESTIONS = 2
"""Questions that are shown of the problems that an update fixed, and of those that it broke."""
_QUOTED = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\s*(?=[;,(]|$)"
_BARE = r"[^\s'\";,()]+\s*(?=[;(]|$)"
_REPEATED = re.compile(rf"(?:answered|expected(?: exactly)?) (?:{_QUOTED}|{_BARE})")
"""What a grader's reason says of the answers, which are shown anyway."""
_NOTHING_MORE = frozenset({"", "correct", "right", "wrong", "incorrect", "no answer was given"})


def transcripts_text(attempts: Sequence[Evidence], max_tokens: int) -> str:
    """The rollouts in words; they share a budget of about ``max_tokens`` tokens evenly."""
    share = max_tokens * CHARS_PER_TOKEN // max(1, len(attempts))
    return "\n\n".join(transcript_text(i + 1, each, share) for i, each in enumerate(attempts))


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
    told = "" if trajectory.correct else remark(trajectory.grade)
    head = f"## Problem {number}\n{cut(problem.question, max_chars // 2)}"
    ending = [
        f"The agent answered: {cut(trajectory.answer, max_chars // 6) if trajectory.answer is not None else 'nothing'}"
        f" ({'right' if trajectory.correct else 'wrong'})",
        f"Expected answer: {cut(problem.answer, max_chars // 6)}",
        *([f"Reason: {cut(told, min(REASON_CHARS, max_chars // 6))}"] if told else []),
    ]
    tail = "\n".join(ending)
    room = max(0, max_chars - len(head) - len(tail) - 2)
    middle = cut("\n".join(did), room)
    return "\n".join(part for part in (head, middle, tail) if part)


def remark(grade: Grade) -> str:
    """What a grader's reason says besides the answer, the expected one and that they differ; empty if nothing."""
    text = _REPEATED.sub("", grade.reason[: 4 * REASON_CHARS])
    text = text.removeprefix("no answer was given:").strip(" ;,:")
    inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return "" if inner.casefold() in _NOTHING_MORE else inner


def functions_text(functions: FunctionSet, attempts: Sequence[Evidence], max_tokens: int) -> str:
    """The functions and how they performed in ``attempts``; sources beyond the budget are omitted."""
    if not functions.functions:
        return "There are none yet."
    parts, left = [], max_tokens * CHARS_PER_TOKEN
    rollouts = [each.trajectory for each in attempts]
    for function in functions.each():
        stats = f"`{function.signature}`: {use_text(function.name, rollouts)}"
        body = f"```python\n{function.source}```"
        parts.append(f"{stats}\n{body}" if len(body) <= left else stats)
        left -= len(parts[-1])
    return "\n".join(parts)


def use_text(name: str, rollouts: Sequence[Trajectory]) -> str:
    """How a function fared where it was called directly, and where only code used it."""
    calls = [call for each in rollouts for call in each.calls if call.name == name]
    direct = [each for each in rollouts if any(call.name == name for call in each.calls)]
    coded = [each for each in rollouts if each.used(name) and each not in direct]
    if not direct and not coded:
        return "not used in any rollout."
    told = "never called directly"
    if direct:
        told = f"called directly in {plural(len(direct), 'rollout')}, {sum(each.correct for each in direct)} solved"
    if coded:
        more = " more" if direct else ""
        told += f"; used by code in {len(coded)}{more}, {sum(each.correct for each in coded)} solved"
    # a call that failed shows its error, and where it was raised on further lines
    errors = Counter(call.result.partition("\n")[0].removeprefix("Error: ") for call in calls if not call.ok)
    if errors:
        often = cut(errors.most_common(1)[0][0], ERROR_CHARS)
        told += f"; {errors.total()} of {plural(len(calls), 'call')} failed, most often: {often}"
    return f"{told}."


def plural(n: int, noun: str) -> str:
    """``1 call``, ``2 calls``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def failures_text(
    failures: Sequence[FailedUpdate],
    max_tokens: int,
    rollouts: Sequence[Evidence] = (),
    evidence: Sequence[Evidence] = (),
) -> str:
    """The updates that did not help, as many as fit the budget, with the problems that they fixed and broke.

    ``rollouts``: of the step, from which questions are taken; ``evidence``: what the author of the edit is shown. The
    updates for its kinds come first, with their code where that fits as a whole; among the others the worst come first,
    and the latest are the last to be left out. Answers are never shown: code that holds some is withheld.
    """
    problems = {each.problem.id: each.problem for each in rollouts}
    kinds = {each.problem.kind for each in evidence}
    ranked = sorted(failures, key=lambda each: (not is_about(each, kinds, problems), -each.step))
    rows, left, known = [], max_tokens * CHARS_PER_TOKEN, set[str]()
    for failed in ranked:
        near = is_about(failed, kinds, problems)
        row = failure_row(failed, problems)
        if len(row) > left:
            break
        left -= len(row)
        code = code_text(failed, problems, {each.problem.id for each in evidence}) if near else ""
        if 0 < len(code) <= left and code not in known:
            known.add(code)
            row += code
            left -= len(code)
        rows.append((not near, failed.accuracy - failed.accuracy_before, row))
    if not rows:
        return ""
    lines = [row for _, _, row in sorted(rows, key=lambda each: each[:2])]
    return "\n# Updates that did not help\nDo not propose them again.\n" + "\n".join(lines) + "\n"


def is_about(failed: FailedUpdate, kinds: Collection[str], problems: dict[str, Problem]) -> bool:
    """Whether an update's authors were shown problems of these kinds; True where no kind is known."""
    of = {problems[each].kind for each in failed.shown if each in problems}
    return not of or not kinds or not of.isdisjoint(kinds)


def failure_row(failed: FailedUpdate, problems: dict[str, Problem]) -> str:
    """An update with its scores and the problems that it fixed and broke."""
    too_little = ", too little to be more than chance" if failed.accuracy > failed.accuracy_before else ""
    row = (
        f"- {'; '.join(failed.actions)}: accuracy went from "
        f"{failed.accuracy_before:.2f} to {failed.accuracy:.2f}{too_little}, so it was undone."
    )
    for verb, ids in (("fixed", failed.fixed), ("broke", failed.broke)):
        if ids:
            asked = [problems[each].question for each in ids if each in problems][:QUESTIONS]
            quoted = ", ".join(repr(cut(" ".join(each.split()), QUESTION_CHARS)) for each in asked)
            row += f" It {verb} {plural(len(ids), 'problem')}"
            row += f"{', such as' if len(ids) > len(asked) else ':'} {quoted}." if quoted else "."
    return row


def code_text(failed: FailedUpdate, problems: dict[str, Problem], shown: Collection[str]) -> str:
    """The sources that an update wrote, whole.

    Empty if something in them looks like answers of problems that the update's authors were shown and the author of the
    next one is not: acceptance takes it that this author does not know those.
    """
    names = [each.partition(" ")[2] for each in failed.actions if not each.startswith("remove")]
    sources = [function for name in names if (function := written(failed, name)) is not None]
    for function in sources:
        kinds = {problems[each].kind for each in failed.shown if each in problems}
        told = [problems[each] for each in failed.shown if each in problems and each not in shown]
        others = [each for each in problems.values() if each.kind in kinds and each.id not in failed.shown]
        texts = {*literals(function), plain(function.source)}  # its docstring and comments can name answers too
        if answer_sign(texts, told, others)[0] is not None:
            return ""
    return "".join(f"\n```python\n{function.source}```" for function in sources)


def written(failed: FailedUpdate, name: str) -> Function | None:
    """The function ``name`` of a failed update; None where a later edit of it took the function away."""
    try:
        return failed.functions.get(name) if name else None
    except FunctionError:
        return None
