"""The test problems of a run are fixed when it starts, and every look at them is written down.

A test result is a fair estimate once. Whoever evaluates set after set on the same problems and keeps the best picks up
chance, so each evaluation of another set, or on more problems, is a look with a number. Problems may be added behind
the known ones; those that are known must stay as they were.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.errors import ConfigError
from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.run import files
from agentopt_local.run.parsing import text_in, validated
from agentopt_local.run.reader import (
    read_config,
    read_functions,
    read_problems,
    read_report,
    read_rollouts,
)
from agentopt_local.run.rows import LookRow, ProblemRow
from agentopt_local.stage import Stage
from agentopt_local.statistics import PairedDifference


class LockedTest(Record):
    """The test problems that a run has been or will be evaluated on."""

    n: int
    sha256: str
    """Of all ids, questions and answers, in order."""
    problems: tuple[tuple[str, str], ...]
    """The id of each problem, and a hash of its question and answer."""

    @classmethod
    def of(cls, problems: Sequence[Problem | ProblemRow]) -> LockedTest:
        """The lock of ``problems``."""
        rows = tuple((each.id, digest([each.question, each.answer])[:16]) for each in problems)
        return cls(n=len(rows), sha256=digest(rows), problems=rows)

    def first(self, n: int) -> str:
        """The hash of the first ``n`` problems."""
        return digest(self.problems[:n])


def digest(value: object) -> str:
    """SHA-256 of a JSON value, in hex."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode("ascii")).hexdigest()


def read_lock(run: Path) -> LockedTest | None:
    """The lock of the test problems in ``run``; None before its start. Older runs have the problems themselves."""
    path = run / files.TEST_SET
    value = files.read_json(path)
    if value is not None:
        return validated(LockedTest, value, str(path), extra="ignore")
    rows = [each for each in read_problems(run) if each.split == "test"]
    return LockedTest.of(rows) if rows else None


def check_locked(run: Path, problems: Sequence[Problem]) -> LockedTest:
    """The lock of ``run`` with ``problems``, which may be fewer or more than it has.

    Raises ConfigError that names the first one that is not what it was.
    """
    lock, now = read_lock(run), LockedTest.of(problems)
    if lock is None:
        return now
    wrong = [index for index, (old, new) in enumerate(zip(lock.problems, now.problems, strict=False)) if old != new]
    if wrong:
        spec = text_in(read_config(run), "task", "spec")
        old_id, problem = lock.problems[wrong[0]][0], problems[wrong[0]]
        raise ConfigError(
            f"{run / files.TEST_SET}: the test problems of {spec} have changed since the run began: {len(wrong)} of "
            f"{min(lock.n, now.n)} differ, the first is number {wrong[0] + 1}, {change(run, old_id, problem)}. Restore "
            "the data and the task's settings, or start a new run: results on other problems cannot be compared"
        )
    return now if now.n > lock.n else lock


def change(run: Path, old_id: str, problem: Problem) -> str:
    """What differs between the problem that was at a place and the one that is there now."""
    if old_id != problem.id:
        return f"which was {old_id!r} and is now {problem.id!r}"
    old = next((each for each in read_problems(run) if each.id == old_id), None)
    if old is None or old.question != problem.question:
        return f"{old_id!r}, whose question is not the same"
    return f"{old_id!r}, whose answer was {shortened(old.answer)} and is now {shortened(problem.answer)}"


def shortened(text: str) -> str:
    """A text as an error quotes it."""
    return repr(text if len(text) <= 60 else text[:59] + "…")


def earlier_look(run: Path) -> list[LookRow]:
    """The look that a run of an older version had, which its report shows; none if it was not evaluated."""
    report = read_report(run)
    if report is None or report.test is None or not report.test.n or report.test.look is not None:
        return []
    after = [row.trajectory.functions for row in read_rollouts(run) if row.stage == Stage(split="test", part="after")]
    functions = after[-1] if after else read_functions(run).fingerprint
    change = report.test.difference
    return [LookRow(look=1, functions=functions, n=report.test.n, points=change.points, p_value=change.p_value)]


def next_look(looks: Sequence[LookRow], functions: str, change: PairedDifference, purpose: str) -> tuple[LookRow, bool]:
    """The look that an evaluation of the set ``functions`` is, and whether it is new.

    The same set on the same number of problems shows nothing new.
    """
    for look in looks:
        if (look.functions, look.n) == (functions, change.n):
            return look, False
    row = LookRow(
        look=len(looks) + 1,
        functions=functions,
        n=change.n,
        points=round(change.points, 2),
        p_value=change.p_value,
        purpose=purpose,
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    return row, True
