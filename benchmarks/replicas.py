"""How throughput grows with engine replicas if each has its own processor or GPU.

    python -m benchmarks.replicas                1 and 2 replicas; JSON on stdout; about a minute

Engines on this machine would share its cores, so the stand-in of ``benchmarks.hosting`` replaces them: each token
takes a fixed time regardless of the batch, and a batch has ``--max-seqs`` slots. Everything else is as in a training:
Ray actors, the pool with its session affinity, agents, the real sandbox. The exit code is 1 if the speed-up is less
than 0.9 times the number of replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from agentopt_local.admission import Admission
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.functions import FunctionSet
from agentopt_local.rollout import GradedAgent, MemoryStore, Rollouts
from agentopt_local.sandbox import open_sandbox
from agentopt_local.stage import Stage
from agentopt_local.tasks.catalog import load_task
from benchmarks.hosting import Meter, MoreTurns, PacedModel
from benchmarks.rollouts import TASK
from serving.engine_config import EngineConfig, HostedModel

MIN_EFFICIENCY = 0.9


async def measure(replicas: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Roll out the problems once on ``replicas`` actors, with twice as many rollouts at once as they have slots."""
    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.config import RayConfig
    from serving.pool import host

    task = load_task(TASK, seed=3)
    problems = task.problems("train", arguments.problems)
    agent_config = AgentConfig(max_turns=arguments.turns, think=False)
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(open_sandbox(preload=task.preload))
        connect(RayConfig())
        stack.callback(disconnect)
        make = partial(PacedModel, folder / "notes.jsonl", step_s=arguments.step, max_seqs=arguments.max_seqs)
        pool = await host(make, EngineConfig(), HostedModel(model="paced", device="cpu", replicas=replicas))
        stack.push_async_callback(pool.aclose)
        meter = Meter(MoreTurns(pool, arguments.turns))
        solver = GradedAgent(make_agent(meter, sandbox, agent_config), task, sandbox)
        admission = Admission(2 * replicas * arguments.max_seqs)
        rollouts = Rollouts(solver, MemoryStore(), admission=admission)
        started, cpu = time.perf_counter(), time.process_time()
        await rollouts.run(FunctionSet(), problems, seed=0, stage=Stage(part="benchmark"))
        cpu = time.process_time() - cpu
    figures = meter.figures(started)
    return {"replicas": replicas, "cpu_s_per_rollout": round(cpu / len(problems), 4), **figures}


def main(argv: list[str] | None = None) -> int:
    """Measure and print a JSON report. 1 if the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="1,2", help="numbers of replicas, separated by commas (default: 1,2)")
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--max-seqs", type=int, default=32, help="slots in a replica's batch (default: 32)")
    parser.add_argument("--step", type=float, default=0.01, help="seconds per token (default: 0.01)")
    arguments = parser.parse_args(argv)
    rows = []
    for count in map(int, arguments.counts.split(",")):
        with tempfile.TemporaryDirectory(prefix="agentopt-replicas-") as folder:
            rows.append(asyncio.run(measure(count, arguments, Path(folder))))
        print(rows[-1], file=sys.stderr)
    first, last = rows[0], rows[-1]
    speed_up = last["body_tokens_per_s"] / first["body_tokens_per_s"]
    wanted = MIN_EFFICIENCY * last["replicas"] / first["replicas"]
    print(json.dumps({"rows": rows, "speed_up": round(speed_up, 3), "wanted": round(wanted, 2)}, indent=2))
    return 0 if speed_up >= wanted else 1


if __name__ == "__main__":
    sys.exit(main())
