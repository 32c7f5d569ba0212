"""What an agent is trained on: problems, their splits, and the task that grades answers.

The split of a problem is a hash of its question's content, so it depends on nothing else: not on the seed,
not on how many problems are asked for, not on the other splits. Two splits can therefore never share a problem.
"""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record

if TYPE_CHECKING:
    from agentopt_local.grading import Grade
    from agentopt_local.sandbox.base import Sandbox

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

SPLIT_PERCENT: dict[Split, int] = {"train": 60, "validation": 20, "test": 20}
"""Share of all possible questions that each split owns, in percent."""

TASK_KINDS = {
    "reasoning_gym": "reasoning_gym:NAME[,NAME...]",
    "jsonl": "jsonl:PATH",
    "math": "math:PATH",
    "tabmwp": "tabmwp:PATH",
    "gaia": "gaia:PATH",
    "gsm8k": "gsm8k:PATH",
}
"""The known prefixes of a task's spec, each with the spec's form."""


class Problem(Record):
    """One question with its expected answer."""

    id: str
    """Short, readable, unique within the task, and the same in every run: ``prime_factorization-3fa9c1d2``."""
    question: str
    answer: str
    """An answer that the grader gives reward 1. Others may be right too."""
    kind: str = ""
    """Sub-type, such as the reasoning_gym data set. Groups failures."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """What the grader needs beside the answer; JSON only."""


class Task(Protocol):
    """A source of problems that knows how to grade an answer to each."""

    name: str
    """The spec that :func:`load_task` was given."""
    preload: tuple[str, ...]
    """Modules that the grader needs in the sandbox; open the sandbox with them."""

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``. A larger ``n`` extends a smaller one's problems.

        Raises :class:`~agentopt_local.errors.ConfigError` if there are fewer than ``n``.
        """
        ...

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Judge ``answer``; None means that the agent gave none.

        Raises :class:`~agentopt_local.errors.SandboxError` if the machine cannot judge, and
        :class:`~agentopt_local.errors.ConfigError` if a grader of the user's fails.
        """
        ...


def load_task(spec: str, *, seed: int = 0, settings: dict[str, Any] | None = None) -> Task:
    """The task that ``spec`` names; ``TASK_KINDS`` has the forms.

    ``seed`` decides which problems are generated (reasoning_gym) or their order (all others). ``settings`` are the
    options of each data set of reasoning_gym, ``{NAME: {option: value}}``, or those of the task.

    Raises :class:`~agentopt_local.errors.ConfigError` for a spec, name, option or file that is wrong.
    """
    prefix, colon, rest = spec.partition(":")
    if prefix not in TASK_KINDS or not colon or not rest.strip():
        forms = " or ".join(TASK_KINDS.values())
        hint = "" if prefix in TASK_KINDS else did_you_mean(prefix, TASK_KINDS)
        raise ConfigError(f"task {spec!r} is not known{hint}. Write it as {forms}")
    if prefix == "jsonl":
        from agentopt_local.tasks.jsonl import JsonlTask

        return JsonlTask(rest.strip(), seed=seed, settings=settings or {})
    if prefix in ("math", "tabmwp", "gaia", "gsm8k"):
        return _benchmark(prefix)(rest.strip(), seed=seed, settings=settings)
    from agentopt_local.tasks.reasoning_gym import ReasoningGymTask

    return ReasoningGymTask(rest, seed=seed, settings=settings or {})


def _benchmark(prefix: str) -> Callable[..., Task]:
    """The class of a benchmark's task."""
    if prefix == "math":
        from agentopt_local.tasks.math import MathTask

        return MathTask
    if prefix == "tabmwp":
        from agentopt_local.tasks.tabmwp import TabmwpTask

        return TabmwpTask
    if prefix == "gaia":
        from agentopt_local.tasks.gaia import GaiaTask

        return GaiaTask
    from agentopt_local.tasks.gsm8k import Gsm8kTask

    return Gsm8kTask


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name nearest to ``name``, or an empty string if none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def content_key(question: str) -> str:
    """The identity of a question: 64 hex digits, equal for questions that differ only in case or white space."""
    normalized = " ".join(unicodedata.normalize("NFKC", question).casefold().split())
    return hashlib.sha256(normalized.encode("utf-8", "surrogatepass")).hexdigest()


def split_of(key: str) -> Split:
    """The split that owns the question with this :func:`content_key`."""
    # The first 32 bits are also what an id shows, so two problems with one id can never be in two splits.
    percentile = int(key[:8], 16) % 100
    for split in SPLITS:
        percentile -= SPLIT_PERCENT[split]
        if percentile < 0:
            return split
    raise AssertionError("the percentages of the splits do not add up to 100")


def round_robin(streams: Iterable[Iterator[Problem]]) -> Iterator[Problem]:
    """One problem of each stream in turn; a stream that has ended is passed over."""
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


def check_request(split: str, n: int) -> None:
    """Raise ``ConfigError`` unless ``split`` is known and ``n`` is a count."""
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is not known{did_you_mean(split, SPLITS)}. Use one of: {', '.join(SPLITS)}")
    if n < 0:
        raise ConfigError(f"n = {n} problems of split {split!r} were asked for; use 0 or more")
