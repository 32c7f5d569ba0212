"""CREATOR and CRAFT beside a trained agent: as published, and with majority votes for at most the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentopt_local.agents.creator import CreatorAgent, CreatorDialect
from agentopt_local.problem import Problem
from agentopt_local.trajectory import sum_usage
from benchmarks.paper.craft import CraftAgent, Toolset, toolset_of
from benchmarks.paper.protocol import ArmName
from ray_jobs.baselines import Voter, self_consistency, tokens, vote
from ray_jobs.session import Session


async def measure_arms(
    session: Session, names: Sequence[ArmName], test: Sequence[Problem], budget: int, max_votes: int
) -> dict[str, Any]:
    """For each arm its right and wrong answers, and under ``arms`` those of one attempt per problem, votes and tokens.

    ``budget``: tokens, read and generated, that an arm may use for everything: CRAFT's toolset is paid from it too.
    Where not even one attempt per problem fits, one is made and counts as no vote.
    """
    found: dict[str, Any] = {"arms": {}} if names else {}
    for name in names:
        toolset = await craft_toolset(session) if name == "craft" else Toolset()
        building = tokens(toolset.usage)
        voter = Voter(name, arm_agent(session, toolset))
        [voted] = await self_consistency(session, test, "test", [budget - building], max_votes, voter=voter)
        [once] = await vote(session, test, "test", range(1), voter)
        found[name] = [each.correct for each in voted.elected or once]
        found["arms"][name] = {
            "once": [each.correct for each in once],
            "votes": voted.votes,
            "tools": len(toolset.tools),
            "tokens": {
                "building": building,
                "once": tokens(sum_usage(once)),
                "votes": tokens(voted.usage) if voted.votes else tokens(sum_usage(once)),
            },
        }
    return found


def arm_agent(session: Session, toolset: Toolset) -> CreatorAgent:
    """A creator with the settings of the run's agent, which is offered what matches of ``toolset``."""
    config = session.config.agent.model_copy(update={"kind": "creator", "interpreter": True})
    given = (session.model, session.sandbox, config, CreatorDialect(config), session.config.model.thinking_as("agent"))
    return CraftAgent(toolset, *given) if toolset.tools else CreatorAgent(*given)


async def craft_toolset(session: Session) -> Toolset:
    """CRAFT's toolset from the training problems of the run."""
    problems = session.task.problems("train", session.config.task.n_train)
    [solved] = await vote(session, problems, "train", range(1), Voter("creator", arm_agent(session, Toolset())))
    return await toolset_of(session, list(zip(problems, solved, strict=True)))
