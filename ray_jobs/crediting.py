"""The ``credit`` job: what each function of a run contributes, which look memorised, and pruning."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import together
from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.leaving_out import (
    LEAST,
    Mask,
    credit_each,
    effect,
    half_masks,
    left_out,
    not_shown,
    not_worse,
    removable,
    without,
)
from agentopt_local.origins import Origin
from agentopt_local.problem import Problem, Split
from agentopt_local.rollout import Rollouts
from agentopt_local.run.contribution import Credit, FunctionCredit, Pruned
from agentopt_local.run.credits import read_credit
from agentopt_local.run.files import copy_without_results
from agentopt_local.run.reader import read_report, read_state
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.tasks.base import Problems
from agentopt_local.train_state import TrainState
from agentopt_local.trajectory import Trajectory
from ray_jobs.config import RunConfig
from ray_jobs.evaluation import tested_functions
from ray_jobs.fair_problems import fair_problems, memory_signs, nothing_left, origins_of
from ray_jobs.open_models import Models, agent_alone
from ray_jobs.runs import unused
from ray_jobs.session import Session, open_session

log = logging.getLogger(__name__)


async def credit(
    config: RunConfig,
    run_dir: RunDir,
    *,
    split: Split | None = None,
    n: int | None = None,
    prune: bool = False,
    callbacks: Iterable[Callback] = (),
    model: ChatModel | Models | None = None,
    task: Problems | None = None,
) -> Credit:
    """What each function of a run contributes, also written to the run folder; rollouts that exist are reused.

    ``split``, ``n``, ``prune``: see :func:`credit_session`. ``model`` and ``task`` are objects given in Python. Raises
    ConfigError if there is nothing to measure.
    """
    state = run_dir.resume()
    if not state.functions.functions:
        raise ConfigError(f"{run_dir.path} has learned no function, so there is nothing to measure")
    if prune and state.stopped is None:
        raise ConfigError(
            f"{run_dir.path}: the training has not ended, and would go on from the pruned set; "
            f"first: agentopt resume {run_dir.path}"
        )
    async with open_session(agent_alone(config), run_dir, callbacks, model=model, task=task) as session:
        found = await credit_session(session, state, split=split, n=n, prune=prune)
    if not found.problems:
        raise ConfigError(f"{run_dir.path}: {' '.join(found.notes)}")
    return found


async def credited(session: Session, state: TrainState) -> TrainState:
    """The step of a training between its end and the test, if it is configured: the state, perhaps pruned."""
    how = session.config.evaluation.credit
    if how == "off" or not state.functions.functions or is_pruned(session.run_dir.path, state):
        return state
    await credit_session(session, state, prune=how == "prune")
    return session.run_dir.resume()


def is_pruned(run: Path, state: TrainState) -> bool:
    """Whether ``state`` has the set that pruning left. No training goes on from it."""
    known = read_credit(run)
    pruned = None if known is None else known.pruned
    return pruned is not None and pruned.run is None and pruned.functions == state.functions.fingerprint


async def credit_session(
    session: Session, state: TrainState, *, split: Split | None = None, n: int | None = None, prune: bool = False
) -> Credit:
    """What each function of ``state`` contributes, also written to the run folder.

    ``split``: only on problems of this one; ``n``: on at most so many. ``prune``: functions that hurt or only cost
    tokens are removed. A run that was tested stays as it is, because its results would no longer be about its
    functions: a copy without results gets the pruned set. Where there are no problems, nothing is measured or written
    down, and a note says why.
    """
    functions = await tested_functions(session, state)
    known = origins_of(session, functions)
    problems = fair_problems(session, known, split, n)
    if not problems:
        why = nothing_left(session, split)
        log.warning("what each function contributes was not measured: %s", why)
        return Credit(functions=functions.fingerprint, problems={}, notes=(why,))
    for each, some in problems.items():
        session.run_dir.keep_problems(each, some)
    pool = [each for some in problems.values() for each in some]
    parts = {"": (functions, pool)}
    for name in functions.names:
        parts[f"without {name}"] = without(functions, name), not_shown(pool, left_out(functions, name), known)
    rolled = await roll_out(session, parts)
    masked = await roll_out_masks(session, functions, pool)
    before = read_credit(session.run_dir.path)
    found = Credit(
        functions=functions.fingerprint,
        problems={each: len(some) for each, some in problems.items()},
        masks=max(map(len, masked.values()), default=0),
        each=credit_each(functions, pool, rolled, masked, known),
        memorising=memory_signs(session, functions, pool),
        pruned=before.pruned if before is not None and is_pruned(session.run_dir.path, state) else None,
        notes=tuple(limits(functions, known)),
    )
    candidates = removable(found.each) if prune else []
    if candidates:
        compared = not_shown(pool, {name for each in candidates for name in each.left_out}, known)
        if len(compared) < LEAST:
            too_few = f"Nothing was removed: only {len(compared)} problems were shown to none of the candidates' edits."
            found = found.model_copy(update={"notes": (*found.notes, too_few)})
        elif (change := await pruning(session, functions, candidates, compared)) is not None:
            found = found.model_copy(update={"pruned": change})
            return keep_pruned(session.run_dir, state, functions.keeping(frozenset(change.kept)), found)
    session.run_dir.write_credit(found)
    return found


async def roll_out(
    session: Session, parts: Mapping[str, tuple[FunctionSet, Sequence[Problem]]]
) -> dict[str, dict[str, Trajectory]]:
    """Rollouts of several sets at once, by fingerprint and problem; ``parts``: by what to call the stage.

    Each set is rolled out once on all of its problems, however often it occurs.
    """
    wanted: dict[str, tuple[Stage, FunctionSet, dict[str, Problem]]] = {}
    for part, (functions, problems) in parts.items():
        new = (Stage(part=f"credit {part}".strip()), functions, dict[str, Problem]())
        wanted.setdefault(functions.fingerprint, new)[2].update({each.id: each for each in problems})
    found = await together(
        session.rollouts.run(functions, tuple(problems.values()), seed=session.config.seed, stage=stage)
        for stage, functions, problems in wanted.values()
    )
    return {key: {each.problem_id: each for each in done} for key, done in zip(wanted, found, strict=True)}


async def roll_out_masks(
    session: Session, functions: FunctionSet, problems: Sequence[Problem]
) -> dict[str, list[tuple[Mask, Trajectory]]]:
    """Each problem's half-masks with their rollouts; empty for a set that is too small for them.

    There are many sets with few problems each, so they are one stage together.
    """
    masks = {each.id: half_masks(functions, session.config.seed, each.id) for each in problems}
    wanted: dict[str, tuple[FunctionSet, dict[str, Problem]]] = {}
    for problem in problems:
        for mask in masks[problem.id]:
            wanted.setdefault(mask.functions.fingerprint, (mask.functions, {}))[1][problem.id] = problem
    if not wanted:
        return {}
    stage, total, done = Stage(part="credit halves"), sum(len(some) for _, some in wanted.values()), 0
    shared = session.rollouts

    def observe(stage: Stage, trajectory: Trajectory) -> None:
        nonlocal done
        done += 1
        shared.observe(stage, trajectory)
        shared.progress(stage, done, total)

    shared.progress(stage, 0, total)
    quiet = Rollouts(
        shared.solver, shared.store, admission=shared.admission, retrieval=shared.retrieval, observe=observe
    )
    found = await together(
        quiet.run(some, tuple(on.values()), seed=session.config.seed, stage=stage) for some, on in wanted.values()
    )
    rolled = {(key, each.problem_id): each for key, done_ in zip(wanted, found, strict=True) for each in done_}
    return {id_: [(mask, rolled[mask.functions.fingerprint, id_]) for mask in some] for id_, some in masks.items()}


async def pruning(
    session: Session, functions: FunctionSet, candidates: Sequence[FunctionCredit], problems: Sequence[Problem]
) -> Pruned | None:
    """Remove the candidates one after another, as long as the set without the next is not worse; None if none goes.

    All sets are compared on the same problems, which the edits of no candidate were shown.
    """
    ids = [each.id for each in problems]

    async def rolled(part: str, some: FunctionSet) -> dict[str, Trajectory]:
        return (await roll_out(session, {part: (some, problems)}))[some.fingerprint]

    kept, whole = functions, await rolled("", functions)
    best = whole
    for each in candidates:
        if each.name in kept:  # not removed together with a function that it calls
            smaller = without(kept, each.name)
            tried = await rolled(f"pruned to {', '.join(smaller.names) or 'nothing'}", smaller)
            if not_worse(tried, best, ids):
                kept, best = smaller, tried
    removed = tuple(name for name in functions.names if name not in kept)
    change = effect(best, whole, ids)
    return Pruned(removed=removed, kept=kept.names, functions=kept.fingerprint, effect=change) if removed else None


def keep_pruned(run_dir: RunDir, state: TrainState, functions: FunctionSet, found: Credit) -> Credit:
    """Make the pruned set the run's or, if the run was tested, that of a copy without results."""
    assert found.pruned is not None
    if read_report(run_dir.path) is None:
        adopt(run_dir, state, functions, found)
        return found
    target = copy_name(run_dir.path, functions)
    if not target.exists():
        with copy_without_results(run_dir.path, target) as folder:
            copy = RunDir(folder)
            try:
                adopt(copy, state, functions, found)
            finally:
                copy.close()
    change = found.pruned.model_copy(update={"run": target.name})
    found = found.model_copy(update={"pruned": change})
    run_dir.write_credit(found)
    return found


def copy_name(run: Path, functions: FunctionSet) -> Path:
    """Where the copy with the pruned set is: a new folder, or the one that an interrupted command has made."""
    made = run.with_name(f"{run.resolve().name}-pruned")
    state = read_state(made) if made.is_dir() else None
    return made if state is not None and state.functions == functions else run.parent / unused(run.parent, made.name)


def adopt(run_dir: RunDir, state: TrainState, functions: FunctionSet, found: Credit) -> None:
    """Make the pruned set the run's. The record of it comes first, so that a resume after a kill repeats the rest."""
    run_dir.write_credit(found)
    run_dir.keep_pruned_functions(functions)
    run_dir.keep_state(state.model_copy(update={"functions": functions}))


def limits(functions: FunctionSet, known: Mapping[str, Origin]) -> Iterator[str]:
    """What limits the figures, in sentences."""
    unknown = [name for name, each in known.items() if not each.known]
    if unknown:
        yield (
            f"The run does not say which problems the edits of {', '.join(unknown)} were shown, so no training problem "
            "counts for them."
        )
    if len(functions) == 1:
        yield "Without its only function the agent also has another system prompt, which is part of the effect."
