"""Drafting begins with the kinds whose rollouts have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agentopt_local.errors import EngineDeadError
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.incoming import Incoming, UnderWay
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.problem import Problem
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import OptimizerConfig
from tests.tools.drafting import Author, Bench, Shouting, attempt, bench, header, word_problem

__all__ = ["bench"]
FAST = [word_problem(f"fast{letter}", "fast") for letter in "abc"]
SLOW = [word_problem(f"slow{letter}", "slow") for letter in "abc"]


def under_way(
    events: dict[str, asyncio.Event],
    problems: Sequence[Problem],
    answers: dict[str, str] | None = None,
    more: Any = None,
) -> UnderWay:
    """Rollouts that end when their kind's event is set; all fail unless ``answers`` says otherwise."""

    async def rollout(problem: Problem) -> Trajectory:
        await events[problem.kind].wait()
        return attempt(problem, answer=(answers or {}).get(problem.id, "dunno")).trajectory

    return UnderWay(problems, [asyncio.create_task(rollout(each)) for each in problems], more)


def test_a_kind_is_drafted_for_while_another_is_rolled_out(bench: Bench) -> None:
    asked: list[str] = []
    drafting = asyncio.Event()

    def name(request: Any) -> str:
        kind = "fast" if "Shout: fast" in request.messages[0].content else "slow"
        asked.append(kind)
        drafting.set()
        return header(name=f"shout_{kind}")

    def source(request: Any) -> str:
        kind = "fast" if "Shout: fast" in request.messages[0].content else "slow"
        return f'def shout_{kind}(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n'

    async def run() -> tuple[str, ...]:
        events = {"fast": asyncio.Event(), "slow": asyncio.Event()}
        incoming = under_way(events, [*FAST, *SLOW])
        optimizer = Optimizer(
            ScriptedChatModel(Author(name, source)), Shouting(), bench.sandbox, OptimizerConfig(n_samples=1)
        )
        proposing = asyncio.create_task(optimizer.propose(FunctionSet(), incoming, (), seed=1))
        events["fast"].set()
        await asyncio.wait_for(drafting.wait(), timeout=10)
        assert asked == ["fast"]
        assert not proposing.done()
        events["slow"].set()
        return (await proposing).functions.names

    assert bench.run(run()) == ("shout_fast", "shout_slow")
    assert asked == ["fast", "slow"]


def test_evidence_is_complete_for_a_kind_and_in_the_order_of_the_problems() -> None:
    async def run() -> None:
        events = {"fast": asyncio.Event(), "slow": asyncio.Event()}
        times: list[str] = []

        async def more(found: Sequence[Evidence]) -> list[Evidence]:
            times.append(found[0].problem.kind)
            return [attempt(found[0].problem, answer=found[0].problem.answer)]

        mixed = [SLOW[0], FAST[0], SLOW[1], FAST[1]]
        incoming = under_way(events, mixed, more=more)
        assert incoming.kinds == ("slow", "fast")
        events["fast"].set()
        fast = await incoming.of_kind("fast")
        assert [each.problem for each in fast] == [FAST[0], FAST[1], FAST[0]]
        assert [each.trajectory.correct for each in fast] == [False, False, True]
        events["slow"].set()
        everything = await incoming.all()
        assert [each.problem for each in everything] == [*mixed, SLOW[0], FAST[0]]
        await incoming.all()
        assert sorted(times) == ["fast", "slow"], "more is looked for once"

    asyncio.run(run())


def test_whether_anything_failed_is_known_with_the_first_failure() -> None:
    async def run() -> None:
        events = {"fast": asyncio.Event(), "slow": asyncio.Event()}
        events["fast"].set()
        incoming = under_way(events, [*FAST, *SLOW])
        assert await asyncio.wait_for(incoming.any_failed(), timeout=5)
        events["slow"].set()
        answers = {each.id: each.answer for each in (*FAST, *SLOW)}
        assert not await under_way(events, [*FAST, *SLOW], answers).any_failed()

    asyncio.run(run())


def test_evidence_that_is_complete_has_the_same_form() -> None:
    evidence = [attempt(each) for each in (*FAST, *SLOW)]
    incoming = Incoming(evidence)
    assert incoming.kinds == ("fast", "slow")
    assert asyncio.run(incoming.of_kind("slow")) == evidence[3:]
    assert asyncio.run(incoming.all()) == evidence


def test_an_error_of_a_rollout_is_raised_as_itself() -> None:
    async def run() -> None:
        async def dead() -> Trajectory:
            raise EngineDeadError("the engine is dead")

        incoming = UnderWay(FAST[:1], [asyncio.create_task(dead())])
        with pytest.raises(EngineDeadError):
            await incoming.of_kind("fast")
        with pytest.raises(EngineDeadError):
            await incoming.any_failed()

    asyncio.run(run())
