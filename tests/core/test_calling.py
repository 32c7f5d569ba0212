"""F8: a whole number written as 3.0 reaches a function as an int, whoever calls it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import pytest

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.calling import call_function
from agentopt_local.exporting.replay import replay
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.sandbox import Sandbox, open_sandbox
from agentopt_local.trajectory import Trajectory

T = TypeVar("T")
COUNT = (
    "def count(n: int, rows: list[int], more: Optional[int] = None, name: str = None) -> str:\n"
    '    """Count."""\n    return str([*range(n), *rows, more, name])\n'
)
FUNCTIONS = FunctionSet().adding(Function.new(COUNT))


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[asyncio.Runner, Sandbox]]:
    sandbox = open_sandbox(workers=1)
    with asyncio.Runner() as runner:
        runner.run(sandbox.start())
        yield runner, sandbox
        runner.run(sandbox.aclose())


GIVEN = {"n": 2.0, "rows": [1.0, 5], "more": 7.0, "name": None}
RESULT = "[0, 1, 1, 5, 7, None]"


def test_a_call_is_checked_and_its_numbers_are_as_declared(bench: tuple[asyncio.Runner, Sandbox]) -> None:
    runner, sandbox = bench

    async def called(name: str, arguments: dict[str, object]) -> tuple[bool, object]:
        done = await call_function(sandbox, FUNCTIONS, name, arguments, timeout_s=10)
        return done.ok, done.value if done.ok else done.error

    assert runner.run(called("count", GIVEN)) == (True, RESULT)
    assert runner.run(called("other", {})) == (False, "there is no function 'other'; there are: count")
    for wrong, told in (
        ({"n": 2.5, "rows": []}, "count: argument n: 2.5 is not of type 'integer'"),
        ({"n": "3", "rows": []}, "count: argument n: '3' is not of type 'integer'"),
        ({"n": True, "rows": []}, "count: argument n: True is not of type 'integer'"),
        ({"n": 1, "rows": [0.5]}, "count: argument rows[0]: 0.5 is not of type 'integer'"),
    ):
        assert runner.run(called("count", wrong)) == (False, told)


def test_agents_and_recorded_calls_go_the_same_way(bench: tuple[asyncio.Runner, Sandbox]) -> None:
    runner, sandbox = bench
    turn = f"<tool_call>\n{json.dumps({'name': 'count', 'arguments': GIVEN})}\n</tool_call>"
    agent = make_agent(ScriptedChatModel([turn, "<answer>1</answer>"]), sandbox, AgentConfig())
    attempt = runner.run(_awaited(agent.solve(Problem(id="p", question="?", answer="1"), FUNCTIONS, seed=0)))
    [call] = attempt.steps[0].executed
    assert (call.ok, call.result) == (True, RESULT)

    rollout = Trajectory(**attempt.model_dump(), grade=Grade(reward=1, reason=""))
    [replayed] = runner.run(_awaited(replay(FUNCTIONS, [rollout], sandbox, timeout_s=10)))
    [example] = replayed.examples
    assert example.value == RESULT
    assert repr(example.arguments) == repr({"n": 2, "rows": [1, 5], "more": 7, "name": None}), "as the tests pass them"


async def _awaited(job: Awaitable[T]) -> T:
    return await job
