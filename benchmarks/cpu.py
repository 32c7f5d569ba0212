"""How fast an engine is in each arithmetic of this processor, and how close it comes to the machine's limit.

    python -m benchmarks.cpu                          Qwen2.5-Coder-1.5B; JSON on stdout
    python -m benchmarks.cpu --isa avx2               as on a processor with AVX2 alone
    python -m benchmarks.cpu --busy 0,1,2 --arms auto with that many busy processes on the machine

Engines run one after another with the settings that ``serving`` gives them. Measured are the median decode step with
300 tokens of context (no grammar), prompt tokens read per second, seconds to start, and resident memory. Answers are
compared with float32's: the share of its greedy tokens that the arm would also choose (top-1), and their negative
log-likelihood (NLL). The machine's limit for B sequences is the slower of reading all weights once per step (at the
speed of a copy) and computing the products (at the speed of one with 512 rows), both measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving import cpu
from serving.calibration import is_quantized, product_of, seconds, weights
from serving.engine_config import EngineConfig
from serving.vllm_options import engine_environment, prepare

ARMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "auto": {},
    "bfloat16": {"dtype": "bfloat16", "quantization": "none"},
}
"""float32 comes first, because the others are compared with its answers."""
STEPS = {1: 16, 8: 12, 32: 10, 96: 8}
CONTEXT = 300
QUESTIONS = (
    "Write a Python function that reverses a string.",
    "What is the capital of France?",
    "Compute 37*43 step by step.",
    "Convert 255 to hexadecimal and explain.",
    "Write a SQL query that counts users per country.",
    "Explain what a hash table is in two sentences.",
    "Spell the word 'planet' backwards.",
    "Multiply the polynomials (x+2) and (x^2-3).",
    "Write a bash one-liner that counts lines in all .py files.",
    "List three prime numbers greater than 50.",
)
BUSY = "while True: pass"


def engine_config(arm: str, isa: str, slow: bool) -> EngineConfig:
    """The arm's settings."""
    return EngineConfig.model_validate(
        {"cpu_isa": isa, "max_model_len": 2048, "max_num_seqs": 8 if slow else 96, "kv_cache_gib": 2, **ARMS[arm]}
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every arm in its own process."""
    from serving.model_store import resolve

    model = resolve(arguments.model, allow_fetch=False)
    report: dict[str, Any] = {"model": arguments.model, "isa": arguments.isa, "cores": cpu.cores(), "arms": []}
    report["processor"] = cpu.describe(cpu.features(arguments.isa))
    with tempfile.TemporaryDirectory(prefix="agentopt-cpu-") as folder:
        answers = arguments.answers or Path(folder) / "answers.json"
        for arm in arguments.arms.split(","):
            config = engine_config(arm, arguments.isa, slow=False)
            chosen = cpu.choose(config, cpu.features(arguments.isa), quantized=is_quantized(model))
            config = engine_config(arm, arguments.isa, slow=chosen.slow)
            for busy in (int(each) for each in arguments.busy.split(",")):
                given = {"model": str(model), "config": config.model_dump(), "answers": str(answers), "arm": arm}
                others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
                try:
                    row = child({**given, "quick": busy > 0}, config, arguments.set)
                finally:
                    for each in others:
                        each.kill()
                        each.wait()
                report["arms"].append({"arm": arm, "busy": busy, "arithmetic": str(chosen), **row})
                print(report["arms"][-1], file=sys.stderr)
    return report


def child(given: dict[str, Any], config: EngineConfig, more: list[str]) -> dict[str, Any]:
    """Measure one arm in a fresh process with an engine's environment; ``more``: variables to add, ``NAME=VALUE``."""
    env = os.environ | engine_environment(config, cpu=True, cores=cpu.cores())
    env |= dict(each.split("=", 1) for each in more)
    env = {name: value for name, value in env.items() if value}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cpu", "--child"],
        input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=False, env=env,
    )  # fmt: skip
    if done.returncode:
        return {"failed": done.returncode}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def measure_arm() -> None:
    """The arm's process: reads settings from standard input and prints figures as JSON on the last line."""
    given = json.loads(sys.stdin.read())
    model, config = Path(given["model"]), EngineConfig.model_validate(given["config"])
    row = {} if given["quick"] else limits(model, config)
    options, speed = prepare(model, config, cpu=True)
    assert speed is not None
    row["expected_tokens_per_s"] = {size: round(each, 1) for size, each in speed.generated.items()}
    row["expected_prompt_tokens_per_s"] = round(speed.prompt, 1)
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    started = time.perf_counter()
    llm = LLM(**options)
    row["start_s"] = round(time.perf_counter() - started, 1)
    tokenizer, engine = llm.get_tokenizer(), llm.llm_engine
    text = tokenizer.encode(Path(__file__).read_text() * 8)

    def steps(prompts: list[list[int]], n: int) -> list[float]:
        params = SamplingParams(max_tokens=n, min_tokens=n, temperature=0, ignore_eos=True, detokenize=False)
        for index, ids in enumerate(prompts):
            engine.add_request(f"{time.time()}-{index}", TokensPrompt(prompt_token_ids=ids), params)
        times = []
        while engine.has_unfinished_requests():
            begun = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - begun)
        return times

    steps([text[:CONTEXT]], 2)
    fresh = text[CONTEXT : CONTEXT + (128 if speed.arithmetic.slow else 1024)]
    row["prompt_tokens_per_s"] = round(len(fresh) / sum(steps([fresh], 1)), 1)
    row["tokens_per_s"] = {}
    for size in (each for each in STEPS if each <= config.max_num_seqs):
        # Their beginning is cached; the rest is read before the first step that counts.
        prompts = [text[: CONTEXT - 8] + text[index * 7 : index * 7 + 8] for index in range(size)]
        times = sorted(steps(prompts, STEPS[size])[-(STEPS[size] - 2) :])
        row["tokens_per_s"][size] = round(size / times[len(times) // 2], 2)
    if "limit_tokens_per_s" in row:
        row["of_limit"] = {
            size: round(each / row["limit_tokens_per_s"][size], 2) for size, each in row["tokens_per_s"].items()
        }
    row["resident_gb"] = round(resident_bytes() / 1e9, 1)
    if not given["quick"]:
        row |= agreement(llm, tokenizer, Path(given["answers"]), reference=given["arm"] == "float32")
    print(json.dumps(row))


def limits(model: Path, config: EngineConfig) -> dict[str, Any]:
    """Bytes per second of a copy, operations per second of the arm's product, and the tokens per second they allow."""
    import torch

    source = torch.ones(256 << 20, dtype=torch.uint8)
    target = torch.zeros_like(source)
    best = min(timed(lambda: target.copy_(source)) for _ in range(8))
    bandwidth = 2 * source.numel() / best
    arithmetic = cpu.choose(config, cpu.features(config.cpu_isa), quantized=is_quantized(model))
    (outputs, inputs), body, head = weights(model)
    weight = torch.randn(outputs, inputs).to(getattr(torch, arithmetic.dtype))
    size = 32 if arithmetic.slow else 512
    operations = 2 * outputs * inputs * size / seconds([product_of(weight, arithmetic)], size, weight)
    total = body + head
    held = total * (1 if arithmetic.quantization else weight.element_size())
    return {
        "copy_gb_per_s": round(bandwidth / 1e9, 1),
        "product_gop_per_s": round(operations / 1e9),
        "limit_tokens_per_s": {
            size: round(min(size * bandwidth / held, operations / (2 * total)), 1) for size in STEPS
        },
    }


def timed(work: Any) -> float:
    """Seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def agreement(llm: Any, tokenizer: Any, answers: Path, *, reference: bool) -> dict[str, Any]:
    """How likely this arm finds float32's answers; ``reference``: this is float32, which first writes them."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    prompts = [
        tokenizer.encode(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": each}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )
        for each in QUESTIONS
    ]
    if reference:
        greedy = SamplingParams(max_tokens=40, temperature=0, detokenize=False)
        done = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], greedy, use_tqdm=False)
        answers.write_text(json.dumps([list(each.outputs[0].token_ids) for each in done]))
    if not answers.exists():
        return {}
    expected = json.loads(answers.read_text())
    scored = llm.generate(
        [TokensPrompt(prompt_token_ids=ids + answer) for ids, answer in zip(prompts, expected, strict=True)],
        SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, detokenize=False),
        use_tqdm=False,
    )
    chances = [
        position[token]
        for each, answer in zip(scored, expected, strict=True)
        for position, token in zip(each.prompt_logprobs[-len(answer) :], answer, strict=True)
    ]
    return {
        "answer_tokens": len(chances),
        "top1_with_float32": round(sum(each.rank == 1 for each in chances) / len(chances), 4),
        "nll_of_float32": round(-sum(each.logprob for each in chances) / len(chances), 4),
    }


def resident_bytes() -> int:
    """Resident memory of this process and all processes that it has started."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            pages[int(path.name)] = int((path / "statm").read_text().split()[1])
        except OSError:
            continue
        parents[int(path.name)] = int(fields[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(pages.get(pid, 0) for pid in ours) * os.sysconf("SC_PAGE_SIZE")


def main(argv: list[str] | None = None) -> int:
    """Measure and print a JSON report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--isa", choices=("auto", "avx2"), default="auto")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--busy", default="0", help="numbers of busy processes to run at the same time, such as 0,1,2")
    parser.add_argument("--answers", type=Path, help="float32's answers, kept from an earlier run")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="environment variables to set")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        measure_arm()
    else:
        print(json.dumps(run(arguments), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
