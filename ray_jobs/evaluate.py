"""The ``evaluate`` job: the untrained and the trained agent on the same problems."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agentopt_local.chat import Usage
from agentopt_local.evaluate import compare, function_rows
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem, Split
from agentopt_local.rollout import Progress
from agentopt_local.run_dir import RunDir
from agentopt_local.trainer import TrainState, sum_usage, used_functions
from agentopt_local.trajectory import Trajectory
from ray_jobs.config import RunConfig
from ray_jobs.session import Session, open_session


async def evaluate(
    config: RunConfig,
    run_dir: RunDir,
    *,
    split: Split,
    n: int,
    progress: Progress,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's best accepted functions on ``n`` problems of ``split``; rollouts that exist are reused."""
    from ray_jobs.train import read_state

    # The optimizer has nothing to do here, so no engine is started for it.
    config = config.model_copy(update={"optimizer_model": None})
    async with open_session(config, run_dir, progress, on_metrics=on_metrics) as session:
        problems = session.task.problems(split, n)
        return await evaluate_session(session, read_state(run_dir), problems, split=split)


async def evaluate_session(
    session: Session, state: TrainState, problems: tuple[Problem, ...], *, split: Split = "test"
) -> dict[str, Any]:
    """The report of ``state`` on ``problems``, also written to report.json."""
    config = session.config
    session.run_dir.keep_problems(split, problems)
    functions = await tested_functions(session, state)
    before = await session.rollouts.run(FunctionSet(), problems, seed=config.seed, stage=f"{split} before")
    after = await session.rollouts.run(functions, problems, seed=config.seed, stage=f"{split} after")
    steps = session.run_dir.steps()
    spent = sum((row["seconds"] for row in steps), 0.0)
    report = {
        "task": config.task.spec,
        "model": config.model.name,
        "seed": config.seed,
        split: compare(problems, before, after, seed=config.seed),
        "functions": function_rows(functions, after),
        "actions": state.counts.model_dump(),
        "training": {
            "steps": state.step,
            "accepted": state.accepted,
            "rolled_back": sum(row["decision"] == "rolled_back" for row in steps),
            "skipped": sum(row["decision"] == "skipped" for row in steps),
            "stopped": state.stopped,
        },
        "tokens": {
            "optimizer": state.usage.model_dump(),
            "test_before": sum_usage(before).model_dump(),
            "test_after": sum_usage(after).model_dump(),
        },
        "costs": spending(session),
        "seconds": {"training_steps": round(spent, 1), "this_process": round(time.monotonic() - session.started, 1)},
    }
    session.run_dir.write_json("report.json" if split == "test" else f"report.{split}.json", report)
    return report


def spending(session: Session) -> dict[str, Any]:
    """Tokens and money by stage and in all, over all processes that worked on the run."""
    ledger, prices = session.ledger, session.config.model.prices
    stages: dict[str, Usage] = {}
    for stage, trajectories in session.run_dir.rollouts_by_stage().items():
        name = "training rollouts" if stage.startswith(("step ", "train ")) else stage
        stages[name] = stages.get(name, Usage()) + sum_usage(trajectories)
    rows = {name: {"tokens": usage.model_dump(), "cost": prices.cost(usage)} for name, usage in stages.items()}
    written = ledger.usage["optimizer"]
    rows["proposals"] = {"tokens": written.model_dump(), "cost": ledger.cost["optimizer"]}
    total: dict[str, Any] = {
        role: {"tokens": usage.model_dump(), "cost": ledger.cost[role]} for role, usage in ledger.usage.items()
    }
    return {"stages": rows, **total, "money": ledger.money, "requests_lost": ledger.lost}


async def tested_functions(session: Session, state: TrainState) -> FunctionSet:
    """The best accepted set, less what was never called successfully where the configuration asks for that."""
    config = session.config
    if not config.trainer.keep_only_used:
        return state.functions
    problems = session.task.problems("train", config.task.n_train)
    latest: tuple[Trajectory, ...] = await session.rollouts.run(
        state.functions, problems, seed=config.seed, stage="train again"
    )
    return used_functions(state.functions, latest)
