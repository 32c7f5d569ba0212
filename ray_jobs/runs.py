"""Creating run folders, and reading back their settings and state."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.functions import FunctionSet
from agentopt_local.run import reader
from agentopt_local.run.files import CONFIG, START
from agentopt_local.run.writer import RunDir
from ray_jobs.agreement import agree
from ray_jobs.config import RunConfig, build, parse_overrides
from ray_jobs.toml_values import set_key

RAY_COPIES = "working_dir_files"
"""The folder in which Ray keeps its copies of working directories of jobs."""


def new_run(
    config: RunConfig,
    start: FunctionSet = FunctionSet(),  # noqa: B008 - a frozen value
    task_rows: str | None = None,
) -> RunDir:
    """Create a run folder with the settings, the start set, and the rows of a task that was given in Python.

    Raises RunDirError if the folder of ``config.run_name`` already exists.
    """
    folder, name = kept(Path(config.run_dir)), config.run_name
    if name is None:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", config.task.spec).strip("-")[:40]
        name = unused(folder, f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}")
    run_dir = RunDir(folder / name, create=True)
    agree(config)
    if start.functions:
        run_dir.keep_functions(START, start)  # a resume reads it from here, wherever it came from
    if task_rows is not None:
        run_dir.write_task_rows(task_rows)
    run_dir.write_config(config.model_dump(mode="json"))
    return run_dir


def unused(folder: Path, name: str) -> str:
    """``name``, or if a run of the same second has it, with a number."""
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(each for each in names if not (folder / each).exists())


def kept(folder: Path) -> Path:
    """``folder``, moved to the home directory if it is in Ray's copy of a working directory, which Ray deletes."""
    return Path.home() / folder if RAY_COPIES in Path.cwd().parts and not folder.is_absolute() else folder


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of an existing run, with ``--section.key value`` overrides. Raises RunDirError if it is none."""
    values = reader.read_config(path)
    origin: dict[str, str] = {}
    for key, value in parse_overrides(overrides):
        set_key(values, key, value)
        origin[key] = f"--{key}"
    return build(values, str(path / CONFIG), origin, stored=True)
