"""Predicts how fast an engine will be on this processor, by timing its matrix products before the model is loaded.

    python -m serving.calibration MODEL_FOLDER ENGINE_CONFIG_JSON     prints a Speed as JSON on the last line

A token takes the products with all the model's weights; everything else in a step is a fixed share of that
(``OVERHEAD``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentopt_local.errors import EngineDeadError
from serving import cpu
from serving.engine_config import EngineConfig
from serving.facts import Arithmetic, Speed

BATCHES = (1, 8, 32, 96)
PROMPT = 256
"""Prompt tokens in one timed product: with more, a token takes no less time."""
OVERHEAD = 1.5
"""A step's time divided by that of its products: attention, norms, sampling, grammars, the engine's own work."""
RESIDENT_BYTES = 160 << 20
"""Weights that a measurement cycles through, so that they come from memory as a model's do, not from a cache."""
BUDGET_S = 0.6
"""Time to measure one batch size."""
TIMEOUT_S = 180


def weights(model: Path) -> tuple[tuple[int, int], int, int]:
    """Read from a model's folder: the (outputs, inputs) of its typical large product, the number of weights in all
    products except the head's, and in the head's. If its settings have other names, the size of its files decides."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    if not {"hidden_size", "num_hidden_layers"} <= config.keys():
        return (4096, 1024), sum(path.stat().st_size for path in model.glob("*.safetensors")) // 2 or 1, 0
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    inner, words = int(config.get("intermediate_size") or 4 * hidden), int(config.get("vocab_size", 0))
    heads = int(config.get("num_attention_heads", 1))
    width = int(config.get("head_dim") or hidden // heads)
    keys = int(config.get("num_key_value_heads") or heads)
    attention = hidden * width * (2 * heads + 2 * keys)
    return (inner, hidden), layers * (attention + 3 * hidden * inner), words * hidden


def measure(model: Path, config: EngineConfig) -> Speed:
    """The speed in this process, which needs an engine's environment (:func:`serving.cpu.environment`)."""
    import torch

    found = cpu.features(config.cpu_isa)
    arithmetic = cpu.choose(config, found, quantized=is_quantized(model))
    (outputs, inputs), body, head = weights(model)
    weight = torch.randn(outputs, inputs, dtype=torch.float32).mul_(0.02).to(getattr(torch, arithmetic.dtype))
    each = outputs * inputs * (1 if arithmetic.quantization else weight.element_size())
    products = [product_of(weight, arithmetic) for _ in range(max(2, -(-RESIDENT_BYTES // each)))]
    times = {size: seconds(products, size, weight) / (outputs * inputs) for size in (*BATCHES, PROMPT)}
    return Speed(
        arithmetic=arithmetic,
        features=cpu.describe(found),
        prompt=PROMPT / (times[PROMPT] * body * OVERHEAD),
        generated={size: size / (times[size] * (body + head) * OVERHEAD) for size in BATCHES},
    )


def is_quantized(model: Path) -> bool:
    """Whether the model's files are quantized."""
    return "quantization_config" in json.loads((model / "config.json").read_text(encoding="utf-8"))


def product_of(weight: Any, arithmetic: Arithmetic) -> Callable[[Any], Any]:
    """The product that vLLM will use for ``weight``."""
    import torch

    if arithmetic.kernel is not None:
        from serving.cpu_kernels import packed

        product = packed(weight, arithmetic.kernel)
        return lambda x: product(x, None)
    from vllm import _custom_ops as ops

    if ops._supports_onednn:
        try:
            handler = ops.create_onednn_mm(weight.t(), 32)
        except RuntimeError:  # not available on this processor: vLLM falls back to PyTorch too
            return lambda x: torch.nn.functional.linear(x, weight)
        return lambda x: ops.onednn_mm(handler, x, None)
    return lambda x: torch.nn.functional.linear(x, weight)


def seconds(products: list[Callable[[Any], Any]], size: int, weight: Any) -> float:
    """The fastest of several calls with ``size`` tokens each, as slower ones include the time of other processes."""
    import torch

    x = torch.randn(size, weight.shape[1]).to(weight.dtype)
    products[0](x)
    best, end, calls = float("inf"), time.perf_counter() + BUDGET_S, 0
    while calls < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        products[calls % len(products)](x)
        best = min(best, time.perf_counter() - started)
        calls += 1
    return best


def measure_in_child(model: Path, config: EngineConfig) -> Speed:
    """:func:`measure` in a new process with an engine's environment. Raises ConfigError if the processor is too old."""
    cpu.choose(config, cpu.features(config.cpu_isa))
    env = os.environ | cpu.environment(config, cores=cpu.cores())
    command = [sys.executable, "-m", "serving.calibration", str(model), config.model_dump_json()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise EngineDeadError(f"the processor's speed could not be measured within {TIMEOUT_S} s") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no error was printed"])[-1]
        raise EngineDeadError(f"the processor's speed could not be measured: {reason}; see 'agentopt doctor'")
    return Speed.model_validate_json(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(measure(Path(sys.argv[1]), EngineConfig.model_validate_json(sys.argv[2])).model_dump_json())
