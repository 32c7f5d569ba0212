"""The ``train`` and ``resume`` jobs: a run from its settings to its report."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentopt_local.chat import ChatModel
from agentopt_local.errors import RunDirError
from agentopt_local.exporting.learned import START, read_start
from agentopt_local.functions import FunctionSet
from agentopt_local.rollout import Progress
from agentopt_local.run_dir import RunDir, read_json
from agentopt_local.task import Problem
from agentopt_local.trainer import Trainer, TrainState
from ray_jobs.config import RunConfig, build, parse_overrides, set_key
from ray_jobs.evaluate import evaluate_session
from ray_jobs.session import Models, Session, describe_run, open_session

OnStep = Callable[[dict[str, Any]], None]
RAY_COPIES = "working_dir_files"
"""The folder in which Ray keeps its copies of jobs' working directories."""


def new_run(config: RunConfig, start: FunctionSet = FunctionSet()) -> RunDir:  # noqa: B008 - a frozen value
    """A new run folder with the settings and the start set in it. Raises RunDirError if it exists already."""
    name = config.run_name
    if name is None:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", config.task.spec).strip("-")[:40]
        name = f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = RunDir(kept(Path(config.run_dir)) / name, create=True)
    if start.functions:
        run_dir.write_functions(int(START), start)  # a resume reads it from here, wherever it came from
    run_dir.write_json("config.json", config.model_dump(mode="json"))
    return run_dir


def kept(folder: Path) -> Path:
    """A folder that stays: one in Ray's copy of a job's working directory, which Ray deletes, is moved to the home."""
    return Path.home() / folder if RAY_COPIES in Path.cwd().parts and not folder.is_absolute() else folder


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of an existing run, with ``--section.key value`` overrides. Raises RunDirError if it is none."""
    values = read_json(path / "config.json")
    if not isinstance(values, dict):
        raise RunDirError(f"{path} is not a run folder: it has no config.json")
    origin: dict[str, str] = {}
    for key, value in parse_overrides(overrides):
        set_key(values, key, value)
        origin[key] = f"--{key}"
    return build(values, str(path / "config.json"), origin)


def read_state(run_dir: RunDir) -> TrainState:
    """The state after the last finished step; one with the start set if there is none."""
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


async def train(
    config: RunConfig,
    run_dir: RunDir,
    *,
    progress: Progress,
    on_step: OnStep | None = None,
    on_metrics: OnStep | None = None,
    model: ChatModel | Models | None = None,
) -> dict[str, Any]:
    """Train until a stop, evaluate, and return the report. Continues where the folder's state is.

    A kill at any moment loses at most the rollouts and samples that were in flight.
    """
    async with open_session(config, run_dir, progress, model=model, on_metrics=on_metrics) as session:
        if run_dir.read_json("meta.json") is None:
            run_dir.write_json("meta.json", describe_run(session))
        return await train_session(session, on_step)


async def train_session(session: Session, on_step: OnStep | None) -> dict[str, Any]:
    """The training and the evaluation of an open session."""
    config = session.config
    state = read_state(session.run_dir)
    problems = session.task.problems("train", config.task.n_train)
    test = session.task.problems("test", config.task.n_test)
    session.run_dir.keep_problems("train", problems)
    session.run_dir.keep_problems("test", test)

    def step_ended(row: dict[str, Any]) -> None:
        session.metrics.step(row)
        session.forecast.step(row)
        if on_step is not None:
            on_step(row)

    trainer = Trainer(
        session.optimizer, session.rollouts, session.run_dir, config.trainer, seed=config.seed, on_step=step_ended
    )
    # The untrained agent's test does not depend on the training: it fills the engine's batch meanwhile.
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(baseline(session, test))
            training = group.create_task(trainer.fit(problems, state))
    except BaseExceptionGroup as errors:
        from agentopt_local.concurrency import first_error

        raise first_error(errors) from None
    return await evaluate_session(session, training.result(), test)


async def baseline(session: Session, test: tuple[Problem, ...]) -> None:
    """Roll the untrained agent out on the test problems; the results stay in the run folder."""
    await session.rollouts.run(FunctionSet(), test, seed=session.config.seed, stage="test before")


if __name__ == "__main__":  # python -m ray_jobs.train CONFIG, as in: ray job submit --working-dir . -- ...
    from ray_jobs.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
