"""No process, descriptor, folder or result is left behind, whichever process dies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox import ForkServerSandbox, SandboxLimits, open_sandbox
from agentopt_local.setting_types import MAX_SECONDS

ADD = "def add(a, b):\n    return a + b"
LOOP = "def f():\n    open('left', 'w').close()\n    while True: pass"


def parents() -> dict[int, int]:
    """Process id -> parent's, of all processes that are not zombies."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = int(fields[1])
    return found


def descendants(pid: int) -> set[int]:
    above = parents()
    found = {pid} & set(above)
    while True:
        more = {child for child, parent in above.items() if parent in found} - found
        if not more:
            return found
        found |= more


def open_descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def folders() -> set[str]:
    return {path.name for path in (Path(tempfile.gettempdir()) / f"agentopt-{os.geteuid()}").glob("*")}


def wait_gone(pids: set[int], seconds: float = 15.0) -> set[int]:
    end = time.monotonic() + seconds
    while (left := pids & set(parents())) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def launcher_of(sandbox: ForkServerSandbox) -> int:
    pid: int = sandbox.describe_processes()["launcher"]
    return pid


def supervisors(sandbox: ForkServerSandbox) -> list[int]:
    launcher = launcher_of(sandbox)
    return [child for child, parent in parents().items() if parent == launcher]


def template_of(supervisor: int) -> int:
    (template,) = (child for child, parent in parents().items() if parent == supervisor)
    return template


def calls_of(supervisor: int) -> set[int]:
    """The processes of a worker's calls."""
    return descendants(template := template_of(supervisor)) - {template}


def kill_calls_of(supervisor: int) -> None:
    for child in calls_of(supervisor):
        with contextlib.suppress(ProcessLookupError):  # that of a finished call may end meanwhile
            os.kill(child, signal.SIGKILL)


def root_of(sandbox: ForkServerSandbox) -> Path:
    assert sandbox._pool.launcher is not None
    return sandbox._pool.launcher.root


async def add_works(sandbox: ForkServerSandbox) -> None:
    for number in range(4):
        execution = await sandbox.call(ADD, "add", {"a": number, "b": 1})
        assert execution.value == number + 1, execution


def test_nothing_is_left_after_the_end() -> None:
    seen: dict[str, Any] = {}

    async def work() -> None:
        async with open_sandbox(workers=2) as sandbox:
            await add_works(sandbox)
            seen["pids"] = descendants(launcher_of(sandbox))
            seen["root"] = root_of(sandbox)
            assert len(seen["pids"]) >= 3
            running = asyncio.create_task(sandbox.call(LOOP, "f", {}, timeout_s=60))
            await asyncio.sleep(0.1)
        execution = await running
        assert execution.status == "worker_lost"
        with pytest.raises(SandboxError, match="closed"):
            await sandbox.call(ADD, "add", {"a": 1, "b": 2})

    asyncio.run(work())  # what asyncio itself opens once
    before = open_descriptors()
    asyncio.run(work())
    assert open_descriptors() == before
    assert not wait_gone(seen["pids"])
    assert not seen["root"].exists()
    assert not [name for name in folders() if name.startswith(seen["root"].name)]


def test_nothing_is_left_after_the_trainer_is_killed() -> None:
    code = f"""
import asyncio
from agentopt_local.sandbox import open_sandbox
async def main():
    async with open_sandbox(workers=2) as sandbox:
        loops = [asyncio.create_task(sandbox.call({LOOP!r}, "f", {{}}, timeout_s=600)) for _ in range(2)]
        await asyncio.sleep(0.2)
        print(sandbox.describe_processes()["launcher"], sandbox._pool.launcher.root, flush=True)
        await asyncio.gather(*loops)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        launcher, root = trainer.stdout.readline().split()
        pids = descendants(int(launcher))
        assert len(pids) >= 5
        trainer.kill()
    assert not wait_gone(pids)
    end = time.monotonic() + 5
    while Path(root + ".lock").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not [name for name in folders() if name.startswith(Path(root).name)]


def test_killed_supervisors_cost_their_own_call_only() -> None:
    async def work() -> None:
        generator = random.Random(0)
        async with open_sandbox(workers=2) as sandbox:
            await add_works(sandbox)
            before = open_descriptors()
            done = asyncio.Event()

            async def kill_now_and_then() -> int:
                kills = 0
                while not done.is_set():
                    await asyncio.sleep(generator.uniform(0.02, 0.1))
                    victims = supervisors(sandbox)
                    if victims:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(generator.choice(victims), signal.SIGKILL)
                            kills += 1
                return kills

            killer = asyncio.create_task(kill_now_and_then())
            source = "import time\ndef f(a):\n    print(a)\n    time.sleep(0.005)\n    return [a] * 3"
            executions = await asyncio.gather(*[sandbox.call(source, "f", {"a": number}) for number in range(120)])
            done.set()
            kills = await killer
            for number, execution in enumerate(executions):
                if execution.status != "worker_lost":
                    assert (execution.value, execution.stdout) == ([number] * 3, f"{number}\n"), execution
            lost = sum(execution.status == "worker_lost" for execution in executions)
            assert kills > 0
            assert lost <= kills
            for _ in range(2):  # the last kill may have hit an idle worker
                await sandbox.run("")
            await add_works(sandbox)
            assert open_descriptors() <= before + 1

    asyncio.run(work())


def test_a_killed_launcher_is_replaced() -> None:
    async def work() -> None:
        async with open_sandbox(workers=2) as sandbox:
            first = launcher_of(sandbox)
            pids = descendants(first)
            os.kill(first, signal.SIGKILL)
            assert not await asyncio.to_thread(wait_gone, pids)
            results = [await sandbox.call(ADD, "add", {"a": 1, "b": 2}) for _ in range(3)]
            assert {execution.status for execution in results} <= {"ok", "worker_lost"}
            await add_works(sandbox)
            assert launcher_of(sandbox) != first

    asyncio.run(work())


def test_a_killed_child_is_a_crashed_call() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            running = asyncio.create_task(sandbox.call(LOOP, "f", {}, timeout_s=30))
            await asyncio.sleep(0.2)
            (supervisor,) = supervisors(sandbox)
            kill_calls_of(supervisor)
            assert (await running).status == "crashed"
            await add_works(sandbox)

    asyncio.run(work())


def test_a_spare_that_died_is_replaced_unseen() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            (supervisor,) = supervisors(sandbox)
            for number in range(3):
                kill_calls_of(supervisor)
                await asyncio.sleep(0.3)
                assert (await sandbox.call(ADD, "add", {"a": number, "b": 1})).value == number + 1

    asyncio.run(work())


def test_cancelling_kills_the_process_and_wipes_its_folder() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            (supervisor,) = supervisors(sandbox)
            for _ in range(5):
                running = asyncio.create_task(sandbox.call(LOOP, "f", {}, timeout_s=60))
                await asyncio.sleep(0.1)
                busy = calls_of(supervisor)
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
                assert not await asyncio.to_thread(wait_gone, busy)
            execution = await sandbox.run("import os; os.listdir('.')")
            assert execution.stdout == "[]\n"
            assert supervisors(sandbox) == [supervisor]  # it was never lost

    asyncio.run(work())


def test_cancelling_at_any_moment_does_no_harm() -> None:
    async def work() -> None:
        generator = random.Random(1)
        async with open_sandbox(workers=2) as sandbox:
            for number in range(60):
                running = asyncio.create_task(sandbox.call(ADD, "add", {"a": number, "b": 1}))
                await asyncio.sleep(generator.choice([0, 0.0005, 0.002, 0.005]))
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert (await running).value == number + 1
            await add_works(sandbox)

    asyncio.run(work())


def test_cancelling_the_start_leaves_nothing() -> None:
    async def work() -> None:
        sandbox = open_sandbox(workers=1)
        starting = asyncio.create_task(sandbox.start())
        await asyncio.sleep(0.2)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    before, here = folders(), os.getpid()
    processes = descendants(here)  # other tests of this process may have left some, such as a resource tracker
    asyncio.run(work())
    assert folders() <= before
    assert descendants(here) <= processes


def test_cancelling_the_end_leaves_nothing() -> None:
    before = folders(), open_descriptors()

    async def main() -> None:
        for moment in range(6):
            sandbox = open_sandbox(workers=2)
            await sandbox.start()
            launcher = sandbox.describe_processes()["launcher"]
            task = asyncio.create_task(sandbox.aclose())
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if moment:  # a task that is cancelled before it begins never runs
                assert not descendants(launcher)
            await sandbox.aclose()
            assert not descendants(launcher)

    asyncio.run(main())
    assert (folders(), open_descriptors()) == before


def test_it_works_under_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work() -> None:
        async with open_sandbox(workers=2) as sandbox:
            await add_works(sandbox)
            assert (await sandbox.run("while True: pass", timeout_s=0.2)).status == "timeout"
            running = asyncio.create_task(sandbox.call(LOOP, "f", {}, timeout_s=60))
            await asyncio.sleep(0.1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await add_works(sandbox)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_a_forked_copy_refuses_to_work() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            pid = os.fork()
            if pid == 0:
                try:
                    sandbox._pool._check_open()
                except SandboxError:
                    os._exit(7)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            await add_works(sandbox)

    asyncio.run(work())


def test_a_template_that_died_is_replaced_unseen() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            (supervisor,) = supervisors(sandbox)
            template = template_of(supervisor)
            os.kill(template, signal.SIGKILL)
            assert not await asyncio.to_thread(wait_gone, {supervisor, template})
            await add_works(sandbox)

    asyncio.run(work())


def test_a_template_that_dies_during_a_call_loses_the_worker() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            running = asyncio.create_task(sandbox.call(LOOP, "f", {}, timeout_s=30))
            await asyncio.sleep(0.2)
            (supervisor,) = supervisors(sandbox)
            pids = descendants(supervisor)
            os.kill(template_of(supervisor), signal.SIGKILL)
            assert (await running).status == "worker_lost"
            assert not await asyncio.to_thread(wait_gone, pids)
            await add_works(sandbox)

    asyncio.run(work())


def test_timeouts_are_kept_and_the_next_call_is_right() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1, limits=SandboxLimits(timeout_s=0.3)) as sandbox:
            for _ in range(3):
                execution = await sandbox.call(LOOP, "f", {})
                assert execution.status == "timeout"
                assert 0.3 <= execution.wall_s < 5
                assert (await sandbox.run("1", timeout_s=20)).stdout == "1\n"
            for wrong in (0, -1, math.inf, math.nan, -math.inf, 1e8):  # row 13
                for call in (
                    lambda wrong=wrong: sandbox.run("1", timeout_s=wrong),
                    lambda wrong=wrong: sandbox.call(ADD, "add", {"a": 1, "b": 2}, timeout_s=wrong),
                    lambda wrong=wrong: sandbox.call_many(ADD, "add", [{"a": 1, "b": 2}], timeout_s=wrong),
                ):
                    with pytest.raises(ValueError, match="timeout_s"):
                        await call()

    asyncio.run(work())


def test_a_worker_that_says_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentopt_local.sandbox.worker_pool._PATIENCE_S", 0.5)

    async def work() -> None:
        async with open_sandbox(workers=1) as sandbox:
            (supervisor,) = supervisors(sandbox)
            os.kill(supervisor, signal.SIGSTOP)
            assert (await sandbox.call(ADD, "add", {"a": 1, "b": 2}, timeout_s=0.5)).status == "worker_lost"
            assert (await sandbox.call(ADD, "add", {"a": 1, "b": 2}, timeout_s=20)).value == 3
            assert supervisor not in supervisors(sandbox)

    asyncio.run(work())


def test_the_results_of_many_calls_have_a_limit_together() -> None:
    """Row 13: as Python objects they take many times the memory of their JSON."""
    source = "def f(n, size):\n    return [[] for _ in range(size)]"

    async def work() -> None:
        async with open_sandbox(workers=2, limits=SandboxLimits(timeout_s=60.0)) as sandbox:
            tracemalloc.start()
            arguments = [{"n": n, "size": 240_000} for n in range(70)]  # 1 MB of JSON each
            executions = await sandbox.call_many(source, "f", arguments)
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            statuses = [execution.status for execution in executions]
            assert 4 <= statuses.count("ok") <= 9
            assert set(statuses) == {"ok", "result_too_large"}
            assert held < 300 << 20
            assert all(("together" in (each.error or "")) == (not each.ok) for each in executions)
            small = await sandbox.call_many(source, "f", [{"n": n, "size": 1} for n in range(600)])
            assert {execution.status for execution in small} == {"ok"}
            await add_works(sandbox)

    asyncio.run(work())


def test_the_longest_time_limit_works() -> None:
    async def work() -> None:
        async with open_sandbox(workers=1, limits=SandboxLimits(timeout_s=MAX_SECONDS)) as sandbox:
            await add_works(sandbox)
            assert (await sandbox.call_many(ADD, "add", [{"a": n, "b": 1} for n in range(3)]))[2].value == 3

    asyncio.run(work())
