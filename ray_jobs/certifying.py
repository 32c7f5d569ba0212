"""The certificate: a run's set against another one, on validation problems that played no part in training."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentopt_local.callback import Callback
from agentopt_local.certificate import SignResult, sequential_sign_test
from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import task_group
from agentopt_local.errors import ConfigError
from agentopt_local.exporting.learned import read_learned
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.run.reader import read_problems, read_report, read_start
from agentopt_local.run.report import Certificate
from agentopt_local.run.rows import CertificateRow
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.tasks.base import Problems
from agentopt_local.train_state import TrainState
from ray_jobs.config import RunConfig
from ray_jobs.evaluation import tested_functions
from ray_jobs.evaluation_config import N_ELSEWHERE
from ray_jobs.open_models import Models, agent_alone
from ray_jobs.runs import read_config
from ray_jobs.session import Session, open_session
from ray_jobs.unused_problems import (
    Pool,
    in_order,
    marks,
    too_few,
    used_in_training,
    validation_cap,
    validation_problems,
)

log = logging.getLogger(__name__)
UNTRAINED = "untrained"
"""What ``--against`` takes for the agent without functions."""


@dataclass(frozen=True)
class Pair:
    """Two sets to be compared."""

    functions: FunctionSet
    baseline: FunctionSet
    against: str
    """What ``baseline`` is, in words."""
    note: str = ""
    """What else differs between the runs that they come from."""
    excluded: frozenset[str] = frozenset()
    """:func:`marks` of further problems that played a part in a training."""


def foresee(session: Session) -> None:
    """Before a training: log why no certificate will be possible, and count its rollouts in the forecast."""
    config = session.config
    n = validation_cap(config, session.device)
    pool = validation_problems(session.task, n, used_in_training(config, session.task)) if n else Pool(())
    reason = too_few(pool, n, config.evaluation.alpha / config.evaluation.trainings)
    if n and reason:
        log.info("no certificate will be possible: %s", reason)
    session.observers.forecast.certificate(0 if reason else 2 * len(pool.problems))


async def certify_training(session: Session, state: TrainState) -> Certificate | None:
    """After a training, before the test: certify the kept set against what the training started from.

    Returns None if ``evaluation.n_validation`` is 0. That a task has too few validation problems is no error.
    """
    config = session.config
    n = validation_cap(config, session.device)
    certificate = None
    if n:
        pair = started_from(session.run_dir.path, await tested_functions(session, state))
        certificate = await certify_pair(session, pair, n=n, alpha=config.evaluation.alpha)
    session.observers.forecast.certificate(0)
    return certificate


async def certify(
    config: RunConfig,
    run_dir: RunDir,
    *,
    against: str | Path | None = None,
    n: int | None = None,
    alpha: float | None = None,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Certificate:
    """Certify a run's set against another run's or, by default, against what its training started from.

    ``against``: a run's folder, or UNTRAINED. ``n``, ``alpha``: None takes them from the run's settings. Rollouts that
    exist are reused. ``model`` and ``task`` are objects given in Python. Raises ConfigError or RunDirError if the other
    run cannot be compared.
    """
    other = None if against is None or str(against) == UNTRAINED else Path(against)
    theirs = None if other is None else other_set(config, run_dir.path, other)
    config = agent_alone(config)
    async with open_session(config, run_dir, callbacks, model=model, task=task) as session:
        functions = await tested_functions(session, run_dir.resume())
        default = started_from(run_dir.path, functions)
        pair = default
        if theirs is not None:
            pair = Pair(functions, theirs.baseline, theirs.against, theirs.note, theirs.excluded)
        elif against is not None:
            pair = Pair(functions, FunctionSet(), "the untrained agent")
        n = n or validation_cap(config, session.device) or N_ELSEWHERE
        alpha = config.evaluation.alpha if alpha is None else alpha
        certificate = await certify_pair(session, pair, n=n, alpha=alpha)
    report = read_report(run_dir.path)
    if report is not None and theirs is None and pair.baseline == default.baseline:
        run_dir.write_report("test", report.model_copy(update={"certificate": certificate}))
    return certificate


def started_from(run: Path, functions: FunctionSet) -> Pair:
    """``functions`` against what the training of ``run`` started from: what the training itself has brought."""
    start = read_start(run)
    against = "the functions that the training started from" if start.functions else "the untrained agent"
    return Pair(functions, start, against)


def other_set(config: RunConfig, run: Path, other: Path) -> Pair:
    """The set of the run ``other`` as a baseline.

    Raises ConfigError if it is the same run, or has another task or model, and RunDirError if it is no run.
    """
    theirs = read_config(other)
    if other.resolve() == run.resolve():
        raise ConfigError(f"{other} is the run itself; name another run, or {UNTRAINED!r}")
    for key, mine, its in (
        ("task.spec", config.task.spec, theirs.task.spec),
        ("task.settings", config.task.settings, theirs.task.settings),
        ("model.name", config.model.name, theirs.model.name),
    ):
        if mine != its:
            raise ConfigError(
                f"{other}: {key} = {its!r}, but {run} has {mine!r}; sets are compared on the same problems with the "
                "same model, so name a run of the same task and model"
            )
    differ = [f"agent.{key}" for key, value in config.agent if getattr(theirs.agent, key) != value]
    for key in ("thinking", "chat_template"):
        differ += [f"model.{key}"] if getattr(theirs.model, key) != getattr(config.model, key) else []
    note = f"both with the settings of {run.name}, from which those of {other.name} differ in {', '.join(differ)}"
    trained = frozenset(mark for each in read_problems(other) if each.split == "train" for mark in marks(each))
    return Pair(FunctionSet(), read_learned(other).functions, f"run {other.name}", note if differ else "", trained)


async def certify_pair(session: Session, pair: Pair, *, n: int, alpha: float) -> Certificate:
    """Compare two sets on at most ``n`` validation problems, and write it down.

    Each further pair of sets that a run compares on these problems is another use of them, and the ``k``-th is held to
    ``alpha`` / ``k``. The same pair again is no further use: its problems keep their order, so the answer is the same.
    """
    config, run_dir = session.config, session.run_dir
    trainings = config.evaluation.trainings
    rows = run_dir.certificates()
    key = (pair.functions.fingerprint, pair.baseline.fingerprint)
    known = rows.get(key, CertificateRow(functions=key[0], baseline=key[1]))
    if pair.functions == pair.baseline:
        same = Certificate(verdict="same_set", against=pair.against, alpha=alpha, trainings=trainings)
        return keep(run_dir, rows, known.model_copy(update={"certificate": same}))
    use = known.use or 1 + max((row.use for row in rows.values()), default=0)
    blank = Certificate(
        verdict="not_possible", against=pair.against, alpha=alpha, trainings=trainings, uses=use, note=pair.note
    )
    excluded = used_in_training(config, session.task) | pair.excluded | chosen_by(run_dir, rows, known)
    pool = validation_problems(session.task, max(n, len(known.problems)), excluded)
    problems = in_order(pool.problems, known.problems, config.seed)[:n]
    if reason := too_few(Pool(tuple(problems), pool.missing), n, blank.level):
        blank = blank.model_copy(update={"reason": reason})
        return keep(run_dir, rows, known.model_copy(update={"certificate": blank}))
    order = tuple(each.id for each in problems)
    if order != known.problems[: len(order)]:
        known = known.model_copy(update={"use": use, "problems": order, "certificate": None})
        run_dir.keep_certificate(known)
    session.observers.forecast.certificate(2 * len(problems))
    result = await compare(session, pair, problems, blank.level)
    certificate = blank.model_copy(update={**dict(result), "n_max": len(problems)})
    return keep(run_dir, rows, known.model_copy(update={"certificate": certificate}))


def chosen_by(run_dir: RunDir, rows: dict[tuple[str, str], CertificateRow], known: CertificateRow) -> frozenset[str]:
    """:func:`marks` of problems by which sets may have been chosen, such as in pruning: others were rolled out on them.

    Sets of which there are certificates do not count, because each of these is a use that alpha is shared for. Nor do
    the problems that this comparison has begun with.
    """
    compared = {fingerprint for key in rows for fingerprint in key} | {known.functions, known.baseline}
    spent = {problem for functions, problem, _ in run_dir.known() if functions not in compared}
    return frozenset(f"id {each}" for each in spent - set(known.problems))


async def compare(session: Session, pair: Pair, problems: Sequence[Problem], level: float) -> SignResult:
    """Roll both sets out in batches that fill the engines, until there is a decision.

    What the last batch holds beyond the decision does not count, but stays in the run folder.
    """
    size = max(1, session.rollouts.admission.limit // 2)
    seed, changes = session.config.seed, list[float]()
    result = sequential_sign_test(changes, level)
    for start in range(0, len(problems), size):
        batch = problems[start : start + size]
        session.run_dir.keep_problems("validation", batch)
        async with task_group() as group:
            before, after = (
                group.create_task(
                    session.rollouts.run(functions, batch, seed=seed, stage=Stage(split="validation", part=part))
                )
                for part, functions in (("before", pair.baseline), ("after", pair.functions))
            )
        pairs = zip(before.result(), after.result(), strict=True)
        changes += [new.grade.reward - old.grade.reward for old, new in pairs]
        result = sequential_sign_test(changes, level)
        log.info(
            "certificate: %d of at most %d validation problems, %d gained, %d lost, E = %.3g",
            result.n, len(problems), result.gained, result.lost, result.evidence,
        )  # fmt: skip
        if result.decided:
            break
    return result


def keep(run_dir: RunDir, rows: dict[tuple[str, str], CertificateRow], row: CertificateRow) -> Certificate:
    """Write ``row`` down, unless it is there already, and return its certificate."""
    certificate = row.certificate
    assert certificate is not None
    if rows.get((row.functions, row.baseline)) != row:
        run_dir.keep_certificate(row)
    log.info("certificate: %s", certificate)
    return certificate
