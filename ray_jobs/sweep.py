"""Many trainings that share the engines: ``python -m ray_jobs.sweep SWEEP.toml``, and one table at the end.

::

    base = "demo.toml"       # the settings that all trainings have in common; a path beside SWEEP.toml
    parallel = 4             # trainings at once

    [grid]                   # every combination is one training
    "task.spec" = ["reasoning_gym:base_conversion", "reasoning_gym:spell_backward"]
    "seed" = [0, 1, 2]
    "trainer.try_edits" = [true, false]

The sweep's folder holds a run folder per training, ``sweep.json`` and ``table.json``. The same command continues a
sweep that was interrupted: finished trainings are not run again, the others continue where they were.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import statistics
import sys
import tomllib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import together
from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from agentopt_local.record import Record, fingerprint
from agentopt_local.rollout import Progress
from agentopt_local.run_dir import RunDir, lock, read_json, write_atomically
from ray_jobs.config import RunConfig, load_config
from ray_jobs.display import Display, error_line
from ray_jobs.session import Models, open_models, task_of
from ray_jobs.train import kept, new_run, train

SHARED = ("engine", "model", "ray", "run_dir", "run_name")
"""Settings that all trainings of a sweep have in common, because they share the engines and the folder."""


class SweepConfig(Record):
    """A grid of trainings."""

    base: Path
    """A .toml file of settings."""
    parallel: int = Field(default=4, ge=1)
    """Trainings at once; each keeps its own ``concurrency``."""
    grid: dict[str, list[Any]] = Field(min_length=1)
    """Setting -> the values to try."""


class Training(Record):
    """One cell of the grid."""

    name: str
    """Of its run folder."""
    varied: dict[str, Any]
    """The grid's settings and their values here."""
    config: RunConfig


def load_sweep(path: Path, folder: Path | None = None) -> tuple[SweepConfig, Path, list[Training]]:
    """The sweep in ``path``, its folder (``runs/NAME`` if none is given), and its trainings in the grid's order.

    Raises ConfigError that names the file, the key, the value and the remedy.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        sweep = SweepConfig.model_validate(values)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
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
    for number, cell in enumerate(itertools.product(*sweep.grid.values())):
        varied = dict(zip(sweep.grid, cell, strict=True))
        flags = [part for key, value in varied.items() for part in (f"--{key}", flag_text(value))]
        slug = re.sub(r"[^A-Za-z0-9.=,-]+", "-", ",".join(f"{k.split('.')[-1]}={v}" for k, v in varied.items()))
        name = f"{number:03d}-{slug.strip('-')}"[:80]
        flags += ["--run_dir", str(folder), "--run_name", name]
        trainings.append(Training(name=name, varied=varied, config=load_config(path.parent / sweep.base, flags)))
    return sweep, folder, trainings


def flag_text(value: Any) -> str:
    """A TOML value as ``--key`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


async def run_sweep(
    sweep: SweepConfig,
    trainings: Sequence[Training],
    folder: Path,
    progress: Progress,
    *,
    model: ChatModel | Models | None = None,
) -> list[dict[str, Any]]:
    """Train what is not finished, ``sweep.parallel`` at a time, on one set of engines; a row per training.

    A training whose settings are wrong is a row with an error. Anything that concerns the machine (a dead engine, a
    full disk) ends the sweep, which can be continued. ``model`` replaces the configured one, as in ``open_session``.
    """
    slots = asyncio.Semaphore(sweep.parallel)
    unfinished = [each for each in trainings if finished(folder / each.name) is None]
    async with AsyncExitStack() as stack:
        if model is None and unfinished:
            model = await open_models(unfinished[0].config, stack, progress)

        async def one(training: Training) -> dict[str, Any]:
            report = finished(folder / training.name)
            if report is None:
                async with slots:
                    try:
                        report = await train_one(training, folder, progress, model)
                    except ConfigError as error:
                        return {**training.varied, "error": str(error)}
            return {**training.varied, **figures(report)}

        return await together(one(each) for each in trainings)


async def train_one(
    training: Training, folder: Path, progress: Progress, model: ChatModel | Models | None
) -> dict[str, Any]:
    """Start or continue one training."""
    path = folder / training.name
    run_dir = RunDir(path) if (path / "config.json").exists() else new_run(training.config)
    number = training.name.split("-")[0]
    try:
        return await train(
            training.config,
            run_dir,
            progress=lambda stage, *counts: progress(f"{number} {stage}", *counts),
            model=model,
        )
    finally:
        run_dir.close()


def finished(path: Path) -> dict[str, Any] | None:
    """The report of a training that has ended; None if there is more to do."""
    report = read_json(path / "report.json") if path.is_dir() else None
    return report if isinstance(report, dict) else None


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """The columns of a finished training."""
    test, training = report["test"], report["training"]
    row: dict[str, Any] = {
        "steps": training["steps"],
        "accepted": training["accepted"],
        "functions": len(report["functions"]),
        "seconds": report["seconds"]["training_steps"],
        "n": test["n"],
    }
    if test["n"]:
        row |= {
            "before": test["before"]["accuracy"],
            "after": test["after"]["accuracy"],
            "points": test["difference"]["points"],
            "p": test["difference"]["p_value"],
        }
    return row


def over_seeds(rows: Sequence[dict[str, Any]], varied: Sequence[str]) -> list[dict[str, Any]]:
    """Means and standard deviations over ``seed``, a row per combination of the other settings."""
    others = [key for key in varied if key != "seed"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "points" in row:
            groups.setdefault(json.dumps([row[key] for key in others]), []).append(row)
    out = []
    for same in groups.values():
        points = [row["points"] for row in same]
        out.append(
            {key: same[0][key] for key in others}
            | {
                "seeds": len(same),
                "before": round(statistics.fmean(row["before"] for row in same), 4),
                "after": round(statistics.fmean(row["after"] for row in same), 4),
                "points": round(statistics.fmean(points), 2),
                "points_sd": round(statistics.stdev(points), 2) if len(points) > 1 else None,
            }
        )
    return out


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as aligned columns; a column is there if any row has it."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([shown(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)


def shown(value: Any) -> str:
    """A cell's text."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def open_folder(folder: Path, trainings: Sequence[Training]) -> Any:
    """Make or continue the sweep's folder; its lock. Raises RunDirError if it belongs to another sweep."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirError(f"{folder} cannot be made: {error.strerror}") from None
    held = lock(folder / ".lock")
    plan = {each.name: each.config.model_dump(mode="json") for each in trainings}
    old = read_json(folder / "sweep.json")
    if old is not None and fingerprint(old) != fingerprint(plan):
        held.close()
        raise RunDirError(f"{folder} belongs to another sweep, or the settings have changed; choose another --dir")
    write_atomically(folder / "sweep.json", json.dumps(plan, indent=2, ensure_ascii=False) + "\n")
    return held


def main(argv: Sequence[str] | None = None, *, model: ChatModel | Models | None = None) -> int:
    """Run a sweep. 0: done, 1: failed, 2: the user's mistake, 130: interrupted; the last two can be continued."""
    from ray_jobs.cli import INTERRUPTED, USER_MISTAKE, check_model, interruptible

    parser = argparse.ArgumentParser(prog="python -m ray_jobs.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path, metavar="SWEEP.toml")
    parser.add_argument("--dir", type=Path, help="the sweep's folder (default: runs/ and the file's name)")
    arguments = parser.parse_args(argv)
    display = Display()
    try:
        sweep, folder, trainings = load_sweep(arguments.sweep, arguments.dir)
        if model is None:
            check_model(trainings[0].config)
        for training in trainings:
            task_of(training.config)
        held = open_folder(folder, trainings)
        try:
            with display.live():
                job = run_sweep(sweep, trainings, folder, display.progress, model=model)
                rows = asyncio.run(interruptible(job))
        finally:
            held.close()
    except (ConfigError, RunDirError) as error:
        error_line(str(error))
        return USER_MISTAKE
    except AgentOptError as error:
        error_line(f"{error}\nTo continue: python -m ray_jobs.sweep {arguments.sweep}")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        print(f"To continue: python -m ray_jobs.sweep {arguments.sweep}")
        return INTERRUPTED
    table = {"trainings": rows, "over_seeds": over_seeds(rows, list(sweep.grid)) if "seed" in sweep.grid else []}
    write_atomically(folder / "table.json", json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    print(table_text(rows))
    if table["over_seeds"]:
        print("\nOver seeds:\n" + table_text(table["over_seeds"]))
    print(folder)
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
