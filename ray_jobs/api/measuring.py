"""``ao.evaluate``, ``ao.certify`` and ``ao.credit``: what a run's functions are worth, measured from Python."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatModel
from agentopt_local.errors import ConfigError
from agentopt_local.problem import Split
from agentopt_local.run.contribution import Credit
from agentopt_local.run.report import Certificate, Report
from agentopt_local.run.writer import RunDir
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.base import Problems
from ray_jobs.api.finished_run import Run
from ray_jobs.api.given import Model, check_callbacks, given_again, path_text
from ray_jobs.config import RunConfig
from ray_jobs.interrupts import run_blocking
from ray_jobs.lifecycle import certify_run, check_certificate, credit_run, evaluate_run, problems_to_evaluate, reopen
from ray_jobs.open_models import Models
from ray_jobs.runs import read_config
from ray_jobs.terminal.display import Display

CREDITED = ("train", "validation")
"""Splits on which functions may be credited."""


def evaluate(
    run: str | Path | Run,
    *,
    split: Split = "test",
    n: int | None = None,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Report:
    """Compare a run's functions with none on the same problems. Returns the report, which is also written to the run.

    ``run``: the run or its folder. ``split``: where the problems come from. ``n``: their number (None: the run's
    ``n_test``). Existing rollouts are reused. ``task``, ``model``, ``callbacks``, ``progress``: as for ``ao.resume``.
    Blocks like ``ao.train``.

    Raises what ``ao.resume`` raises, and ConfigError if there are fewer than ``n`` problems.

    ::

        report = ao.evaluate(run, split="validation", n=20)
        print(report.validation.after.accuracy, report.validation.after.ci95)
    """
    job = aevaluate(run, split=split, n=n, task=task, model=model, callbacks=callbacks, progress=progress)
    return run_blocking(job)


async def aevaluate(
    run: str | Path | Run,
    *,
    split: Split = "test",
    n: int | None = None,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Report:
    """:func:`evaluate` as a coroutine.

    ::

        report = await ao.aevaluate(run, split="validation", n=20)
    """
    path = Path(path_text("ao.evaluate", "run", run))
    heard = check_callbacks("ao.evaluate", callbacks)
    n = problems_to_evaluate(read_config(path), n, "ao.evaluate: n =")
    config, run_dir, models = reopened("ao.evaluate", path, model, task)
    display = Display() if progress else None
    return await evaluate_run(
        config, run_dir, split=split, n=n, display=display, callbacks=heard, model=models, task=task
    )


def certify(
    run: str | Path | Run,
    *,
    against: str | Path | Run | None = None,
    n: int | None = None,
    alpha: float | None = None,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Certificate:
    """Test whether a run's functions help, on validation problems that played no part in its training.

    Returns the certificate: ``.verdict`` is ``helps``, ``no_evidence``, ``does_not_help``, ``same_set`` or
    ``not_possible``, and ``.summary()`` says it in words. It is also written to the run.

    ``run``: the run or its folder. ``against``: what it is compared with: another run of the same task and model, or
    ``"untrained"`` for the agent without functions (None: what the training started from). ``n``: the most problems;
    fewer are used if the answer is clear earlier (None: the run's ``evaluation.n_validation``). ``alpha``: how often a
    set that does not help may be certified (None: the run's ``evaluation.alpha``). Every further pair of sets needs
    more evidence, because a run has the same problems for all; the same pair again gives the same answer. ``task``,
    ``model``, ``callbacks``, ``progress``: as for ``ao.resume``. Blocks like ``ao.train``.

    Raises what ``ao.resume`` raises, and ConfigError if the runs differ in task or model.

    ::

        certificate = ao.certify(run, against="runs/first")
        print(certificate.summary())
    """
    job = acertify(
        run,
        against=against,
        n=n,
        alpha=alpha,
        task=task,
        model=model,
        callbacks=callbacks,
        progress=progress,
    )
    return run_blocking(job)


async def acertify(
    run: str | Path | Run,
    *,
    against: str | Path | Run | None = None,
    n: int | None = None,
    alpha: float | None = None,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Certificate:
    """:func:`certify` as a coroutine.

    ::

        certificate = await ao.acertify(run)
    """
    path = Path(path_text("ao.certify", "run", run))
    other = None if against is None else path_text("ao.certify", "against", against)
    heard = check_callbacks("ao.certify", callbacks)
    check_certificate(path, against=other, n=n, alpha=alpha, prefix="ao.certify: ")
    config, run_dir, models = reopened("ao.certify", path, model, task)
    display = Display() if progress else None
    return await certify_run(
        config,
        run_dir,
        against=other,
        n=n,
        alpha=alpha,
        display=display,
        callbacks=heard,
        model=models,
        task=task,
    )


def credit(
    run: str | Path | Run,
    *,
    split: Split | None = None,
    n: int | None = None,
    prune: bool = False,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Credit:
    """Measure what each function of a run contributes, on problems that its edits were not shown.

    Every function is left out once, and the whole set minus the rest is its effect. In sets of more than five, random
    halves are rolled out too. The result is also written to the run.

    ``run``: the run or its folder. ``split``: ``"train"`` or ``"validation"``, where the problems come from (None:
    both). ``n``: at most so many problems. ``prune``: remove functions that hurt or only cost tokens, if the set
    without them is no worse; a run that was tested stays as it is, and ``credit.pruned.run`` names the copy beside it
    that has the smaller set. ``task``, ``model``, ``callbacks``, ``progress``: as for ``ao.resume``. Blocks like
    ``ao.train``.

    Raises what ``ao.resume`` raises, and ConfigError if the run has no functions or there are no problems.

    ::

        credit = ao.credit(run, split="validation", n=40)
        print(credit)
        {each.name: each.verdict for each in credit.each}
    """
    job = acredit(run, split=split, n=n, prune=prune, task=task, model=model, callbacks=callbacks, progress=progress)
    return run_blocking(job)


async def acredit(
    run: str | Path | Run,
    *,
    split: Split | None = None,
    n: int | None = None,
    prune: bool = False,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Credit:
    """:func:`credit` as a coroutine.

    ::

        credit = await ao.acredit(run, n=40)
    """
    path = Path(path_text("ao.credit", "run", run))
    heard = check_callbacks("ao.credit", callbacks)
    if split is not None and split not in CREDITED:
        raise ConfigError(
            f"ao.credit: split = {split!r} is not possible{did_you_mean(str(split), CREDITED)}; "
            "use 'train', 'validation' or None for both"
        )
    if n is not None and n < 1:
        raise ConfigError(f"ao.credit: n = {n}: measure on at least one problem")
    config, run_dir, models = reopened("ao.credit", path, model, task)
    display = Display() if progress else None
    return await credit_run(
        config,
        run_dir,
        split=split,
        n=n,
        prune=prune,
        display=display,
        callbacks=heard,
        model=models,
        task=task,
    )


def reopened(
    place: str, path: Path, model: Model | None, task: Problems | None
) -> tuple[RunConfig, RunDir, ChatModel | Models | None]:
    """The settings of a run, its open folder, and the models that were given for it. ``place`` is named in errors."""
    models, elsewhere = given_again(place, path, model, None)
    config, run_dir = reopen(path, model=models, task=task, elsewhere=elsewhere)
    return config, run_dir, models
