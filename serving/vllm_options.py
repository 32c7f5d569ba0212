"""vLLM's arguments and environment variables for an engine with given settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agentopt_local.errors import outcome
from serving.calibration import measure
from serving.cpu import INT8_METHOD, KERNEL_VARIABLE, plugged_in
from serving.cpu import environment as cpu_environment
from serving.engine_config import CPU_QUANTIZATION, EngineConfig
from serving.facts import Speed
from serving.sizing import GIB, Sizes, cpu_sizes, gpu_sizes, read_folder

STEP_S = 4.0
"""How long a CPU engine may read prompts in one step. Only between steps do others get their next token, and only then
does the engine report progress; long prompts are therefore read in chunks."""
DAY_S = 86_400
UNKNOWN_MEMORY = 24 * GIB
ASLEEP = 3 * GIB
"""What an engine leaves of a GPU for the one that sleeps meanwhile: its driver's context and captured graphs."""


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
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # where last_error() looks; Ray keeps the two apart
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the weights are local by now: no request may leave the machine
        # A slow step must not end the engine; hung ones are found by stall_timeout_s.
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(DAY_S),
    }
    return env | cpu_environment(config, cores=cores) if cpu else env


def engine_options(
    model: Path,
    config: EngineConfig,
    *,
    speed: Speed | None = None,
    memory: int = 0,
    spans: bool = False,
    sleeps: bool = False,
) -> dict[str, Any]:
    """vLLM's arguments for ``model``, the same for its async and its offline engine.

    ``speed``: of this processor, if the engine runs on it; None: on GPUs with ``memory`` bytes each, which are on
    several nodes if it ``spans`` them, and whose memory it gives back for a while if it ``sleeps``.
    """
    if sleeps and config.gpu_memory_utilization is None and memory:
        share = round(min(config.memory_share, 1 - ASLEEP / memory), 2)
        config = config.model_copy(update={"gpu_memory_utilization": share})
    facts = read_folder(model)
    sizes = gpu_sizes(config, facts, memory) if speed is None else cpu_sizes(config, facts)
    several = config.tensor_parallel_size * config.pipeline_parallel_size > 1
    options: dict[str, Any] = {
        "model": str(model),
        "tokenizer_mode": "hf",  # the same as serving/engine.py loads
        "dtype": config.dtype,
        "seed": config.seed,
        **sizes.model_dump(),
        "quantization": None if config.quantization in CPU_QUANTIZATION else config.quantization,
        "kv_cache_dtype": config.kv_cache_dtype,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "data_parallel_size": config.data_parallel_size,
        "enable_expert_parallel": config.expert_parallel,
        "speculative_config": config.speculative_config,
        "trust_remote_code": config.trust_remote_code,
        # on one node not "ray": a second placement group inside an actor would wait forever
        "distributed_executor_backend": "ray" if spans else "mp" if several else None,
        "enforce_eager": speed is not None if config.enforce_eager is None else config.enforce_eager,
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
    }
    if facts is not None and facts.multimodal:
        options["language_model_only"] = True  # nobody sends pictures: their encoder would only take memory
    if speed is None:
        return options | {"gpu_memory_utilization": config.memory_share, "enable_sleep_mode": sleeps} | config.vllm
    options |= {
        "dtype": speed.arithmetic.dtype,
        "quantization": INT8_METHOD if speed.arithmetic.quantization else options["quantization"],
        "max_num_batched_tokens": step_tokens(sizes, speed),
        "block_size": 32,  # the default, 128, caches too little of short prompts
        "ir_op_priority": compiled_norms(),
        "enable_logging_iteration_details": True,  # how many tokens each step has read; a CPU's steps are long
    }
    if config.gpus == 1:
        # The model runs in the engine core's own process: with "mp", vLLM spins on a core for as long as a step takes
        # and ends a step that takes 300 s.
        options["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return options | config.vllm


def prepare(
    model: Path, config: EngineConfig, *, cpu: bool, spans: bool = False, sleeps: bool = False
) -> tuple[dict[str, Any], Speed | None]:
    """vLLM's arguments, and the measured speed that a CPU engine's depend on.

    Sets an environment variable that vLLM's processes inherit, so they must start after this.
    """
    speed = measure(model, config) if cpu else None
    if speed is not None and speed.arithmetic.kernel is not None:
        os.environ[KERNEL_VARIABLE] = speed.arithmetic.kernel
    memory = 0 if cpu else gpu_memory()
    return engine_options(model, config, speed=speed, memory=memory, spans=spans, sleeps=sleeps), speed


def gpu_memory() -> int:
    """The memory of this process's first GPU in bytes; UNKNOWN_MEMORY if it cannot be found out."""
    from vllm.platforms import current_platform

    found, _ = outcome(current_platform.get_device_total_memory)
    return int(found or UNKNOWN_MEMORY)


def step_tokens(sizes: Sizes, speed: Speed) -> int:
    """Prompt and generated tokens of one step: as many as are read in ``STEP_S``, and at least one per sequence."""
    readable = int(speed.prompt * STEP_S) // 32 * 32
    return max(min(sizes.max_num_batched_tokens, readable), sizes.max_num_seqs, 64)
