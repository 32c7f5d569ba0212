"""The ``train`` and ``resume`` jobs: a run from its settings to its report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentopt_local.chat import ChatModel
from agentopt_local.functions import FunctionSet
from agentopt_local.rollout import Progress
from agentopt_local.run_dir import RunDir
from agentopt_local.task import Problem
from agentopt_local.trainer import Trainer
from ray_jobs.config import RunConfig
from ray_jobs.evaluation import evaluate_session
from ray_jobs.open_models import Models
from ray_jobs.provenance import describe_run
from ray_jobs.runs import read_state
from ray_jobs.session import Session, open_session

OnStep = Callable[[dict[str, Any]], None]


async def train(
    config: RunConfig,
    run_dir: RunDir,
    *,
    progress: Progress,
    on_step: OnStep | None = None,
    on_metrics: OnStep | None = None,
    model: ChatModel | Models | None = None,
) -> dict[str, Any]:
    """Train until a stopping rule applies, evaluate, and return the report. A run that has a state is continued.

    A kill at any moment loses only the rollouts and drafts that were in flight.
    """
    async with open_session(config, run_dir, progress, model=model, on_metrics=on_metrics) as session:
        if run_dir.read_json("meta.json") is None:
            run_dir.write_json("meta.json", describe_run(session))
        return await train_session(session, on_step)


async def train_session(session: Session, on_step: OnStep | None) -> dict[str, Any]:
    """Train and evaluate in an open session; returns the report."""
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
    # The untrained agent's test does not depend on the training, so it uses the engine's idle batch slots.
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(baseline(session, test))
            training = group.create_task(trainer.fit(problems, state))
    except BaseExceptionGroup as errors:
        from agentopt_local.rollout import first_error

        raise first_error(errors) from None
    return await evaluate_session(session, training.result(), test)


async def baseline(session: Session, test: tuple[Problem, ...]) -> None:
    """Roll out the untrained agent on the test problems; the rollouts are stored in the run folder."""
    await session.rollouts.run(FunctionSet(), test, seed=session.config.seed, stage="test before")
