"""Problems on which a run's functions can be judged fairly, and what on them looks memorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.memorising import memorising
from agentopt_local.origins import Origin, origins
from agentopt_local.problem import Problem, Split
from agentopt_local.run.contribution import Memorising
from agentopt_local.tasks.base import Task
from ray_jobs.session import Session

PROBLEMS = 60
"""Problems that are rolled out if none are asked for, or as many as the training has, if that is more; and validation
problems whose answers a function's literals are compared with."""


def fair_problems(
    session: Session, known: Mapping[str, Origin], split: Split | None, n: int | None
) -> dict[Split, tuple[Problem, ...]]:
    """At most ``n`` problems that some function's edits were not shown, by split; never test problems.

    About half are training problems, which cost least because the set has been rolled out on them. The others are
    validation problems after those that a certificate is based on, which pruning must not choose by; where the task has
    too few, further training problems. ``split``: only of this one.
    """
    task, config = session.task, session.config
    n = max(PROBLEMS, config.task.n_train) if n is None else n
    trained = [each for each in task.problems("train", config.task.n_train) if fair(each, known)]
    certified = kept_for_certificate(session)
    validated = () if split == "train" else as_many(task, "validation", certified + n)[certified:]
    n_trained = 0 if split == "validation" else min(len(trained), max(n - len(validated), (n + 1) // 2))
    chosen = trained[:n_trained]
    if split != "validation" and len(chosen) + len(validated) < n:
        more = as_many(task, "train", config.task.n_train + n - len(chosen) - len(validated))
        chosen += more[config.task.n_train :]
    found: dict[Split, tuple[Problem, ...]] = {"train": tuple(chosen), "validation": validated[: n - len(chosen)]}
    return {name: problems for name, problems in found.items() if problems}


def fair(problem: Problem, known: Mapping[str, Origin]) -> bool:
    """Whether there is a function whose edits were not shown this problem."""
    return any(problem.id not in each.shown for each in known.values())


def nothing_left(session: Session, split: Split | None) -> str:
    """Why there are no problems, and what helps."""
    if split == "validation":
        return (
            f"the first {kept_for_certificate(session)} validation problems are kept for the certificate "
            "(evaluation.n_validation), and the task has no more; measure on --split train, or add problems"
        )
    return "the edits of all functions were shown all training problems, and the task has no others; add problems"


def kept_for_certificate(session: Session) -> int:
    """The number of validation problems that a certificate may be based on."""
    n = session.config.evaluation.n_validation
    return n if n != "auto" else 200 if session.device == "gpu" else 60


def as_many(task: Task, split: Split, n: int) -> tuple[Problem, ...]:
    """The first ``n`` problems of a split, or all that there are."""
    low, high = 0, n + 1  # there are ``low`` problems, and not ``high`` of those asked for
    while high - low > 1:
        middle = n if high > n else (low + high) // 2
        try:
            task.problems(split, middle)
        except ConfigError:
            high = middle
        else:
            low = middle
    return task.problems(split, low)


def origins_of(session: Session, functions: FunctionSet) -> dict[str, Origin]:
    """Where each function of a set comes from."""
    problems = session.task.problems("train", session.config.task.n_train)
    return origins(functions, session.run_dir.steps(), session.run_dir.proposals(), problems)


def memory_signs(session: Session, functions: FunctionSet, more: Sequence[Problem] = ()) -> tuple[Memorising, ...]:
    """The functions that look memorised, judged by the training problems, some validation problems and ``more``.

    Only rollouts that the run has made are looked at.
    """
    if not functions.functions:
        return ()
    config, find = session.config, session.run_dir.find
    problems = {each.id: each for each in (*session.task.problems("train", config.task.n_train), *more)}
    problems |= {each.id: each for each in as_many(session.task, "validation", PROBLEMS)}
    rollouts = [each for id_ in problems if (each := find(functions.fingerprint, id_, config.seed)) is not None]
    return memorising(functions, origins_of(session, functions), tuple(problems.values()), rollouts)
