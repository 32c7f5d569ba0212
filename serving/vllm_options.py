"""vLLM's arguments and environment variables for an engine with given settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from serving.calibration import measure
from serving.cpu import INT8_METHOD, KERNEL_VARIABLE, plugged_in
from serving.cpu import environment as cpu_environment
from serving.engine_config import EngineConfig
from serving.facts import Speed

STEP_S = 4.0
"""How long a CPU engine may read prompts in one step. Only between steps do others get their next token, and only then
does the engine report progress; long prompts are therefore read in chunks."""
DAY_S = 86_400


def compiled_norms() -> dict[str, list[str]]:
    """``ir_op_priority`` of a CPU engine: the norms of ``serving/cpu_kernels.py``, if vLLM finds them."""
    if not plugged_in():
        return {}
    return {"rms_norm": ["agentopt_cpu"], "fused_add_rms_norm": ["agentopt_cpu"]}


def engine_environment(config: EngineConfig, *, cpu: bool, cores: int) -> dict[str, str]:
    """Environment variables that an engine's process needs from its start, because they are read at import."""
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the weights are local by now: no request may leave the machine
        # A slow step must not end the engine; hung ones are found by stall_timeout_s.
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(DAY_S),
    }
    return env | cpu_environment(config, cores=cores) if cpu else env


def engine_options(model: Path, config: EngineConfig, *, speed: Speed | None = None) -> dict[str, Any]:
    """vLLM's arguments for ``model``, the same for its async and its offline engine.

    ``speed``: of this processor, if the engine runs on it; None: on a GPU.
    """
    options: dict[str, Any] = {
        "model": str(model),
        "dtype": config.dtype,
        "seed": config.seed,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "tensor_parallel_size": config.tensor_parallel_size,
        # a second Ray placement group inside an actor would wait forever
        "distributed_executor_backend": "mp" if config.tensor_parallel_size > 1 else None,
        "enforce_eager": speed is not None if config.enforce_eager is None else config.enforce_eager,
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
    }
    if speed is None:
        return options | {"gpu_memory_utilization": config.gpu_memory_utilization}
    options |= {
        "dtype": speed.arithmetic.dtype,
        "quantization": INT8_METHOD if speed.arithmetic.quantization else None,
        "max_num_batched_tokens": step_tokens(config, speed),
        "block_size": 32,  # the default, 128, caches too little of short prompts
        "ir_op_priority": compiled_norms(),
        "enable_logging_iteration_details": True,  # how many tokens each step has read; a CPU's steps are long
    }
    if config.tensor_parallel_size == 1:
        # The model runs in the engine core's own process: with "mp", vLLM spins on a core for as long as a step takes
        # and ends a step that takes 300 s.
        options["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return options


def prepare(model: Path, config: EngineConfig, *, cpu: bool) -> tuple[dict[str, Any], Speed | None]:
    """vLLM's arguments, and the measured speed that a CPU engine's depend on.

    Sets an environment variable that vLLM's processes inherit, so they must start after this.
    """
    speed = measure(model, config) if cpu else None
    if speed is not None and speed.arithmetic.kernel is not None:
        os.environ[KERNEL_VARIABLE] = speed.arithmetic.kernel
    return engine_options(model, config, speed=speed), speed


def step_tokens(config: EngineConfig, speed: Speed) -> int:
    """Prompt and generated tokens of one step: as many as are read in ``STEP_S``, and at least one per sequence."""
    readable = int(speed.prompt * STEP_S) // 32 * 32
    return max(min(config.max_num_batched_tokens, readable), config.max_num_seqs, 64)
