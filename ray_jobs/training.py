"""The ``train`` and ``resume`` jobs: a run from its settings to its report."""

from __future__ import annotations

from collections.abc import Iterable

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import task_group
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.tasks.base import Problems
from agentopt_local.train_state import TrainState
from agentopt_local.trainer import Trainer
from ray_jobs.config import RunConfig
from ray_jobs.crediting import credited, is_pruned
from ray_jobs.evaluation import evaluate_session
from ray_jobs.open_models import Models
from ray_jobs.provenance import describe_run
from ray_jobs.session import Session, open_session


async def train(
    config: RunConfig,
    run_dir: RunDir,
    *,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Report:
    """Train until a stop, evaluate, and return the report. Continues where the folder's state is.

    ``model`` and ``task`` are objects given in Python. A kill at any moment loses only the rollouts and drafts that
    were in flight.
    """
    async with open_session(config, run_dir, callbacks, model=model, task=task) as session:
        if run_dir.meta() is None:
            run_dir.write_meta(describe_run(session))
        return await train_session(session)


async def train_session(session: Session) -> Report:
    """The training and the evaluation of an open session."""
    config = session.config
    state = session.run_dir.resume()
    problems = session.task.problems("train", config.task.n_train)
    test = session.task.problems("test", config.task.n_test)
    session.run_dir.keep_problems("train", problems)
    session.run_dir.keep_problems("test", test)
    on_step = session.observers.on_step
    trainer = Trainer(
        session.optimizer, session.rollouts, session.run_dir, config.trainer, seed=config.seed, on_step=on_step
    )
    # The untrained agent's test does not depend on the training: it fills the engine's batch meanwhile.
    async with task_group() as group:
        group.create_task(baseline(session, test))
        training = group.create_task(trained(session, trainer, problems, state))
    return await evaluate_session(session, training.result(), test)


async def trained(session: Session, trainer: Trainer, problems: tuple[Problem, ...], state: TrainState) -> TrainState:
    """The state after the last step and, if configured, after pruning; a pruned set is not trained any further."""
    if is_pruned(session.run_dir.path, state):
        return state
    return await credited(session, await trainer.fit(problems, state))


async def baseline(session: Session, test: tuple[Problem, ...]) -> None:
    """Roll the untrained agent out on the test problems; the results stay in the run folder."""
    await session.rollouts.run(FunctionSet(), test, seed=session.config.seed, stage=Stage(split="test", part="before"))
