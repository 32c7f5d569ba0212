"""How close agent rollouts come to the throughput of the engine alone.

    python -m benchmarks.rollouts               Qwen2.5-Coder-1.5B, 96 problems, 32 at once, 3 turns; JSON on stdout
    python -m benchmarks.rollouts --scripted    a stand-in for the engine: tests the benchmark itself, in seconds

There are three measurements, each on its own engine with the same settings, so that none finds another's prefixes in
the cache: rollouts as in a training; the same with a barrier per turn; and, as the ceiling, the prompts and output
lengths of the first in one call of vLLM's offline ``generate``. Turns run code in the real sandbox. An answer is
allowed only in the last turn, so every rollout has ``--turns`` turns. The ceiling knows all turns from the start and
checks no grammar. ``cpu_s_per_rollout`` is the CPU time of the driver process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
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
from benchmarks.hosting import Barrier, Meter, MoreTurns, ceiling, hosted
from serving.engine_config import EngineConfig

TASK = "reasoning_gym:base_conversion,spell_backward,polynomial_multiplication"


async def measure(arguments: argparse.Namespace, config: EngineConfig, notes: Path, *, barrier: bool) -> dict[str, Any]:
    """Roll out the problems once on a fresh engine."""
    task = load_task(TASK, seed=3)
    problems = task.problems("train", arguments.problems)
    agent_config = AgentConfig(max_turns=arguments.turns, max_turn_tokens=arguments.turn_tokens, think=False)
    async with (
        open_sandbox(preload=task.preload) as sandbox,
        hosted(arguments.model, config, notes, scripted=arguments.scripted) as (model, device),
    ):
        meter = Meter(MoreTurns(model, arguments.turns))
        gate = Barrier(meter)
        agent: Any = make_agent(gate if barrier else meter, sandbox, agent_config)
        solver = GradedAgent(gate.around(agent) if barrier else agent, task, sandbox)
        admission = Admission(arguments.concurrency)
        rollouts = Rollouts(solver, MemoryStore(), admission=admission)
        started, cpu = time.perf_counter(), time.process_time()
        done = await rollouts.run(FunctionSet(), problems, seed=0, stage=Stage(part="benchmark"))
        cpu = time.process_time() - cpu
    figures = meter.figures(started)
    return {
        "device": device,
        **figures,
        "mean_turns": round(sum(len(each.steps) for each in done) / len(done), 2),
        "cpu_s_per_rollout": round(cpu / len(done), 4),
    }


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """All three measurements and their ratios."""
    config = EngineConfig(
        max_model_len=4096,
        max_num_seqs=arguments.concurrency,
        max_num_batched_tokens=arguments.batched_tokens,
        cpu_isa=arguments.isa,
    )
    with tempfile.TemporaryDirectory(prefix="agentopt-rollouts-") as temporary:
        notes = Path(temporary) / "async.jsonl"
        free = asyncio.run(measure(arguments, config, notes, barrier=False))
        print(f"async: {free}", file=sys.stderr)
        lock_step = asyncio.run(measure(arguments, config, Path(temporary) / "barrier.jsonl", barrier=True))
        print(f"barrier: {lock_step}", file=sys.stderr)
        limit = ceiling(arguments.model, config, notes, free["device"])
    limit["tokens_per_s"] = round(limit["generated_tokens"] / limit["seconds"], 2)
    return {
        "model": arguments.model,
        "engine": config.model_dump(),
        "rollouts": arguments.problems,
        "concurrency": arguments.concurrency,
        "async": free,
        "barrier": lock_step,
        "ceiling": limit,
        "of_ceiling": round(free["tokens_per_s"] / limit["tokens_per_s"], 3),
        "body_of_ceiling": round(free["body_tokens_per_s"] / limit["tokens_per_s"], 3),
        "async_over_barrier": round(free["tokens_per_s"] / lock_step["tokens_per_s"], 3),
        "prefix_hits_from_turn_2": free["prefix_hits_from_turn_2"],
        "cpu_s_per_rollout": free["cpu_s_per_rollout"],
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print a JSON report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollouts", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--problems", type=int, default=96)
    parser.add_argument("--concurrency", type=int, default=32, help="rollouts at once, and the engine's largest batch")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--turn-tokens", type=int, default=120, help="longest turn, in tokens (default: 120)")
    parser.add_argument("--batched-tokens", type=int, default=8192, help="the engine's max_num_batched_tokens")
    parser.add_argument("--isa", choices=("auto", "avx2"), default="auto", help="instruction set of a CPU engine")
    parser.add_argument("--scripted", action="store_true", help="use a stand-in for the engine")
    print(json.dumps(benchmark(parser.parse_args(argv)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
