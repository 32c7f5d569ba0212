"""Problems and the split each one belongs to.

A problem's split is a hash of its question's content and of nothing else: not the seed, not the number of problems
requested, not the other splits. Two splits can therefore never share a problem.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Literal

from pydantic import Field

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record
from agentopt_local.spelling import did_you_mean
from agentopt_local.unicode_form import normal_form

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

SPLIT_PERCENT: dict[Split, int] = {"train": 60, "validation": 20, "test": 20}
"""Percentage of all possible questions in each split."""


class Problem(Record):
    """One question with its expected answer."""

    id: str
    """Short, readable, unique within the task, and the same in every run: ``prime_factorization-3fa9c1d2``."""
    question: str
    answer: str
    """An answer that the grader gives reward 1; others may be right too."""
    kind: str = ""
    """A category within the task, such as the reasoning_gym data set. Failures are grouped by it."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """What the grader needs besides the answer; JSON values only."""
    narrow: bool = False
    """Whether one method solves all problems of its kind, as in a generated data set. Failures of such a kind are not
    grouped any further."""


def content_key(question: str) -> str:
    """The identity of a question: 64 hex digits, equal for questions that differ only in case or white space."""
    normalized = " ".join(normal_form("NFKC", question).casefold().split())
    return hashlib.sha256(normalized.encode("utf-8", "surrogatepass")).hexdigest()


def split_of(key: str) -> Split:
    """The split of the question with this :func:`content_key`."""
    # Only the first 32 bits count. An id shows the same bits, so two problems with one id are always in one split.
    percentile = int(key[:8], 16) % 100
    for split in SPLITS:
        percentile -= SPLIT_PERCENT[split]
        if percentile < 0:
            return split
    raise AssertionError("the percentages of the splits do not add up to 100")


def round_robin(streams: Iterable[Iterator[Problem]]) -> Iterator[Problem]:
    """One problem from each stream in turn; exhausted streams are skipped."""
    active = list(streams)
    while active:
        ended = []
        for stream in active:
            problem = next(stream, None)
            if problem is None:
                ended.append(stream)
            else:
                yield problem
        active = [stream for stream in active if stream not in ended]


def alternating(problems: Iterable[Problem], n: int) -> tuple[Problem, ...]:
    """The first ``n`` problems, taken from their kinds in turn; each kind keeps its order."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    return tuple(islice(round_robin(iter(kinds[kind]) for kind in sorted(kinds)), n))


def check_request(split: str, n: int) -> None:
    """Raise ``ConfigError`` unless ``split`` is a known split and ``n`` is not negative."""
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is not known{did_you_mean(split, SPLITS)}. Use one of: {', '.join(SPLITS)}")
    if n < 0:
        raise ConfigError(f"n = {n} problems of split {split!r} were requested; use 0 or more")
