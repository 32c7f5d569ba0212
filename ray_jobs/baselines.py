"""The baselines that a trained agent must beat, on the same problems: placebo, one-shot set and majority votes.

Everything is made of rollouts in the run folder, with seeds derived from the run's, so asking again repeats no work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from agentopt_local.agents.base import Agent
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import Usage
from agentopt_local.comparison import difference, same_set, side
from agentopt_local.concurrency import together
from agentopt_local.functions import FunctionSet
from agentopt_local.noise_floor import with_placebo
from agentopt_local.problem import Problem, Split
from agentopt_local.rollout import GradedAgent, Progress, Rollouts
from agentopt_local.run.report import Arm
from agentopt_local.run.writer import RunDir
from agentopt_local.seeds import derive
from agentopt_local.stage import Stage
from agentopt_local.train_state import TrainState
from agentopt_local.trajectory import Trajectory, sum_usage, used_functions
from agentopt_local.voting import Ballot
from ray_jobs.evaluation_config import Baseline
from ray_jobs.session import Session

WARM = 0.7
"""Temperature of votes and further attempts if the agent itself is greedy: they must not all be the same."""


@dataclass(frozen=True)
class Voted:
    """Majority votes within a budget."""

    budget: int
    """Tokens, read and generated, that all votes together may use."""
    votes: int
    """Answers per problem; 0 if not even one fits."""
    elected: tuple[Trajectory, ...]
    """One rollout per problem; empty without votes."""
    usage: Usage
    """Of all votes."""


@dataclass(frozen=True)
class Voter:
    """Another agent than the run's own that votes. Its attempts differ by seed alone."""

    name: str
    """Of its stage and its seeds."""
    agent: Agent


async def measure_arms(
    session: Session, state: TrainState, problems: Sequence[Problem], trained: Sequence[Trajectory], split: Split
) -> list[Arm]:
    """The configured baselines on ``problems``, each compared with the rollouts of the trained agent."""
    names = session.config.evaluation.arms(session.device)
    if not problems:
        return []
    budgets = {name: budget for name, budget in vote_budgets(session, state, trained).items() if name in names}

    async def plain(name: Baseline) -> Arm:
        if name == "placebo":
            functions, part = with_placebo(FunctionSet()), "placebo"
        else:
            functions, part = await one_shot_set(session), "one-shot"
        return arm(name, await roll_out(session, functions, problems, split, part), trained, functions)

    async def voting() -> list[Arm]:
        voted = await self_consistency(session, problems, split, list(budgets.values())) if budgets else []
        return [voting_arm(name, each, trained) for name, each in zip(budgets, voted, strict=True)]

    async def one(name: Baseline) -> list[Arm]:
        return [await plain(name)]

    works = [one(name) for name in names if name not in budgets]
    found = {each.name: each for some in await together([*works, voting()]) for each in some}
    return [found[name] for name in names]


async def roll_out(
    session: Session, functions: FunctionSet, problems: Sequence[Problem], split: Split, part: str
) -> Sequence[Trajectory]:
    """Rollouts of ``functions`` with the run's seed."""
    return await session.rollouts.run(
        functions, problems, seed=session.config.seed, stage=Stage(split=split, part=part)
    )


def arm(name: Baseline, tested: Sequence[Trajectory], trained: Sequence[Trajectory], functions: FunctionSet) -> Arm:
    """A baseline with one rollout per problem."""
    same = same_set(tested, trained)
    return Arm(
        name=name,
        result=side(tested),
        difference=None if same else difference(tested, trained),
        same_set=same,
        functions=functions.names,
    )


def voting_arm(name: str, voted: Voted, trained: Sequence[Trajectory]) -> Arm:
    """A baseline of votes; without a result if not even one fits into its budget."""
    result = side(voted.elected).model_copy(update={"tokens": voted.usage}) if voted.votes else None
    return Arm(
        name=name,
        result=result,
        difference=difference(voted.elected, trained) if voted.votes else None,
        votes=voted.votes,
        budget=voted.budget,
    )


async def one_shot_set(session: Session) -> FunctionSet:
    """The first update's whole set, through the filter that the trained set passes; empty if there was no update."""
    first = session.run_dir.proposals().get((1, 0))
    return await only_used(session, first.functions if first else FunctionSet(), "one-shot")


async def only_used(session: Session, functions: FunctionSet, part: str) -> FunctionSet:
    """``functions``; with ``keep_only_used``, those of them that were called successfully on the training problems."""
    if not session.config.trainer.keep_only_used or not functions.functions:
        return functions
    problems = session.task.problems("train", session.config.task.n_train)
    return used_functions(functions, await roll_out(session, functions, problems, "train", part))


def vote_budgets(session: Session, state: TrainState, trained: Sequence[Trajectory]) -> Mapping[Baseline, int]:
    """The tokens that each kind of self-consistency may use."""
    test = tokens(sum_usage(trained))
    return {
        "self_consistency": test,
        "self_consistency_total": test + tokens(training_usage(session.run_dir, state)),
    }


async def self_consistency(
    session: Session,
    problems: Sequence[Problem],
    split: Split,
    budgets: Sequence[int],
    most: int | None = None,
    *,
    voter: Voter | None = None,
) -> list[Voted]:
    """Majority votes of the untrained agent, or ``voter``, for each of ``budgets``, which share their rollouts.

    For each there are as many votes as it allows, rounded down so that it is never exceeded, and at most ``most``
    (None: ``evaluation.max_votes``). The first vote is made in any case, because it shows what a vote costs.
    """
    most = session.config.evaluation.max_votes if most is None else most
    passes = [*await vote(session, problems, split, range(1), voter)]
    cost = max(1, tokens(sum_usage(passes[0])))
    wanted = min(most, max(budgets) // cost)
    passes += await vote(session, problems, split, range(1, wanted), voter) if wanted > 1 else []
    spent = list(accumulate(tokens(sum_usage(each)) for each in passes))
    return [
        await counted(session, problems, budget, passes[: sum(each <= budget for each in spent)]) for budget in budgets
    ]


async def vote(
    session: Session, problems: Sequence[Problem], split: Split, numbers: range, voter: Voter | None = None
) -> list[tuple[Trajectory, ...]]:
    """One vote of the untrained agent, or ``voter``, on each problem for each of ``numbers``, all at once."""
    use = f"{voter.name} vote" if voter else "vote"
    stage = Stage(split=split, part=f"{use}s")
    progress = counting(session.rollouts.progress, stage, len(numbers) * len(problems))
    rollouts = rollouts_of(session, voter.agent, progress) if voter else warm_rollouts(session, progress)
    return await together(
        rollouts.run(FunctionSet(), problems, seed=derive(session.config.seed, use, number), stage=stage)
        for number in numbers
    )


def warm_rollouts(session: Session, progress: Progress) -> Rollouts:
    """Rollouts of the session's agent at a temperature above 0, so that those with other seeds differ."""
    config = session.config
    warm = config.agent.model_copy(update={"temperature": config.agent.temperature or WARM})
    agent = make_agent(session.model, session.sandbox, warm, config.model.thinking_as("agent"))
    return rollouts_of(session, agent, progress)


def rollouts_of(session: Session, agent: Agent, progress: Progress) -> Rollouts:
    """Rollouts of ``agent``, made in this process, also where others are made on other nodes."""
    rollouts = Rollouts(
        GradedAgent(agent, session.task, session.sandbox),
        session.run_dir,
        admission=session.rollouts.admission,
        progress=progress,
        observe=session.rollouts.observe,
    )
    rollouts.under_way = session.rollouts.under_way
    return rollouts


def counting(progress: Progress, stage: Stage, total: int) -> Progress:
    """Reports several runs at once as one stage with ``total`` rollouts."""
    ended = 0
    progress(stage, 0, total)

    def count(_: Stage, done: int, __: int) -> None:
        nonlocal ended
        if done:
            ended += 1
            progress(stage, ended, total)

    return count


async def counted(
    session: Session, problems: Sequence[Problem], budget: int, passes: Sequence[Sequence[Trajectory]]
) -> Voted:
    """The result of the votes in ``passes``, each of which has one per problem."""
    ballot = Ballot(session.task, session.sandbox)
    cast = list(zip(*passes, strict=True)) if passes else []
    elected = [await ballot.elect(problem, votes) for problem, votes in zip(problems, cast, strict=False)]
    usage = sum((sum_usage(each) for each in passes), Usage())
    return Voted(budget=budget, votes=len(passes), elected=tuple(elected), usage=usage)


def training_usage(run_dir: RunDir, state: TrainState) -> Usage:
    """Tokens of the training: its rollouts and the optimizer, without what only measures."""
    training = (row.trajectory.spent for row in run_dir.rollouts() if row.stage.trains)
    return sum(training, state.usage)


def tokens(usage: Usage) -> int:
    """Prompt and generated tokens."""
    return usage.prompt_tokens + usage.completion_tokens
