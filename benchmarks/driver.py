"""The cost of our own code when the engine costs nothing: turns per second and memory, by concurrent rollouts.

    python -m benchmarks.driver                       100 to 50,000 concurrent rollouts; JSON on stdout; minutes
    python -m benchmarks.driver --sizes 1000 --profile   a profile on stderr
    python -m benchmarks.driver --workers 1 --sizes 100,1000   with the loops in a Ray actor, as on a cluster

The engine and the sandbox answer at once. Everything else is as in a training: the agent's loop, requests with tools
and constraints, trajectories, grading, and a run folder that stores every rollout. Each size runs in its own process:
all rollouts start, wait for each other before their last turn, when the memory is measured, and then finish. A core's
turns per second are turns divided by the CPU seconds of the process. With ``--replicas N`` each turn also goes through
Ray to one of N actors. With ``--workers N`` whole rollouts do, with the engine in the worker, and the driver's
remaining work is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from agentopt_local.admission import Admission
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatReply, ChatRequest, Message, ToolCall, Usage
from agentopt_local.functions import FunctionSet
from agentopt_local.graders.text import exact
from agentopt_local.grading import Grade
from agentopt_local.problem import Problem
from agentopt_local.rollout import GradedAgent, Rollouts, Solver
from agentopt_local.run.writer import RunDir
from agentopt_local.sandbox.base import Execution
from agentopt_local.stage import Stage
from agentopt_local.trajectory import accuracy

SIZES = (100, 1_000, 10_000, 50_000)
MIN_TURNS_PER_S = 2_000
MAX_BYTES = 64 << 10
MIN_ROLLOUTS = 10_000
"""Smaller sizes are repeated until this many rollouts have run."""
MAX_GROWTH = 1.2
"""Cost of a turn at the largest size relative to that at 1,000."""
FUNCTIONS = FunctionSet.of(
    'def scale(x: int, by: int = 2) -> int:\n    """Return x times by."""\n    return x * by\n',
    'def reverse(word: str) -> str:\n    """Return word reversed."""\n    return word[::-1]\n',
)
THOUGHT = "The number has to be scaled, so I call the function that does it and look at what it returns.\n"


class InstantModel:
    """Calls a function in every turn except the last, in which it waits for the gate to open and answers."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.asked = 0
        self.gate = asyncio.Event()
        self.full = asyncio.Event()
        """Set when ``expected`` rollouts are waiting."""
        self.expected = 0
        self.waiting = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked += 1
        turn = len(request.messages) // 2
        usage = Usage(requests=1, prompt_tokens=300 + 60 * turn, cached_tokens=200, completion_tokens=40)
        if turn < self.turns:
            calls = (ToolCall(name="scale", arguments={"x": 7 + turn, "by": 6}),)
            message = Message(role="assistant", content=THOUGHT, tool_calls=calls)
        else:
            self.waiting += 1
            if self.waiting == self.expected:
                self.full.set()
            await self.gate.wait()
            message = Message(role="assistant", content=f"{THOUGHT}<answer>42</answer>")
        return ChatReply(message=message, usage=usage)

    async def aclose(self) -> None:
        """Nothing to release."""


class OpenModel(InstantModel):
    """The same without a gate, for use in actors."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.gate.set()
        return await super().complete(request)


class InstantSandbox:
    """Returns the results of the model's calls at once, without running anything."""

    async def call(self, source: str, name: str, arguments: dict[str, Any], **more: Any) -> Execution:
        return Execution(ok=True, value=arguments["x"] * arguments["by"])

    async def call_many(self, *given: Any, **more: Any) -> list[Execution]:
        raise NotImplementedError("agents make single calls")

    async def run(self, code: str, **more: Any) -> Execution:
        raise NotImplementedError("the script writes no code")

    async def aclose(self) -> None:
        """Nothing to stop."""


class Numbers:
    """A task with any number of problems, graded as text."""

    name = "numbers"
    preload: tuple[str, ...] = ()

    def problems(self, split: str, n: int) -> tuple[Problem, ...]:
        text = "Scale the number of apples in each of the seven baskets by six, and say how many there are then."
        return tuple(Problem(id=f"n-{i}", question=f"{text} Case {i}.", answer="42", kind="n") for i in range(n))

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> Grade:
        return exact(answer or "", problem.answer)


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure(n: int, turns: int, replicas: int, workers: int, folder: Path) -> dict[str, Any]:
    """Measure ``n`` concurrent rollouts of ``turns`` turns each."""
    task = Numbers()
    problems = task.problems("train", n)
    gated = InstantModel(turns)
    async with AsyncExitStack() as stack:
        model: Any = await hosted(turns, replicas, stack) if replicas else gated
        agent = make_agent(model, InstantSandbox(), agent_config(turns))
        solver: Solver = GradedAgent(agent, task, InstantSandbox())
        (folder / "config.json").write_text("{}")
        run_dir = RunDir(folder)
        stack.callback(run_dir.close)
        if workers:
            solver = await in_workers(turns, workers, run_dir, stack)
        rollouts = Rollouts(solver, run_dir, admission=Admission(n))
        gated.gate.set()
        await rollouts.run(FunctionSet(), problems[:20], seed=0, stage=Stage(part="warm-up"))
        gc.collect()
        memory, grown = resident_bytes(), None
        started, cpu = time.perf_counter(), time.process_time()
        times = max(1, MIN_ROLLOUTS // n)
        for seed in range(times):
            gated.gate.clear()
            gated.waiting, gated.expected = 0, n
            running = asyncio.create_task(rollouts.run(FUNCTIONS, problems, seed=seed, stage=Stage(part="driver")))
            if not replicas and not workers:
                await gated.full.wait()
                gated.full.clear()
                grown = grown or resident_bytes() - memory
                gated.gate.set()
            done = await running
            assert accuracy(done) == 1.0
            assert all(len(each.steps) == turns for each in done)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    total = n * times
    return {
        "rollouts": n,
        "turns": total * turns,
        "turns_per_s_and_core": round(total * turns / cpu),
        "turns_per_s": round(total * turns / seconds),
        "cpu_ms_per_rollout": round(1000 * cpu / total, 3),
        "bytes_per_rollout": None if grown is None else round(grown / n),
    }


async def hosted(turns: int, replicas: int, stack: AsyncExitStack) -> Any:
    """The instant model in Ray actors."""
    from functools import partial

    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.config import RayConfig
    from serving.engine_config import EngineConfig, HostedModel
    from serving.pool import host

    connect(RayConfig())
    stack.callback(disconnect)
    made = HostedModel(model="instant", device="cpu", replicas=replicas)
    pool = await host(partial(OpenModel, turns), EngineConfig(), made)
    stack.push_async_callback(pool.aclose)
    return pool


def agent_config(turns: int) -> AgentConfig:
    """Settings for attempts of exactly ``turns`` turns."""
    return AgentConfig(max_turns=turns, max_tokens=40 * turns + 1)


@asynccontextmanager
async def instant_worker(turns: int) -> AsyncIterator[Solver]:
    """The solver in a rollout worker."""
    sandbox = InstantSandbox()
    yield GradedAgent(make_agent(OpenModel(turns), sandbox, agent_config(turns)), Numbers(), sandbox)


async def in_workers(turns: int, workers: int, run_dir: RunDir, stack: AsyncExitStack) -> Any:
    """The agent in rollout workers."""
    from functools import partial

    import ray

    from agentopt_local.models.metered import Budget, Ledger
    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.config import RayConfig, RunConfig
    from ray_jobs.task_config import TaskConfig
    from ray_jobs.workers import RolloutWorkers, WorkerActor
    from serving.actor_pool import MAX_IN_FLIGHT

    connect(RayConfig())
    stack.callback(disconnect)
    remote = ray.remote(WorkerActor).options(num_cpus=0, max_concurrency=MAX_IN_FLIGHT)
    actors = [remote.remote(partial(instant_worker, turns)) for _ in range(workers)]
    pool = RolloutWorkers(actors, RunConfig(task=TaskConfig(spec="numbers")), Ledger(run_dir, Budget()))
    stack.push_async_callback(pool.aclose)
    await pool.start()
    return pool


def one_size(n: int, turns: int, replicas: int, workers: int, profile: bool) -> dict[str, Any]:
    """Measure in this process."""
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory(prefix="agentopt-driver-") as folder:
        if profile:
            profiler.enable()
        row = asyncio.run(measure(n, turns, replicas, workers, Path(folder)))
        profiler.disable()
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    return row


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that have targets, and whether they are met."""
    by_size = {row["rollouts"]: row for row in rows}
    largest = by_size[max(by_size)]
    base = by_size.get(1_000, rows[0])
    growth = largest["cpu_ms_per_rollout"] / base["cpu_ms_per_rollout"]
    slowest = min(row["turns_per_s_and_core"] for row in rows)
    report: dict[str, Any] = {
        "min_turns_per_s_and_core": slowest,
        "cost_growth": round(growth, 3),
        "from_to": [base["rollouts"], largest["rollouts"]],
        "turns_ok": slowest >= MIN_TURNS_PER_S,
        "growth_ok": growth <= MAX_GROWTH,
    }
    sizes = [row["bytes_per_rollout"] for row in rows if row["bytes_per_rollout"] is not None]
    if sizes:
        report |= {"max_bytes_per_rollout": max(sizes), "bytes_ok": max(sizes) <= MAX_BYTES}
    return report


def main(argv: list[str] | None = None) -> int:
    """Measure every size and print a JSON report. 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="concurrent rollouts, separated by commas")
    parser.add_argument("--turns", type=int, default=3, help="turns of a rollout (default: 3)")
    parser.add_argument("--replicas", type=int, default=0, help="Ray actors that host the engine (default: none)")
    parser.add_argument("--workers", type=int, default=0, help="Ray actors that run the rollouts (default: none)")
    parser.add_argument("--profile", action="store_true", help="profile the only size given")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one or arguments.profile:
        n = arguments.one or int(arguments.sizes)
        print(json.dumps(one_size(n, arguments.turns, arguments.replicas, arguments.workers, arguments.profile)))
        return 0
    rows = []
    for size in arguments.sizes.split(","):
        command = [sys.executable, "-m", "benchmarks.driver", "--one", size, "--turns", str(arguments.turns)]
        command += ["--replicas", str(arguments.replicas), "--workers", str(arguments.workers)]
        rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr)
    given = {"turns": arguments.turns, "replicas": arguments.replicas, "workers": arguments.workers}
    report = {**given, "sizes": rows, **judge(rows)}
    print(json.dumps(report, indent=2))
    return 0 if all(value for key, value in report.items() if key.endswith("_ok")) else 1


if __name__ == "__main__":
    sys.exit(main())
