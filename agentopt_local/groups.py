"""Which failures are shown together: those of one kind of problem, and within a broad kind those that are alike.

All failures of a generated data set need one method. Those of a subject such as number theory do not, so three of them
drawn at random need have nothing in common that a function could do.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from agentopt_local.evidence import Evidence
from agentopt_local.likeness import groups, operations, terms
from agentopt_local.trajectory import PYTHON

MOST = 1000
"""Failures of a kind up to which they are compared: memory grows with the square of their number."""
_SENTENCES = re.compile(r"\n|(?<=[.?!:])\s+")


class Group(NamedTuple):
    """Failures that are shown together."""

    kind: str
    name: str
    """``Number Theory: remainder, divided``: the kind and what is special to this part of it; empty if it is whole."""
    attempts: tuple[Evidence, ...]
    """Near misses first: rollouts that called a function."""


def focus_groups(attempts: Sequence[Evidence], least: int | None = None) -> list[Group]:
    """The failures by kind of problem, the kind with the most failures first.

    ``least``: with it a kind whose problems are not ``narrow`` is split into groups of at least so many failures that
    are alike, and the rest of them. The first groups of all kinds then come before the second ones: a step has few
    edits, and every kind should get one.
    """
    kinds: dict[str, list[Evidence]] = {}
    for each in attempts:
        if not each.trajectory.correct:
            kinds.setdefault(each.problem.kind, []).append(each)
    ordered = sorted(kinds.items(), key=lambda pair: -len(pair[1]))
    parts = [alike(kind, failed, least) for kind, failed in ordered]
    return [group for row in zip_longest(*parts) for group in row if group is not None]


def alike(kind: str, failed: Sequence[Evidence], least: int | None) -> list[Group]:
    """The failures of a kind in groups, the largest first and the rest last; one group if they are not to be split."""
    if least is None or len(failed) > MOST or any(each.problem.narrow for each in failed):
        return [Group(kind, "", near_misses_first(failed))]
    questions = without_frame([each.problem.question for each in failed])
    ran = [" ".join(map(operations, programs(each))).replace("print", "") for each in failed]  # nearly all print
    found, rest = groups([f"{asked}\n{used}" for asked, used in zip(questions, ran, strict=True)], least)
    if len(found) + bool(rest) == 1:
        return [Group(kind, "", near_misses_first(failed))]
    named = []
    for members in [*found, *([rest] if rest else [])]:
        others = [text for index, text in enumerate(questions) if index not in members]
        words = () if members == rest else terms([questions[index] for index in members], others)
        name = ": ".join(part for part in (kind, ", ".join(words) or "others") if part)
        named.append(Group(kind, name, near_misses_first([failed[index] for index in members])))
    return named


def near_misses_first(attempts: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """The rollouts that called a function before the others."""
    return tuple(sorted(attempts, key=lambda each: not each.trajectory.calls))


def without_frame(questions: Sequence[str]) -> list[str]:
    """The questions without the sentences that most of them share, such as how the answer is to be written."""
    split = [[part.strip() for part in _SENTENCES.split(each)] for each in questions]
    common = Counter(part for parts in split for part in set(parts))
    return ["\n".join(part for part in parts if 2 * common[part] <= len(questions)) for parts in split]


def programs(attempt: Evidence) -> list[str]:
    """The code that the agent ran."""
    ran = (each.arguments.get("code") for each in attempt.trajectory.executed if each.name == PYTHON)
    return [code for code in ran if isinstance(code, str)]


def some_of(attempts: Sequence[Evidence], n: int, seed: int, *, hold_back: bool) -> tuple[Evidence, ...]:
    """At most ``n`` rollouts of a group; with ``hold_back`` at most half of them, but one if there is one."""
    return pick(attempts, min(n, max(1, len(attempts) // 2)) if hold_back else n, seed)


def pick(attempts: Sequence[Evidence], n: int, seed: int) -> tuple[Evidence, ...]:
    """``n`` rollouts of a group, drawn by ``seed``, with near misses in front."""
    order = random.Random(seed).sample(range(len(attempts)), len(attempts))
    order.sort(key=lambda index: not attempts[index].trajectory.calls)
    return tuple(attempts[index] for index in order[:n])
