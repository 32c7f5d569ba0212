"""The cost of sampling under a grammar: tokens per second with and without it, for 1 to 32 requests at once.

    python -m benchmarks.constraints               Qwen2.5-Coder-1.5B; JSON on stdout
    python -m benchmarks.constraints --scripted    a stand-in for the engine: tests the benchmark itself

One engine answers the same prompts without a grammar, and under each grammar that a training uses: the optimizer's
header (JSON built from a set of functions), a source, and an agent's turn. Each arm keeps ``k`` requests in flight
until ``--rounds`` times ``k`` are answered. The result is generated tokens per second relative to the free arm at the
same ``k``. The arms take turns, so that load on the machine affects all of them.
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

from agentopt_local.actions import header_constraint, source_type
from agentopt_local.chat import ChatModel, ChatRequest, Constraint, Message, Sampling, ToolSpec
from agentopt_local.functions import FunctionSet
from benchmarks.hosting import hosted
from serving.engine_config import EngineConfig

FUNCTIONS = FunctionSet.of(
    'def gcd(a: int, b: int) -> int:\n    """Return the greatest common divisor."""\n    return a\n',
    'def reverse(word: str) -> str:\n    """Return word reversed."""\n    return word[::-1]\n',
    'def to_base(n: int, base: int = 2) -> str:\n    """Return n in another base."""\n    return str(n)\n',
)
TURN = r"([^<`\n]+\n)?(```python\n([^`]|`[^`]|``[^`])*\n```\n?|<answer>[^<\n]+</answer>)"
ASK = {
    "header": "Some problems fail. Choose one action as a JSON object: add_function, revise_function, remove_function.",
    "source": "Write the Python function convert(n: int, base: int) -> str with a docstring.",
    "turn": "Compute 1234 in base 7. Think in one line, then run a ```python block that prints the result.",
}


def arms() -> dict[str, tuple[str, tuple[ToolSpec, ...], Constraint | None]]:
    """Arm -> prompt, tools, constraint. Each grammar has a free arm with the same prompt."""
    constraints = {
        "header": ((), header_constraint(FUNCTIONS)),
        "source": ((), Constraint.of(source_type("convert"))),
        "turn": (FUNCTIONS.tool_specs(), Constraint(kind="turn", value=TURN, max_thought_sentences=3)),
    }
    found: dict[str, tuple[str, tuple[ToolSpec, ...], Constraint | None]] = {}
    for name, (tools, constraint) in constraints.items():
        found[f"{name}_free"] = (ASK[name], tools, None)
        found[name] = (ASK[name], tools, constraint)
    return found


async def rate(model: ChatModel, arm: tuple[Any, ...], k: int, n: int, max_tokens: int) -> tuple[int, float]:
    """Generated tokens and seconds of ``n`` requests, ``k`` at once."""
    prompt, tools, constraint = arm
    slots = asyncio.Semaphore(k)

    async def one(index: int) -> int:
        request = ChatRequest(
            messages=(Message(role="user", content=f"{prompt} (Case {index}.)"),),
            tools=tools,
            constraint=constraint,
            sampling=Sampling(max_tokens=max_tokens, temperature=0.8, seed=index),
        )
        async with slots:
            return (await model.complete(request)).usage.completion_tokens

    started = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(index) for index in range(n))))
    return tokens, time.perf_counter() - started


async def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every arm at every size."""
    sizes = [int(size) for size in arguments.sizes.split(",")]
    config = EngineConfig(max_model_len=2048, max_num_seqs=max(sizes), max_num_batched_tokens=4096)
    report: dict[str, Any] = {"model": arguments.model, "sizes": []}
    with tempfile.TemporaryDirectory(prefix="agentopt-constraints-") as temporary:
        notes = Path(temporary) / "notes.jsonl"
        async with hosted(arguments.model, config, notes, scripted=arguments.scripted) as (model, device):
            report["device"] = device
            for arm in arms().values():  # compile every grammar once
                await rate(model, arm, 1, 1, 8)
            for k in sizes:
                spent = {name: [0, 0.0] for name in arms()}
                for _ in range(arguments.rounds):
                    for name, arm in arms().items():
                        tokens, seconds = await rate(model, arm, k, k, arguments.tokens)
                        spent[name][0] += tokens
                        spent[name][1] += seconds
                speed = {name: tokens / seconds for name, (tokens, seconds) in spent.items()}
                row = {"requests": k, "tokens_per_s": {name: round(each, 2) for name, each in speed.items()}}
                row["overhead"] = {
                    name: round(1 - speed[name] / speed[f"{name}_free"], 4) for name in ("header", "source", "turn")
                }
                row["mean_tokens"] = {
                    name: round(tokens / (k * arguments.rounds), 1) for name, (tokens, _) in spent.items()
                }
                report["sizes"].append(row)
                print(row, file=sys.stderr)
    return report


def main(argv: list[str] | None = None) -> int:
    """Measure and print a JSON report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.constraints", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--sizes", default="1,2,4,8,16,32", help="requests at once, separated by commas")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each arm, in turn (default: 3)")
    parser.add_argument("--tokens", type=int, default=48, help="longest answer, in tokens (default: 48)")
    parser.add_argument("--scripted", action="store_true", help="use a stand-in for the engine")
    print(json.dumps(asyncio.run(benchmark(parser.parse_args(argv))), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
