"""How fast an engine will be on this processor, from a few seconds of its products alone, before a model is loaded.

    python -m serving.calibration MODEL_FOLDER ENGINE_CONFIG_JSON     a Speed as JSON, on the last line

A token costs a model the products with all its weights; what else a step costs is a share of that (OVERHEAD).
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
from serving.config import EngineConfig
from serving.facts import Arithmetic, Speed

BATCHES = (1, 8, 32, 96)
PROMPT = 256
"""Prompt tokens of one measured product: beyond it a token gets no cheaper."""
OVERHEAD = 1.5
"""A step's time over that of its products: attention, norms, sampling, grammars, the engine's own work."""
RESIDENT_BYTES = 160 << 20
"""Weights that a measurement goes round, so that they come from memory as a model's do, not from a cache."""
BUDGET_S = 0.6
"""For one size of batch."""
TIMEOUT_S = 180


def weights(model: Path) -> tuple[tuple[int, int], int, int]:
    """Of a model's folder: (outputs, inputs) of its typical large product, weights in all products but the head's,
    and in the head's. Of a model whose settings have other names, the size of its files tells."""
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
    """The speed in this process, whose environment must be an engine's (:func:`serving.cpu.environment`)."""
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
    """Whether the model's own files are quantized."""
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
        except RuntimeError:  # no such product on this processor: vLLM falls back to PyTorch as well
            return lambda x: torch.nn.functional.linear(x, weight)
        return lambda x: ops.onednn_mm(handler, x, None)
    return lambda x: torch.nn.functional.linear(x, weight)


def seconds(products: list[Callable[[Any], Any]], size: int, weight: Any) -> float:
    """The fastest of some calls with ``size`` tokens each: what else runs here meanwhile is not the product's cost."""
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
    """The same in a process with an engine's environment. Raises ConfigError where the processor is too old."""
    cpu.choose(config, cpu.features(config.cpu_isa))
    env = os.environ | cpu.environment(config, cores=cpu.cores())
    command = [sys.executable, "-m", "serving.calibration", str(model), config.model_dump_json()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise EngineDeadError(f"the processor's speed could not be measured within {TIMEOUT_S} s") from None
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EngineDeadError(f"the processor's speed could not be measured: {told}; see 'agentopt doctor'")
    return Speed.model_validate_json(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(measure(Path(sys.argv[1]), EngineConfig.model_validate_json(sys.argv[2])).model_dump_json())
