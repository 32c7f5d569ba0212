"""Creating run folders, and reading back their settings and state."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.functions import FunctionSet
from agentopt_local.run import reader
from agentopt_local.run.files import CONFIG, START
from agentopt_local.run.writer import RunDir
from ray_jobs.config import RunConfig, build, parse_overrides, set_key

RAY_COPIES = "working_dir_files"
"""The folder in which Ray keeps its copies of working directories of jobs."""


def new_run(config: RunConfig, start: FunctionSet = FunctionSet()) -> RunDir:  # noqa: B008 - a frozen value
    """Create a run folder with the settings and the start set. Raises RunDirError if it already exists."""
    name = config.run_name
    if name is None:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", config.task.spec).strip("-")[:40]
        name = f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = RunDir(kept(Path(config.run_dir)) / name, create=True)
    if start.functions:
        run_dir.keep_functions(START, start)  # a resume reads it from here, wherever it came from
    run_dir.write_config(config.model_dump(mode="json"))
    return run_dir


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
    return build(values, str(path / CONFIG), origin)
