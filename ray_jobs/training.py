"""The ``train`` and ``resume`` jobs: a run from its settings to its report."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import task_group, together
from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.merging import examples_of, merge_update
from agentopt_local.noise_floor import measure_noise_floor, with_placebo
from agentopt_local.problem import Problem
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from agentopt_local.steps import batch_of
from agentopt_local.tasks.base import Problems
from agentopt_local.train_state import TrainState
from agentopt_local.trainer import Trainer
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import Update
from ray_jobs.baselines import roll_out, warm_rollouts
from ray_jobs.certifying import certify_training, foresee
from ray_jobs.config import RunConfig
from ray_jobs.context_check import check_context, context_notes
from ray_jobs.crediting import credited, is_pruned
from ray_jobs.evaluation import evaluate_session
from ray_jobs.open_models import Models
from ray_jobs.provenance import describe_run
from ray_jobs.rollout_counts import floor_problems
from ray_jobs.session import Session, open_session

log = logging.getLogger("agentopt")


async def train(
    config: RunConfig,
    run_dir: RunDir,
    *,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Report:
    """Train until a stop, certify the kept set, evaluate, and return the report. Continues where the folder's state is.

    ``model`` and ``task`` are objects given in Python. A kill at any moment loses only the rollouts and drafts that
    were in flight.
    """
    check_learns(config)
    async with open_session(config, run_dir, callbacks, model=model, task=task) as session:
        check_context(config, "the run's settings", session.contexts)
        for note in context_notes(config, session.contexts):
            log.warning("%s", note)
        if run_dir.meta() is None:
            run_dir.write_meta(describe_run(session))
        return await train_session(session)


def check_learns(config: RunConfig) -> None:
    """Raise ConfigError if the agent is of a kind that is only a baseline."""
    if config.agent.kind == "creator":
        raise ConfigError(
            'agent.kind = "creator" writes its own tool for each problem, so it has no functions to learn; train with '
            '"function_calling" or "react", beside which python -m benchmarks.paper table4 tests it'
        )


async def train_session(session: Session) -> Report:
    """The training, the certificate and the evaluation of an open session."""
    config = session.config
    foresee(session)
    state = session.run_dir.resume()
    problems = session.task.problems("train", config.task.n_train)
    test = session.task.problems("test", config.task.n_test)
    session.run_dir.keep_problems("train", problems)
    session.run_dir.keep_problems("test", test)
    session.optimizer.continue_from(session.run_dir.proposals().values())
    trainer = Trainer(
        session.optimizer,
        session.rollouts,
        session.run_dir,
        config.trainer,
        seed=config.seed,
        on_step=session.observers.on_step,
        explore=warm_rollouts(session, session.rollouts.progress) if config.trainer.attempts > 1 else None,
        merge=merging(session) if config.trainer.merge else None,
        overlap=not config.take_turns,  # models that sleep in turn would be woken again and again
    )
    with session.timed("noise floor"):
        await find_noise_floor(session, state, problems)
    # What does not depend on the training fills the engine's batch meanwhile.
    async with task_group() as group:
        group.create_task(untrained(session, test))
        training = group.create_task(trained(session, trainer, problems, state))
    with session.timed("certificate"):
        await certify_training(session, training.result())
    return await evaluate_session(session, training.result(), test)


def merging(session: Session) -> Callable[[FunctionSet, Sequence[Trajectory]], Awaitable[Update]]:
    """What removes functions that are in a set twice, by the arguments that the run knows for them."""

    async def merge(functions: FunctionSet, rollouts: Sequence[Trajectory]) -> Update:
        examples = examples_of(session.run_dir.proposals().values())
        timeout_s = session.config.optimizer.timeout_s
        return await merge_update(functions, examples, rollouts, session.sandbox, timeout_s)

    return merge


async def trained(session: Session, trainer: Trainer, problems: Sequence[Problem], state: TrainState) -> TrainState:
    """The state after the last step and, if configured, after pruning; a pruned set is not trained any further."""
    if is_pruned(session.run_dir.path, state):
        return state
    with session.timed("training"):
        state = await trainer.fit(problems, state)
    with session.timed("credit"):
        return await credited(session, state)


async def find_noise_floor(session: Session, state: TrainState, problems: Sequence[Problem]) -> None:
    """Before step 1, measure and tell what chance does to the agent that the training starts from.

    After a resume within step 1 its rollouts are known; later, or when the training has stopped, nothing is done.
    """
    config = session.config
    most = floor_problems(config)
    if not most or state.step or state.stopped is not None:
        return
    batch = batch_of(problems, config.trainer.batch_size, config.seed, state.step)
    floor = await measure_noise_floor(
        session.rollouts, state.functions, batch, most=most, n_test=config.task.n_test, seed=config.seed
    )
    session.run_dir.keep_noise_floor(floor)
    session.observers.on_noise_floor(floor)


async def untrained(session: Session, test: Sequence[Problem]) -> None:
    """Roll the agent without functions, and with the placebo, out on the test; the results stay in the run folder."""
    sides = {"before": FunctionSet()}
    if "placebo" in session.config.evaluation.arms(session.device):
        sides["placebo"] = with_placebo(FunctionSet())
    await together(roll_out(session, functions, test, "test", part) for part, functions in sides.items())
