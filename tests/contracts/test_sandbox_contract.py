"""What every Sandbox promises. To test another implementation, add it to ``IMPLEMENTATIONS``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentopt_local.sandbox import Execution, Sandbox, SandboxLimits, open_sandbox

IMPLEMENTATIONS: dict[str, Callable[[SandboxLimits], Any]] = {
    "fork_server": lambda limits: open_sandbox(limits=limits, workers=2),
}
LIMITS = SandboxLimits(timeout_s=10.0, memory_bytes=256 << 20, output_bytes=2048, result_bytes=4096)
SOLVE = "def solve(a, b=2):\n    print('working')\n    return a / b\n"

Scenario = Callable[[Sandbox], Awaitable[None]]
SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


@scenario
async def call_returns_the_value_and_the_output(sandbox: Sandbox) -> None:
    execution = await sandbox.call(SOLVE, "solve", {"a": 3})
    assert (execution.ok, execution.value, execution.status, execution.error) == (True, 1.5, "ok", None)
    assert (execution.stdout, execution.stderr) == ("working\n", "")
    assert execution.wall_s >= 0
    assert execution.cpu_s >= 0


@scenario
async def call_tells_an_exception_with_its_line(sandbox: Sandbox) -> None:
    execution = await sandbox.call(SOLVE, "solve", {"a": 3, "b": 0})
    assert (execution.ok, execution.value, execution.status) == (False, None, "exception")
    assert execution.error == "line 3, in solve: return a / b\nZeroDivisionError: division by zero"
    assert execution.stdout == "working\n"


@scenario
async def wrong_arguments_are_told_with_the_parameters(sandbox: Sandbox) -> None:
    execution = await sandbox.call(SOLVE, "solve", {"x": 3})
    assert execution.status == "exception"
    assert "(a, b=2)" in (execution.error or "")


@scenario
async def a_missing_function_is_told(sandbox: Sandbox) -> None:
    execution = await sandbox.call(SOLVE, "other", {})
    assert execution.status == "exception"
    assert "'other'" in (execution.error or "")


@scenario
async def a_syntax_error_is_told_with_its_line(sandbox: Sandbox) -> None:
    execution = await sandbox.run("x = 1\ny = = 2\n")
    assert execution.status == "exception"
    assert execution.error == "line 2: y = = 2\nSyntaxError: invalid syntax"


@scenario
async def run_prints_the_last_expression(sandbox: Sandbox) -> None:
    execution = await sandbox.run("x = solve(4)\nprint(x)\n'é' * 2", functions=SOLVE)
    assert (execution.ok, execution.value, execution.stdout) == (True, None, "working\n2.0\n'éé'\n")


@scenario
async def run_prints_no_none(sandbox: Sandbox) -> None:
    assert (await sandbox.run("print(1)")).stdout == "1\n"
    assert (await sandbox.run("")).stdout == ""


@scenario
async def run_keeps_the_output_before_an_exception(sandbox: Sandbox) -> None:
    execution = await sandbox.run("print('before')\nsolve(1, 0)", functions=SOLVE)
    assert (execution.ok, execution.status, execution.stdout) == (False, "exception", "before\nworking\n")
    assert execution.error is not None
    assert execution.error.startswith("line 2: solve(1, 0)\nline 3 of the functions, in solve: return a / b\n")


@scenario
async def nothing_is_left_for_the_next_call(sandbox: Sandbox) -> None:
    await sandbox.run("import builtins\nbuiltins.left = 1\nopen('left', 'w').close()")
    for _ in range(3):
        execution = await sandbox.run("import os, builtins\n(hasattr(builtins, 'left'), os.path.exists('left'))")
        assert execution.stdout == "(False, False)\n"


@scenario
async def an_endless_loop_ends(sandbox: Sandbox) -> None:
    execution = await sandbox.call("def f():\n    print('on')\n    while True: pass", "f", {}, timeout_s=0.3)
    assert (execution.ok, execution.status, execution.stdout) == (False, "timeout", "on\n")
    assert "0.3 s" in (execution.error or "")


@scenario
async def memory_is_limited(sandbox: Sandbox) -> None:
    execution = await sandbox.call("def f():\n    return len(bytearray(1 << 30))", "f", {})
    assert (execution.ok, execution.status) == (False, "memory")


@scenario
async def a_death_is_told(sandbox: Sandbox) -> None:
    execution = await sandbox.call("import os\ndef f():\n    os._exit(0)", "f", {})
    assert (execution.ok, execution.status) == (False, "crashed")


@scenario
async def output_is_cut_and_marked(sandbox: Sandbox) -> None:
    execution = await sandbox.run("print('a' * 5000 + 'z')")
    assert execution.ok
    assert "bytes cut" in execution.stdout
    assert len(execution.stdout) < 2200
    assert execution.stdout.endswith("az\n")


@scenario
async def a_large_result_is_refused(sandbox: Sandbox) -> None:
    execution = await sandbox.call("def f():\n    return 'x' * 5000", "f", {})
    assert (execution.ok, execution.value, execution.status) == (False, None, "result_too_large")


@scenario
async def what_is_no_json_is_refused(sandbox: Sandbox) -> None:
    execution = await sandbox.call("def f():\n    return object()", "f", {})
    assert (execution.ok, execution.status) == (False, "exception")
    assert "object" in (execution.error or "")


@scenario
async def the_seed_decides_random_numbers(sandbox: Sandbox) -> None:
    source = "import random\ndef f():\n    return [random.random() for _ in range(3)]"
    first, again, other = [await sandbox.call(source, "f", {}, seed=seed) for seed in (1, 1, 2)]
    assert first.value == again.value != other.value


@scenario
async def many_calls_come_back_in_order(sandbox: Sandbox) -> None:
    executions = await sandbox.call_many(SOLVE, "solve", [{"a": 1, "b": number} for number in range(70)])
    assert [execution.status for execution in executions] == ["exception"] + ["ok"] * 69
    assert [execution.value for execution in executions[1:]] == [1 / number for number in range(1, 70)]
    assert all(execution.stdout == "working\n" for execution in executions)


@scenario
async def no_calls_give_no_results(sandbox: Sandbox) -> None:
    assert await sandbox.call_many(SOLVE, "solve", []) == []


@scenario
async def one_bad_call_of_many_spoils_no_other(sandbox: Sandbox) -> None:
    source = """
import os
def f(a):
    if a == 3:
        os._exit(1)
    while a == 5:
        pass
    return a
"""
    executions = await sandbox.call_many(source, "f", [{"a": number} for number in range(8)], timeout_s=0.5)
    statuses = [execution.status for execution in executions]
    assert statuses == ["ok", "ok", "ok", "crashed", "ok", "timeout", "ok", "ok"]
    assert [execution.value for execution in executions] == [0, 1, 2, None, 4, None, 6, 7]


@scenario
async def more_calls_than_workers_wait(sandbox: Sandbox) -> None:
    calls = [sandbox.call(SOLVE, "solve", {"a": number, "b": 1}) for number in range(12)]
    assert [execution.value for execution in await asyncio.gather(*calls)] == list(range(12))


@scenario
async def cancelling_kills_the_call(sandbox: Sandbox) -> None:
    loops = [asyncio.create_task(sandbox.run("while True: pass", timeout_s=60)) for _ in range(2)]
    await asyncio.sleep(0.2)
    for task in loops:
        task.cancel()
    results = await asyncio.gather(*loops, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    async with asyncio.timeout(20):  # both workers are free again, long before the 60 s
        assert (await sandbox.call(SOLVE, "solve", {"a": 2})).value == 1.0


@scenario
async def executions_are_values(sandbox: Sandbox) -> None:
    execution = await sandbox.call(SOLVE, "solve", {"a": 3})
    assert Execution.model_validate_json(execution.model_dump_json()) == execution


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_the_contract(name: str) -> None:
    async def check() -> None:
        sandbox = IMPLEMENTATIONS[name](LIMITS)
        try:
            for promise in SCENARIOS:
                try:
                    await promise(sandbox)
                except AssertionError as error:
                    error.add_note(f"broken promise: {promise.__name__}")
                    raise
        finally:
            await sandbox.aclose()
            await sandbox.aclose()

    asyncio.run(check())
