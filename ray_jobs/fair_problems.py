"""Problems on which a run's functions can be judged fairly, and what on them looks memorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentopt_local.functions import FunctionSet
from agentopt_local.memorising import memorising
from agentopt_local.origins import Origin, origins
from agentopt_local.problem import Problem, Split
from agentopt_local.run.contribution import Memorising
from agentopt_local.tasks.base import Task
from ray_jobs.session import Session
from ray_jobs.unused_problems import as_many_as_there_are, used_in_training, validation_cap, validation_problems

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
    validated = () if split == "train" else others(session, n)
    n_trained = 0 if split == "validation" else min(len(trained), max(n - len(validated), (n + 1) // 2))
    chosen = trained[:n_trained]
    if split != "validation" and len(chosen) + len(validated) < n:
        chosen += further(task, config.task.n_train, n - len(chosen) - len(validated))
    found: dict[Split, tuple[Problem, ...]] = {"train": tuple(chosen), "validation": validated[: n - len(chosen)]}
    return {name: problems for name, problems in found.items() if problems}


def fair(problem: Problem, known: Mapping[str, Origin]) -> bool:
    """Whether there is a function whose edits were not shown this problem."""
    return any(problem.id not in each.shown for each in known.values())


def nothing_left(session: Session, split: Split | None) -> str:
    """Why there are no problems, and what helps."""
    if split == "validation":
        kept = validation_cap(session.config, session.device)
        return (
            f"the first {kept} validation problems are kept for the certificate "
            "(evaluation.n_validation), and the task has no more; measure on --split train, or add problems"
        )
    return "the edits of all functions were shown all training problems, and the task has no others; add problems"


def others(session: Session, n: int) -> tuple[Problem, ...]:
    """At most ``n`` validation problems that no certificate is based on."""
    config, task = session.config, session.task
    kept = validation_cap(config, session.device)
    taken = {id_ for row in session.run_dir.certificates().values() for id_ in row.problems}
    pool = validation_problems(task, kept + len(taken) + n, used_in_training(config, task)).problems[kept:]
    return tuple(each for each in pool if each.id not in taken)[:n]


def further(task: Task, known: int, n: int) -> tuple[Problem, ...]:
    """At most ``n`` training problems after the first ``known``, with which the run was trained."""
    return as_many_as_there_are(task, known + n, "train")[0][known:]


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
    problems |= {each.id: each for each in as_many_as_there_are(session.task, PROBLEMS)[0]}
    rollouts = [each for id_ in problems if (each := find(functions.fingerprint, id_, config.seed)) is not None]
    return memorising(functions, origins_of(session, functions), tuple(problems.values()), rollouts)
