"""Does an arithmetic cost the untrained agent problems? The same training problems under each, answer by answer.

    python -m benchmarks.arithmetic --data FOLDER     FOLDER contains math/ and gsm8k/; JSON on stdout

Each arm has its own engine and samples greedily, so two arms differ only in their arithmetic. ``ours7`` is the int8 of
processors that sum products in 16 bits; its values are the same on every processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from agentopt_local.admission import Admission
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.functions import FunctionSet
from agentopt_local.rollout import GradedAgent, MemoryStore, Rollouts
from agentopt_local.sandbox import open_sandbox
from agentopt_local.stage import Stage
from agentopt_local.statistics import paired_difference, wilson
from agentopt_local.tasks.catalog import load_task
from benchmarks.hosting import Meter, hosted
from serving.cpu import KERNEL_VARIABLE
from serving.engine_config import EngineConfig

ARMS: dict[str, tuple[dict[str, Any], str | None]] = {
    "bfloat16": ({"dtype": "bfloat16", "quantization": "none"}, None),
    "ours7": ({"quantization": "int8"}, "fbgemm"),
    "ours8": ({"quantization": "int8"}, "onednn"),
    "float32": ({"dtype": "float32"}, None),
}
"""Engine settings, and the kernel if it is not the processor's default."""
DEMO = "reasoning_gym:spell_backward,polynomial_multiplication,bitwise_arithmetic"


async def measure(arguments: argparse.Namespace, arm: str, tasks: list[str]) -> dict[str, list[bool]]:
    """Which problems the untrained agent solves, by task. Results already in ``--keep`` are not measured again."""
    kept: dict[str, dict[str, list[bool]]] = {}
    if arguments.keep is not None and arguments.keep.exists():
        kept = json.loads(arguments.keep.read_text())
    solved = kept.setdefault(arm, {})
    if all(name in solved for name in tasks):
        return solved
    settings, kernel = ARMS[arm]
    os.environ.pop(KERNEL_VARIABLE, None)
    if kernel is not None:
        os.environ[KERNEL_VARIABLE] = kernel
    config = EngineConfig.model_validate({"max_model_len": 3072, "max_num_seqs": 64, **settings})
    specs = {"demo": DEMO, "math": f"math:{arguments.data}/math", "gsm8k": f"gsm8k:{arguments.data}/gsm8k"}
    agent_config = AgentConfig(max_turns=4, max_turn_tokens=200, max_tokens=500, think=arguments.think)
    with tempfile.TemporaryDirectory(prefix="agentopt-arithmetic-") as folder:
        async with hosted(arguments.model, config, Path(folder) / "notes", scripted=False) as (model, _):
            for name in (each for each in tasks if each not in solved):
                task = load_task(specs[name], seed=1)
                async with open_sandbox(preload=task.preload) as sandbox:
                    meter = Meter(model)
                    solver = GradedAgent(make_agent(meter, sandbox, agent_config), task, sandbox)
                    rollouts = Rollouts(solver, MemoryStore(), admission=Admission(64))
                    problems = task.problems("train", arguments.problems)
                    done = await rollouts.run(FunctionSet(), problems, seed=0, stage=Stage(part=name))
                solved[name] = [each.correct for each in done]
                if arguments.keep is not None:
                    arguments.keep.write_text(json.dumps(kept))
                print(arm, name, sum(solved[name]), "of", len(done), file=sys.stderr, flush=True)
    return solved


def main(argv: list[str] | None = None) -> int:
    """Measure and print a JSON report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arithmetic", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--tasks", default="demo,gsm8k,math")
    arms_help = f"of {', '.join(ARMS)}; the others are compared with the first"
    parser.add_argument("--arms", default="bfloat16,ours7,ours8", help=arms_help)
    parser.add_argument("--keep", type=Path, help="a JSON file of results; with it an interrupted benchmark continues")
    parser.add_argument("--think", action="store_true", help="let turns start with a line of thought")
    arguments = parser.parse_args(argv)
    arms, tasks = arguments.arms.split(","), arguments.tasks.split(",")
    solved = {arm: asyncio.run(measure(arguments, arm, tasks)) for arm in arms}
    report: dict[str, Any] = {"model": arguments.model, "tasks": {}}
    for name in tasks:
        row = report["tasks"][name] = {}
        for arm in arms:
            found = solved[arm][name]
            difference = paired_difference(solved[arms[0]][name], found)
            row[arm] = {
                "solved": sum(found),
                "n": len(found),
                "ci95": [round(100 * bound, 1) for bound in wilson(sum(found), len(found))],
                "points_against_first": round(difference.points, 1),
                "ci95_of_points": [round(bound, 1) for bound in difference.ci95],
                "gained": difference.gained,
                "lost": difference.lost,
                "p": round(difference.p_value, 3),
            }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
