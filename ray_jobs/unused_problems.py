"""The problems of a certificate: validation problems that played no part in a training, as many as the task has."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from agentopt_local.certificate import gains_needed
from agentopt_local.errors import ConfigError, outcome
from agentopt_local.problem import Problem, Split, content_key
from agentopt_local.run.rows import ProblemRow
from agentopt_local.seeds import derive
from agentopt_local.tasks.base import Task
from ray_jobs.config import RunConfig
from ray_jobs.evaluation_config import N_ELSEWHERE, N_ON_GPU

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """The validation problems that may be used."""

    problems: tuple[Problem, ...]
    missing: str = ""
    """Why there are no more."""


def validation_cap(config: RunConfig, device: str) -> int:
    """The most problems that a certificate may use; 0 if none is wanted. ``device``: where the agent's model runs."""
    n = config.evaluation.n_validation
    return n if n != "auto" else N_ON_GPU if device == "gpu" else N_ELSEWHERE


def used_in_training(config: RunConfig, task: Task) -> frozenset[str]:
    """:func:`marks` of the run's training and test problems."""
    used = (*task.problems("train", config.task.n_train), *task.problems("test", config.task.n_test))
    return frozenset(mark for each in used for mark in marks(each))


def marks(problem: Problem | ProblemRow) -> tuple[str, str]:
    """By what a problem is known again: its content, and its id, which names its rollouts."""
    return content_key(problem.question), f"id {problem.id}"


def validation_problems(task: Task, n: int, excluded: frozenset[str]) -> Pool:
    """The first ``n`` validation problems that are not ``excluded``, or as many as the task has."""
    wanted = n
    while True:
        found, missing = as_many_as_there_are(task, wanted)
        usable = tuple(each for each in found if excluded.isdisjoint(marks(each)))
        if len(usable) >= n:
            return Pool(usable[:n])
        if len(found) < wanted:
            hidden = len(found) - len(usable)
            also = f"{hidden} were used before, to train, to test or to choose between sets; " if hidden else ""
            return Pool(usable, also + missing)
        wanted += n - len(usable)


def as_many_as_there_are(task: Task, n: int, split: Split = "validation") -> tuple[tuple[Problem, ...], str]:
    """At most ``n`` problems of ``split`` and, if there are fewer, why, in words that name no file of this machine.

    Tasks promise to raise ConfigError for more problems than they have. One given in Python may raise anything.
    """
    best: tuple[Problem, ...] = ()
    low, high, ask, said = 0, n, n, ""
    while low < high:
        found, error = outcome(partial(task.problems, split, ask))
        if found is not None:
            best, low = found, ask
        else:
            log.info("%d %s problems: %s: %s", ask, split, type(error).__name__, error)
            said = "the task has no more" if isinstance(error, ConfigError) else f"it raised {type(error).__name__}"
            high = ask - 1
        ask = (low + high + 1) // 2
    return best, said


def in_order(problems: Sequence[Problem], earlier: Sequence[str], seed: int) -> list[Problem]:
    """The order in which problems count: that of ``earlier`` ids, then the others shuffled."""
    by_id = {each.id: each for each in problems}
    first = [by_id.pop(each) for each in earlier if each in by_id]
    rest = list(by_id.values())
    random.Random(derive(seed, "certificate", len(first))).shuffle(rest)
    return [*first, *rest]


def too_few(pool: Pool, n: int, level: float) -> str:
    """Why there is no certificate at ``level``, if the problems in ``pool`` do not suffice for one; else empty."""
    found, wanted = len(pool.problems), gains_needed(level)
    if found >= wanted:
        return ""
    counted = f"{found or 'no'} validation problem{'' if found == 1 else 's'}"
    cause = pool.missing or f"{n} were allowed by evaluation.n_validation or --n"
    return f"{counted}, and a certificate needs at least {wanted} ({cause})"
