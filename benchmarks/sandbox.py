"""How fast the sandbox is, compared with one interpreter per call in the same run.

    python -m benchmarks.sandbox                 about a minute; JSON on stdout, a table on stderr
    python -m benchmarks.sandbox --soak 100000   this many calls while workers are killed at random

Every function is measured one call at a time, with 10 ms between calls as between a model's turns (p50, p99), and with
many calls waiting (calls per second, and CPU milliseconds per call of all sandbox processes together). The alternative
is ``subprocess`` with the same interpreter, source and arguments, and no protection at all. Load on the machine
affects all wall-clock figures; the ratios and CPU figures are more stable.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agentopt_local.sandbox import Execution, ForkServerSandbox, SandboxLimits, open_sandbox

LIMITS = SandboxLimits(timeout_s=30.0)
SOAK_LIMITS = SandboxLimits(timeout_s=600.0)
"""Long, so that a busy machine does not count as a wrong result."""
FUNCTIONS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "trivial": ("def f(a, b):\n    return a + b\n", {"a": 1, "b": 2}, 3),
    "sympy": (
        "import sympy\ndef f(b):\n    x = sympy.Symbol('x')\n    return sympy.solve(x**2 - b * x + 6, x)\n",
        {"b": 5},
        [2, 3],
    ),
    "numpy": (
        "import numpy as np\ndef f(n):\n    a = np.arange(n * n, dtype=float).reshape(n, n) + np.eye(n)\n"
        "    return round(float(np.linalg.det(a @ a.T) > 0), 3)\n",
        {"n": 20},
        1.0,
    ),
}
ONE_INTERPRETER = """
import json, sys
request = json.load(sys.stdin)
namespace = {}
exec(request["source"], namespace)
print(json.dumps(namespace["f"](**request["arguments"]), default=str))
"""
TICKS = os.sysconf("SC_CLK_TCK")


def children(parent: int) -> list[int]:
    """The processes that ``parent`` has started: of a launcher its supervisors."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


def family(ancestor: int) -> list[int]:
    """A process and all below it, in the order of their generations."""
    found = [ancestor]
    for pid in found:
        found += children(pid)
    return found


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of processes and of their children that have ended."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def memory_mib(pid: int) -> dict[str, float]:
    """Proportional and private memory; empty without permission to read it."""
    sizes: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) / 1024
    if not sizes:
        return {}
    return {
        "pss_mib": round(sizes["Pss"], 1),
        "private_mib": round(sizes["Private_Clean"] + sizes["Private_Dirty"], 1),
    }


def open_descriptors() -> int:
    """The number of this process's open descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50_ms": round(ordered[len(ordered) // 2] * 1e3, 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3, 2),
    }


async def one_by_one(call: Callable[[], Awaitable[Any]], count: int) -> dict[str, float]:
    times = []
    for _ in range(count):
        await asyncio.sleep(0.01)
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return percentiles(times)


async def all_at_once(call: Callable[[], Awaitable[Any]], count: int, at_once: int) -> float:
    """Calls per second with ``at_once`` of them in flight."""
    slots = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with slots:
            await call()

    start = time.perf_counter()
    await asyncio.gather(*[one() for _ in range(count)])
    return count / (time.perf_counter() - start)


async def measure_subprocess(name: str, workers: int, count: int) -> dict[str, float]:
    source, arguments, expected = FUNCTIONS[name]
    request = json.dumps({"source": source, "arguments": arguments}).encode()

    async def call() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ONE_INTERPRETER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(request)
        if name != "sympy":
            assert json.loads(output) == expected, output

    before = os.times()
    figures = await one_by_one(call, count)
    rate = await all_at_once(call, count, workers)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {**figures, "calls_per_s": round(rate, 1), "cpu_ms": round(used / (2 * count) * 1e3, 2)}


async def measure_sandbox(sandbox: ForkServerSandbox, name: str, count: int) -> dict[str, float]:
    source, arguments, expected = FUNCTIONS[name]

    async def call() -> None:
        execution = await sandbox.call(source, "f", arguments)
        assert execution.value == expected, execution

    await call()
    figures = await one_by_one(call, count)
    pids = family(sandbox.describe_processes()["launcher"])
    before = cpu_s(pids)
    rate = await all_at_once(call, count, sandbox.describe_processes()["workers"])
    used = cpu_s(pids) - before
    return {**figures, "calls_per_s": round(rate, 1), "cpu_ms": round(used / count * 1e3, 2)}


async def measure_batch(sandbox: ForkServerSandbox, name: str, count: int) -> float:
    """Calls per second of ``call_many``."""
    source, arguments, expected = FUNCTIONS[name]
    start = time.perf_counter()
    executions = await sandbox.call_many(source, "f", [arguments] * count)
    assert all(execution.value == expected for execution in executions)
    return round(count / (time.perf_counter() - start), 1)


async def measure_kills(sandbox: ForkServerSandbox) -> dict[str, float]:
    """How late a limit of 0.2 s takes effect, and how long the next call takes (medians of 10)."""
    overshoot, after = [], []
    for _ in range(10):
        start = time.perf_counter()
        execution = await sandbox.run("while True: pass", timeout_s=0.2)
        overshoot.append(time.perf_counter() - start - 0.2)
        assert execution.status == "timeout"
        start = time.perf_counter()
        assert (await sandbox.run("1")).ok
        after.append(time.perf_counter() - start)
    return {
        "timeout_overshoot_ms": percentiles(overshoot)["p50_ms"],
        "next_call_after_kill_ms": percentiles(after)["p50_ms"],
    }


async def measure_memory(sandbox: ForkServerSandbox) -> dict[str, dict[str, float]]:
    """The memory of one worker's processes, once its child for the next call is ready."""
    launcher = sandbox.describe_processes()["launcher"]
    names = ("launcher", "supervisor", "template", "idle_child")
    pids: list[int] = []
    while len(pids) < len(names):
        await asyncio.sleep(0.05)
        pids = [launcher, *(pid for first in children(launcher)[:1] for pid in family(first))]
    return {name: memory_mib(pid) for name, pid in zip(names, pids, strict=False)}


async def benchmark(count: int) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]},
        "python": platform.python_version(),
        "calls": count,
    }
    for workers in (1, 2):
        start = time.perf_counter()
        async with open_sandbox(limits=LIMITS, workers=workers) as sandbox:
            figures: dict[str, Any] = {"start_s": round(time.perf_counter() - start, 2)}
            report["layers"] = sandbox.describe_layers()
            figures["memory"] = await measure_memory(sandbox)
            for name in FUNCTIONS:
                figures[name] = await measure_sandbox(sandbox, name, count if name != "sympy" else count // 2)
                figures[name]["batch_calls_per_s"] = await measure_batch(sandbox, name, 100 * workers)
            figures["kills"] = await measure_kills(sandbox)
        for name in FUNCTIONS:
            other = await measure_subprocess(name, workers, max(count // 40, 4))
            figures[name]["one_interpreter_per_call"] = other
            figures[name]["times_faster"] = {
                "p50": round(other["p50_ms"] / figures[name]["p50_ms"], 1),
                "calls_per_s": round(figures[name]["calls_per_s"] / other["calls_per_s"], 1),
                "batch": round(figures[name]["batch_calls_per_s"] / other["calls_per_s"], 1),
            }
        report[f"workers_{workers}"] = figures
    return report


async def soak(count: int, workers: int) -> dict[str, Any]:
    """``count`` calls with a worker killed every half second: no result is lost silently or mixed up, nothing leaks."""
    generator = random.Random(0)
    source = "def f(n):\n    print('out', n)\n    return {'n': n, 'squares': [n, n * n]}\n"
    result = {"calls": count, "ok": 0, "worker_lost": 0, "wrong": 0, "kills": 0}
    async with open_sandbox(limits=SOAK_LIMITS, workers=workers) as sandbox:
        slots = asyncio.Semaphore(4 * workers)
        await sandbox.run("1")
        descriptors = open_descriptors()

        async def one(number: int) -> None:
            async with slots:
                judge(number, await sandbox.call(source, "f", {"n": number}))

        def judge(number: int, execution: Execution) -> None:
            right = execution.value == {"n": number, "squares": [number, number * number]}
            if execution.status == "worker_lost":
                result["worker_lost"] += 1
            elif right and execution.stdout == f"out {number}\n":
                result["ok"] += 1
            else:
                result["wrong"] += 1

        async def kill() -> None:
            while True:
                await asyncio.sleep(generator.uniform(0.2, 0.8))
                victims = children(sandbox.describe_processes()["launcher"])
                if victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(generator.choice(victims), signal.SIGKILL)
                        result["kills"] += 1

        killer = asyncio.create_task(kill())
        start = time.perf_counter()
        for first in range(0, count, 1000):
            await asyncio.gather(*[one(number) for number in range(first, min(first + 1000, count))])
        killer.cancel()
        seconds = time.perf_counter() - start
        launcher = sandbox.describe_processes()["launcher"]
        pids = family(launcher)
        root = Path(sandbox.describe_processes()["root"])
        leaked = open_descriptors() - descriptors
    left = [pid for pid in pids if is_alive(pid)]
    return {
        **result,
        "leaked_descriptors": max(leaked, 0),
        "processes_left": len(left),
        "folders_left": len(list(root.parent.glob(f"{root.name}*"))),
        "calls_per_s": round(count / seconds, 1),
    }


def show(report: dict[str, Any]) -> None:
    """Print the table to stderr."""
    head = f"{'':>10} {'workers':>7} {'p50 ms':>8} {'p99 ms':>8} {'calls/s':>8} {'CPU ms':>7} {'batch/s':>8}"
    print(head + "   times faster than one interpreter per call: p50, calls/s, batch", file=sys.stderr)
    for workers in (1, 2):
        for name in FUNCTIONS:
            row = report[f"workers_{workers}"][name]
            faster = row["times_faster"]
            print(
                f"{name:>10} {workers:>7} {row['p50_ms']:>8} {row['p99_ms']:>8} {row['calls_per_s']:>8} "
                f"{row['cpu_ms']:>7} {row['batch_calls_per_s']:>8}   "
                f"{faster['p50']}x {faster['calls_per_s']}x {faster['batch']}x",
                file=sys.stderr,
            )
    for workers in (1, 2):
        figures = report[f"workers_{workers}"]
        print(
            f"workers {workers}: start {figures['start_s']} s, {figures['kills']}, {figures['memory']}", file=sys.stderr
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=400, help="calls per figure (default: 400)")
    parser.add_argument("--soak", type=int, metavar="N", help="make N calls with random kills instead")
    parser.add_argument("--workers", type=int, default=2, help="workers of the soak (default: 2)")
    arguments = parser.parse_args()
    if arguments.soak:
        report = asyncio.run(soak(arguments.soak, arguments.workers))
    else:
        report = asyncio.run(benchmark(arguments.calls))
        show(report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
