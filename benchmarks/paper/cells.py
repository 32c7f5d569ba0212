"""One cell: a training, its test, and the baselines that it must beat. Finished cells are read, not run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentopt_local.callback import ProgressOnly
from agentopt_local.chat import ChatModel
from agentopt_local.errors import RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.rollout import Progress
from agentopt_local.run.files import functions_folder, is_run, read_json, write_json
from agentopt_local.run.reader import read_written
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.statistics import paired_difference
from agentopt_local.trajectory import Trajectory, sum_usage
from benchmarks.paper.arms import measure_arms
from benchmarks.paper.protocol import ArmName, Cell
from ray_jobs.baselines import one_shot_set, self_consistency, tokens, training_usage
from ray_jobs.evaluation import tested_functions
from ray_jobs.open_models import Models
from ray_jobs.provenance import describe_run
from ray_jobs.runs import new_run, read_config
from ray_jobs.session import Session, open_session
from ray_jobs.training import train_session

MAX_VOTES = 40
"""Most samples per problem; Wang et al. (arXiv 2203.11171) report little gain beyond 40."""


async def run_cell(
    cell: Cell,
    model: ChatModel | Models | None,
    progress: Progress,
    *,
    curve: bool,
    max_votes: int = MAX_VOTES,
    arms: Sequence[ArmName] = (),
) -> dict[str, Any]:
    """The results of a cell, from its folder if it is finished. ``model``: open models that all cells share."""
    run_dir = open_cell(cell)
    try:
        known = read_json(cell.path / "cell.json")
        if isinstance(known, dict) and (known["curve"] or not curve):
            return known
        async with open_session(cell.config, run_dir, [ProgressOnly(progress)], model=model) as session:
            if run_dir.meta() is None:
                run_dir.write_meta(describe_run(session))
            await train_session(session)
            results = await measure(session, curve=curve, max_votes=max_votes, arms=arms)
        write_json(cell.path / "cell.json", results)
        return results
    finally:
        run_dir.close()


def open_cell(cell: Cell) -> RunDir:
    """The cell's run folder, created if necessary. Raises RunDirError if it was made with other settings."""
    if not is_run(cell.path):
        return new_run(cell.config)
    # The folder may have been moved, or be named from elsewhere.
    made, asked = (each.model_dump(exclude={"budget", "run_dir"}) for each in (read_config(cell.path), cell.config))
    if made != asked:
        raise RunDirError(f"{cell.path} was made with other settings; choose another --output, or delete it")
    return RunDir(cell.path)


async def measure(session: Session, *, curve: bool, max_votes: int, arms: Sequence[ArmName] = ()) -> dict[str, Any]:
    """What the table needs from a trained cell: right and wrong per problem, for the agent and each baseline."""
    config, rollouts = session.config, session.rollouts
    state = session.run_dir.resume()
    train_set = session.task.problems("train", config.task.n_train)
    test = session.task.problems("test", config.task.n_test)

    async def roll_out(functions: FunctionSet, problems: Sequence[Problem], stage: str) -> Sequence[Trajectory]:
        return await rollouts.run(functions, problems, seed=config.seed, stage=Stage.parse(stage))

    functions = await tested_functions(session, state)
    untrained = await roll_out(FunctionSet(), test, "test before")
    trained = await roll_out(functions, test, "test after")
    one_shot = await one_shot_set(session)
    written = await roll_out(one_shot, test, "test one-shot")
    look(session, one_shot, untrained, written, "one-shot")
    training = tokens(training_usage(session.run_dir, state))
    budget = training + tokens(sum_usage(trained))
    [voted] = await self_consistency(session, test, "test", [budget], max_votes)
    beside = await measure_arms(session, arms, test, budget, max_votes)
    results: dict[str, Any] = {
        "curve": curve,
        "functions": [each.source for each in functions.each()],
        "sets": {
            "untrained": FunctionSet().fingerprint,
            "trained": functions.fingerprint,
            "one_shot": one_shot.fingerprint,
        },
        "accepted": state.accepted,
        "steps": state.step,
        "problems": [each.id for each in test],
        "untrained": [each.correct for each in untrained],
        "trained": [each.correct for each in trained],
        "one_shot": [each.correct for each in written],
        # the untrained agent answers where not even one vote fits
        "self_consistency": [each.correct for each in voted.elected or untrained],
        "votes": voted.votes,
        "called": sum(bool(each.calls) for each in trained),
        "tokens": {
            "training": training,
            "untrained": tokens(sum_usage(untrained)),
            "trained": tokens(sum_usage(trained)),
            "self_consistency": tokens(voted.usage),
        },
        **beside,
    }
    if config.trainer.batch_size is None:
        results["train"] = {
            "untrained": [each.correct for each in await roll_out(FunctionSet(), train_set, "train before")],
            "trained": [each.correct for each in await roll_out(state.functions, train_set, "train after")],
        }
    if curve:
        results["points"] = await curve_points(session, test)
    return results


async def curve_points(session: Session, test: Sequence[Problem]) -> list[dict[str, Any]]:
    """After each step: the training accuracy of the set in force, and its right and wrong answers on the test."""
    seed, rollouts = session.config.seed, session.rollouts
    rows = session.run_dir.steps()
    untrained = await rollouts.run(FunctionSet(), test, seed=seed, stage=Stage(split="test", part="before"))
    first = rows[0].before.accuracy if rows else None
    points = [{"step": 0, "train": first, "test": [each.correct for each in untrained]}]
    for row in rows:
        if row.decision != "accepted":  # the set stays
            points.append({**points[-1], "step": row.step})
            continue
        written = read_written(functions_folder(session.run_dir.path, row.step))
        functions = FunctionSet(functions=tuple(written.get(name) for name in row.functions))
        tested = await rollouts.run(functions, test, seed=seed, stage=Stage(split="test", part="after each step"))
        look(session, functions, untrained, tested, "learning curve")
        points.append({"step": row.step, "train": row.after.accuracy, "test": [each.correct for each in tested]})
    return points


def look(
    session: Session,
    functions: FunctionSet,
    untrained: Sequence[Trajectory],
    tested: Sequence[Trajectory],
    purpose: str,
) -> None:
    """Log the test of a set that is not the result of the cell's training as a look at its test problems."""
    change = paired_difference([each.correct for each in untrained], [each.correct for each in tested])
    session.run_dir.keep_look(functions.fingerprint, change, purpose)


async def transfer(
    source: Cell, target: Cell, model: ChatModel | Models | None, progress: Progress
) -> dict[str, list[bool]]:
    """The functions that ``source`` learned, on the test problems of ``target``, compared with the untrained agent.

    The result is written to the target's folder, which already has the untrained rollouts.
    """
    name = f"transfer.{source.name}.json"
    run_dir = open_cell(target)
    try:
        known = read_json(target.path / name)
        if isinstance(known, dict):
            return known
        learned = FunctionSet.of(*read_json(source.path / "cell.json")["functions"])
        async with open_session(target.config, run_dir, [ProgressOnly(progress)], model=model) as session:
            test = session.task.problems("test", target.config.task.n_test)
            sides, done = {}, {}
            for side, functions in (("untrained", FunctionSet()), ("trained", learned)):
                stage = Stage(split="test", part=f"with {source.name}" if side == "trained" else "before")
                done[side] = await session.rollouts.run(functions, test, seed=target.config.seed, stage=stage)
                sides[side] = [each.correct for each in done[side]]
            look(session, learned, done["untrained"], done["trained"], "transfer")
        write_json(target.path / name, sides)
        return sides
    finally:
        run_dir.close()
