"""The trainings of a sweep: every combination in a grid of settings, run on one set of engines for each model."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agentopt_local.callback import ProgressOnly, of_training
from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import together
from agentopt_local.errors import ConfigError, RunDirError
from agentopt_local.plain_text import quoted
from agentopt_local.record import Record, fingerprint
from agentopt_local.rollout import Progress
from agentopt_local.run.files import LOCK, is_run, lock, read_json, write_json
from agentopt_local.run.reader import read_day, read_report
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from ray_jobs.agreement import TABLES, check_agreed
from ray_jobs.config import RunConfig, load_config
from ray_jobs.grid_tables import SAME_SET
from ray_jobs.open_models import Models, open_models
from ray_jobs.runs import kept, new_run, read_config
from ray_jobs.toml_values import read_toml
from ray_jobs.training import check_learns, train

SHARED = ("ray", "run_dir", "run_name")
"""Sections that a grid cannot vary, because all trainings of a sweep share the cluster and the folder."""
HOSTING = ("model", "engine", "optimizer_model", "optimizer_engine", "take_turns", "concurrency")
"""Settings of which each combination has engines of its own."""


MAX_CELLS = 10_000


class SweepConfig(Record):
    """A grid of trainings."""

    base: Path
    """The .toml file with the common settings, relative to the sweep's own file."""
    parallel: int = Field(default=4, ge=1, le=1_000_000)
    """How many trainings may run at once; each has its own ``concurrency``."""
    grid: dict[str, list[Any]] = Field(min_length=1)
    """Values to try, by setting."""


class Training(Record):
    """The training for one cell of the grid."""

    name: str
    """The name of its run folder."""
    varied: dict[str, Any]
    """This cell's values, by setting."""
    config: RunConfig


def load_sweep(path: Path, folder: Path | None = None) -> tuple[SweepConfig, Path, list[Training]]:
    """Load a sweep from ``path``; returns it, its folder (by default ``runs/NAME``) and its trainings in grid order.

    Raises a ConfigError that names the file, the key, the value and how to fix it.
    """
    try:
        sweep = SweepConfig.model_validate(read_toml(path))
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(str(part) for part in item["loc"])
        raise ConfigError(
            f"{path}: {key}: {item['msg'].lower()}; a sweep has base, parallel and [grid], where every key has a list "
            "of values"
        ) from None
    for key, options in sweep.grid.items():
        if key.split(".")[0] in SHARED:
            raise ConfigError(f"{path}: grid.{key}: trainings of one sweep share {key.split('.')[0]}; set it in base")
        if not options:
            raise ConfigError(f"{path}: grid.{key} = []: give at least one value")
    folder = kept(folder or Path("runs") / path.stem)
    trainings = []
    if (n := math.prod(map(len, sweep.grid.values()))) > MAX_CELLS:
        raise ConfigError(f"{path}: [grid] has {quoted(n)} combinations; a sweep has at most {MAX_CELLS:,} trainings")
    cells = list(itertools.product(*sweep.grid.values()))
    for number, cell in enumerate(cells):
        varied = dict(zip(sweep.grid, cell, strict=True))
        flags = [part for key, value in varied.items() for part in (f"--{key}", flag_text(value))]
        slug = re.sub(r"[^A-Za-z0-9.=,-]+", "-", ",".join(f"{k.split('.')[-1]}={v}" for k, v in varied.items()))
        name = f"{number:03d}-{slug.strip('-')}"[:80]
        flags += ["--run_dir", str(folder), "--run_name", name, "--evaluation.trainings", str(len(cells))]
        config = load_config(path.parent / sweep.base, flags)
        check_learns(config)
        if "seed" in varied and "task.train_seed" not in varied and config.task.train_seed is None:
            config = config.model_copy(update={"task": config.task.model_copy(update={"train_seed": config.seed})})
        trainings.append(Training(name=name, varied=varied, config=config))
    return sweep, folder, trainings


def flag_text(value: Any) -> str:
    """Write a TOML value as a command-line value."""
    return value if isinstance(value, str) else json.dumps(value)


async def run_sweep(
    sweep: SweepConfig,
    trainings: Sequence[Training],
    folder: Path,
    progress: Progress,
    *,
    model: ChatModel | Models | None = None,
) -> list[dict[str, Any]]:
    """Run the unfinished trainings, ``sweep.parallel`` at a time; returns a row per training.

    Trainings with the same models share their engines. Those of different models run one after another, because all
    their engines at once might not fit. A training whose settings are wrong yields a row with an error. A failure of
    the machine (a dead engine, a full disk) ends the sweep, which can be continued. ``model`` replaces the configured
    model, as in ``open_session``.
    """
    slots = asyncio.Semaphore(sweep.parallel)
    rows: dict[str, dict[str, Any]] = {}
    for group in by_models(trainings):
        unfinished = [each for each in group if finished(folder / each.name) is None]
        async with AsyncExitStack() as stack:
            models = model
            if model is None and unfinished:
                days = [day for each in trainings if (day := read_day(folder / each.name)) is not None]
                models = await open_models(unfinished[0].config, stack, progress, day=min(days, default=None))

            async def one(training: Training, models: ChatModel | Models | None = models) -> None:
                report = finished(folder / training.name)
                if report is None:
                    async with slots:
                        try:
                            report = await train_one(training, folder, progress, models)
                        except ConfigError as error:
                            rows[training.name] = {**training.varied, "error": str(error)}
                            return
                rows[training.name] = {**training.varied, **figures(report)}

            await together(one(each) for each in group)
    return [rows[each.name] for each in trainings]


def by_models(trainings: Sequence[Training]) -> list[list[Training]]:
    """The trainings in groups that share their engines, in the order of the first of each."""
    groups: dict[str, list[Training]] = {}
    for training in trainings:
        key = fingerprint(training.config.model_dump(mode="json", include=set(HOSTING)))
        groups.setdefault(key, []).append(training)
    return list(groups.values())


async def train_one(training: Training, folder: Path, progress: Progress, model: ChatModel | Models | None) -> Report:
    """Start or continue one training."""
    path = folder / training.name
    if is_run(path):
        config = read_config(path)
        check_agreed(config, path, used=("task", "sandbox", "ray") if model is not None else TABLES)
        run_dir = RunDir(path)
    else:
        config = training.config
        run_dir = new_run(config)
    number = training.name.split("-")[0]
    try:
        return await train(
            config,
            run_dir,
            callbacks=[ProgressOnly(of_training(number, progress))],
            model=model,
        )
    finally:
        run_dir.close()


def finished(path: Path) -> Report | None:
    """The report of a training that has ended; None if there is more to do."""
    return read_report(path)


def figures(report: Report) -> dict[str, Any]:
    """The columns of a finished training."""
    row: dict[str, Any] = {
        "steps": report.training.steps,
        "accepted": report.training.accepted,
        "functions": len(report.functions),
        "seconds": report.seconds.training_steps,
        "n": report.test.n if report.test else 0,
    }
    if report.test and report.test.n:
        row |= {
            "before": report.test.before.accuracy,
            "after": report.test.after.accuracy,
            "gained": report.test.difference.gained,
            "lost": report.test.difference.lost,
            "points": report.test.difference.points,
            "p": report.test.difference.p_value if report.functions else None,
        }
        if not report.functions:
            row["note"] = SAME_SET
    if report.certificate is not None:
        row["certificate"] = report.certificate.verdict.replace("_", " ")
    return row


def open_folder(folder: Path, trainings: Sequence[Training]) -> Any:
    """Create or reopen the sweep's folder and return its lock.

    Raises RunDirError if the folder cannot be created or belongs to another sweep.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirError(f"{folder} cannot be made: {error.strerror}") from None
    held = lock(folder / LOCK)
    plan = {each.name: each.config.model_dump(mode="json") for each in trainings}
    old = read_json(folder / "sweep.json")
    if old is not None and fingerprint(old) != fingerprint(plan):
        held.close()
        raise RunDirError(f"{folder} belongs to another sweep, or the settings have changed; choose another --dir")
    write_json(folder / "sweep.json", plan)
    return held
