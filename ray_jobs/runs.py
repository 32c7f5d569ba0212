"""Creating run folders, and reading back their settings and state."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from agentopt_local.errors import RunDirError
from agentopt_local.exporting.learned import START, read_start
from agentopt_local.functions import FunctionSet
from agentopt_local.run_dir import RunDir, read_json
from agentopt_local.trainer import TrainState
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
        run_dir.write_functions(int(START), start)  # so that a resume needs nothing outside the folder
    run_dir.write_json("config.json", config.model_dump(mode="json"))
    return run_dir


def kept(folder: Path) -> Path:
    """``folder``, moved to the home directory if it is in Ray's copy of a working directory, which Ray deletes."""
    return Path.home() / folder if RAY_COPIES in Path.cwd().parts and not folder.is_absolute() else folder


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of an existing run, with ``--section.key value`` overrides.

    Raises RunDirError if ``path`` is not a run folder, ConfigError for a wrong setting.
    """
    values = read_json(path / "config.json")
    if not isinstance(values, dict):
        raise RunDirError(f"{path} is not a run folder: it has no config.json")
    origin: dict[str, str] = {}
    for key, value in parse_overrides(overrides):
        set_key(values, key, value)
        origin[key] = f"--{key}"
    return build(values, str(path / "config.json"), origin)


def read_state(run_dir: RunDir) -> TrainState:
    """The state after the last finished step, or the initial state with the start set. Raises RunDirError.

    Rows of steps that were not finished are dropped from the run folder.
    """
    values = run_dir.read_json("state.json")
    try:
        state = TrainState(functions=read_start(run_dir.path)) if values is None else TrainState.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise RunDirError(
            f"{run_dir.path}/state.json was written by another version ({problem['loc']}: {problem['msg']})"
        ) from None
    run_dir.drop_steps_after(state.step)
    return state
