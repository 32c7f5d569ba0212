"""A run from its settings to its report, with a log and a display: what the command line and the Python API share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatModel
from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Split
from agentopt_local.run.contribution import Credit
from agentopt_local.run.report import Certificate, Report
from agentopt_local.run.writer import RunDir
from agentopt_local.tasks.base import IN_PYTHON, Problems
from agentopt_local.tasks.python import rows_text
from agentopt_local.tasks.row_task import RowsTask
from ray_jobs.agreement import TABLES, check_agreed
from ray_jobs.certifying import UNTRAINED, certify, other_set
from ray_jobs.config import RunConfig, changed_budget
from ray_jobs.context_check import context_notes
from ray_jobs.crediting import credit
from ray_jobs.evaluation import evaluate
from ray_jobs.evaluation_config import MIN_ALPHA
from ray_jobs.forecast import Forecast, expectations, speeds_here
from ray_jobs.model_config import ModelConfig
from ray_jobs.model_size import explain_sizes, sizes_line
from ray_jobs.open_models import Models, check_model
from ray_jobs.open_task import task_of
from ray_jobs.runs import new_run, read_config
from ray_jobs.start_functions import read_start_functions
from ray_jobs.task_config import MAX_PROBLEMS
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.live import duration
from ray_jobs.terminal.run_log import log_to, stop_logging
from ray_jobs.training import check_learns, train

T = TypeVar("T")
MODELS = ("model", "engine", "optimizer_model", "optimizer_engine", "ray")
"""The tables of settings that a caller's own models replace."""


async def create_run(
    config: RunConfig,
    *,
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
    start: FunctionSet | None = None,
) -> RunDir:
    """Check what a run with these settings needs, and create its folder.

    ``model`` and ``task`` are objects given in Python; ``start`` replaces ``config.start_functions``. Raises
    ConfigError, before there is a folder that could never be resumed, and RunDirError if the folder already exists.
    """
    check_learns(config)
    task_of(config, given=task)
    if model is None:
        check_model(config)
    start = await read_start_functions(config) if start is None else start
    return new_run(config, start, rows_text(task) if isinstance(task, RowsTask) else None)


def reopen(
    path: Path,
    budget: Iterable[tuple[str, Any]] = (),
    *,
    prefix: str = "--",
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
    elsewhere: Mapping[str, ModelConfig] | None = None,
) -> tuple[RunConfig, RunDir]:
    """The settings and the open folder of a run that will be continued or evaluated.

    ``budget`` has new values for ``budget.KEY``, which are written down; ``prefix`` precedes the keys in errors.
    ``elsewhere`` has settings of models for this process only. Raises ConfigError or RunDirError if the run cannot be
    continued, or if it was made elsewhere and its user has not agreed to what its settings reach.
    """
    changes, moved = dict(budget), dict(elsewhere or {})
    config = changed_budget(read_config(path), changes, prefix)
    given = {*moved, *(() if task is None else ("task",)), *(() if model is None else MODELS)}
    check_agreed(config, path, used=set(TABLES) - given)
    if task is not None or config.task.spec.startswith(IN_PYTHON):
        task_of(config, path, task)
    with ExitStack() as stack:
        run_dir = RunDir(path)
        stack.callback(run_dir.close)
        if model is None:
            check_model(config, path)
        if changes:
            run_dir.write_config(config.model_dump(mode="json"))
        stack.pop_all()
    return config.model_copy(update=moved), run_dir


async def train_run(
    config: RunConfig,
    run_dir: RunDir,
    *,
    display: Display | None = None,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Report:
    """Train, or continue training, in ``run_dir``, and close it. ``display`` shows the progress."""
    heard = list(callbacks)
    if display is not None:
        heard.append(display)
        display.view.max_steps = config.trainer.max_epochs
        for row in run_dir.steps():  # those of a run that is continued
            display.view.step(row)
    job = train(config, run_dir, callbacks=heard, model=model, task=task)
    return await at_work(run_dir, job, display, forecast=config if model is None else None)


async def evaluate_run(
    config: RunConfig,
    run_dir: RunDir,
    *,
    split: Split,
    n: int,
    display: Display | None = None,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Report:
    """Evaluate the run in ``run_dir``, and close it. ``display`` shows the progress."""
    heard = [*callbacks, *([] if display is None else [display])]
    job = evaluate(config, run_dir, split=split, n=n, callbacks=heard, model=model, task=task)
    return await at_work(run_dir, job, display)


async def certify_run(
    config: RunConfig,
    run_dir: RunDir,
    *,
    against: str | Path | None = None,
    n: int | None = None,
    alpha: float | None = None,
    display: Display | None = None,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Certificate:
    """Certify the set of the run in ``run_dir``, and close it. ``display`` shows the progress."""
    heard = [*callbacks, *([] if display is None else [display])]
    job = certify(config, run_dir, against=against, n=n, alpha=alpha, callbacks=heard, model=model, task=task)
    return await at_work(run_dir, job, display)


async def credit_run(
    config: RunConfig,
    run_dir: RunDir,
    *,
    split: Split | None = None,
    n: int | None = None,
    prune: bool = False,
    display: Display | None = None,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Credit:
    """Measure what each function of the run in ``run_dir`` contributes, and close it. ``display`` shows how it goes."""
    heard = [*callbacks, *([] if display is None else [display])]
    job = credit(config, run_dir, split=split, n=n, prune=prune, callbacks=heard, model=model, task=task)
    return await at_work(run_dir, job, display)


async def at_work(
    run_dir: RunDir, job: Coroutine[Any, Any, T], display: Display | None, *, forecast: RunConfig | None = None
) -> T:
    """Await ``job`` with a log in the run folder and a live display; closes ``run_dir``.

    ``forecast`` has the settings of a training whose expected duration is shown before it starts.
    """
    try:
        handler = log_to(run_dir.log_path)
    except RunDirError:
        job.close()
        run_dir.close()
        raise
    try:
        if display is None:
            return await job
        if forecast is not None:
            await asyncio.to_thread(show_forecast, forecast, display, steps=len(run_dir.steps()))
        with display.live():
            return await job
    except asyncio.CancelledError:
        if display is not None:
            display.line("interrupted")
        raise
    except AgentOptError as error:
        logging.getLogger("agentopt").error("%s", error)
        raise
    finally:
        job.close()  # in case it was never started
        stop_logging(handler)
        run_dir.close()


def show_sizes(config: RunConfig, display: Display) -> None:
    """Before a training, show whose settings each role has and why, and which budgets do not fit a context."""
    display.line(sizes_line(explain_sizes(config)))
    for note in context_notes(config):
        display.line(note)


def show_forecast(config: RunConfig, display: Display, *, steps: int) -> None:
    """Before a training, show how fast the models are on this processor and how long the training will take.

    ``steps`` have been finished before. Shows nothing of a model that runs elsewhere. Raises ConfigError or
    EngineDeadError if this processor cannot run one.
    """
    speeds = speeds_here(config)
    for role, speed in speeds.items():
        model = config.model if role == "agent" else config.optimizer_model or config.model
        for line in expectations(model.name, speed):
            display.line(line)
    seconds = Forecast(config, speeds, steps=steps).seconds()
    if seconds is not None and not config.trainer.count_accepted:
        display.line(f"the training will take at most about {duration(seconds)} here")


def problems_to_evaluate(config: RunConfig, n: int | None, name: str = "--n") -> int:
    """The number of problems to evaluate on: ``n``, or the run's ``n_test``. Raises ConfigError below 1."""
    n = config.task.n_test if n is None else n
    if n < 1:
        raise ConfigError(f"{name} {n}: evaluate on at least one problem")
    if n > MAX_PROBLEMS:
        raise ConfigError(f"{name} {n}: evaluate on at most {MAX_PROBLEMS} problems")
    return n


def check_certificate(
    run: Path, *, against: str | Path | None, n: int | None, alpha: float | None, prefix: str = "--"
) -> None:
    """Raise ConfigError or RunDirError if a certificate cannot be asked for; ``prefix`` is before names in errors."""
    if n is not None and not 1 <= n <= MAX_PROBLEMS:
        raise ConfigError(f"{prefix}n {n}: certify on at least one problem, and at most {MAX_PROBLEMS}")
    if alpha is not None and not MIN_ALPHA <= alpha < 1:
        raise ConfigError(f"{prefix}alpha {alpha:g}: it must be {MIN_ALPHA:g} or more, and below 1, such as 0.05")
    config = read_config(run)
    if against is not None and str(against) != UNTRAINED:
        other_set(config, run, Path(against))
