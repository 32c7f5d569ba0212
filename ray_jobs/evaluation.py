"""The ``evaluate`` job: the untrained and the trained agent on the same problems."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import get_args

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatModel, Usage
from agentopt_local.comparison import compare, function_results, offers
from agentopt_local.functions import FunctionSet
from agentopt_local.paper_regime import differences
from agentopt_local.problem import Problem, Split
from agentopt_local.reasons import nothing_learned
from agentopt_local.run.reader import read_certificate, read_noise_floor
from agentopt_local.run.report import Comparison, Costs, Report, Seconds, Spent, TrainingSummary
from agentopt_local.run.rows import Role
from agentopt_local.run.writer import RunDir
from agentopt_local.statistics import paired_difference
from agentopt_local.tasks.base import Problems
from agentopt_local.train_state import TrainState
from agentopt_local.trajectory import Trajectory, sum_usage
from ray_jobs.baselines import measure_arms, only_used, roll_out
from ray_jobs.config import RunConfig
from ray_jobs.fair_problems import memory_signs, origins_of
from ray_jobs.open_models import Models, agent_alone
from ray_jobs.session import Session, open_session


async def evaluate(
    config: RunConfig,
    run_dir: RunDir,
    *,
    split: Split,
    n: int,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Report:
    """Evaluate a run's best accepted functions on ``n`` problems of ``split``; rollouts that exist are reused.

    ``model`` and ``task`` are objects given in Python.
    """
    # The optimizer has nothing to do here, so no engine is started for it.
    config = agent_alone(config)
    async with open_session(config, run_dir, callbacks, model=model, task=task) as session:
        problems = session.task.problems(split, n)
        session.observers.forecast.certificate(0)
        return await evaluate_session(session, run_dir.resume(), problems, split=split)


async def evaluate_session(
    session: Session, state: TrainState, problems: tuple[Problem, ...], *, split: Split = "test"
) -> Report:
    """The report of ``state`` on ``problems``, also written to the run folder."""
    config, run_dir = session.config, session.run_dir
    run_dir.keep_problems(split, problems)
    functions = await tested_functions(session, state)
    with session.timed("test"):
        before = await roll_out(session, FunctionSet(), problems, split, "before")
        after = await roll_out(session, functions, problems, split, "after")
        comparison = compare(problems, before, after, await measure_arms(session, state, problems, after, split))
    if split == "test" and problems:
        comparison = as_look(run_dir, functions, comparison, before, after)
    steps = run_dir.steps()
    report = Report(
        task=config.task.spec,
        model=config.model.name,
        seed=config.seed,
        certificate=read_certificate(run_dir.path, functions),
        noise_floor=read_noise_floor(run_dir.path),
        functions=function_results(functions, after),
        memorising=memory_signs(session, functions),
        offers=offers(functions, problems, after, origins_of(session, functions)),
        actions=state.counts,
        training=TrainingSummary(
            steps=state.step,
            accepted=state.accepted,
            rolled_back=sum(row.decision == "rolled_back" for row in steps),
            skipped=sum(row.decision == "skipped" for row in steps),
            stopped=state.stopped,
        ),
        tokens={"optimizer": state.usage, "test_before": sum_usage(before), "test_after": sum_usage(after)},
        nothing_learned=nothing_learned(steps, state.stopped),
        costs=spending(session),
        seconds=Seconds(
            training_steps=round(sum((row.seconds for row in steps), 0.0), 1),
            this_process=round(time.monotonic() - session.started, 1),
            parts={part: round(each, 1) for part, each in session.seconds.items()},
        ),
        regime=differences(config.model_dump(mode="json")) if config.preset == "paper" else (),
    ).model_copy(update={split: comparison})
    run_dir.write_report(split, report)
    session.observers.on_evaluation(report)
    return report


def as_look(
    run_dir: RunDir,
    functions: FunctionSet,
    comparison: Comparison,
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
) -> Comparison:
    """``comparison`` on the test problems with its number in the run's log of looks."""
    change = paired_difference([each.correct for each in before], [each.correct for each in after])
    look = run_dir.keep_look(functions.fingerprint, change)
    return comparison.model_copy(update={"look": look, "test_set": run_dir.test_set(comparison.n)})


def spending(session: Session) -> Costs:
    """Tokens and money by stage and in all, over all processes that worked on the run."""
    ledger, prices = session.ledger, session.config.model.prices
    usage: dict[str, Usage] = {}
    for row in session.run_dir.rollouts():
        name = "training rollouts" if row.stage.of_split == "train" else str(row.stage)
        name = "noise floor" if row.stage.of_floor else name
        usage[name] = usage.get(name, Usage()) + row.trajectory.spent
    stages = {name: Spent(tokens=each, cost=prices.cost(each)) for name, each in usage.items()}
    agent, optimizer = (Spent(tokens=ledger.usage[role], cost=ledger.cost[role]) for role in get_args(Role))
    return Costs(
        stages={**stages, "proposals": optimizer},
        agent=agent,
        optimizer=optimizer,
        money=ledger.money,
        requests_lost=ledger.lost,
    )


async def tested_functions(session: Session, state: TrainState) -> FunctionSet:
    """The best accepted set; where configured, only its functions that were called successfully."""
    return await only_used(session, state.functions, "again")
