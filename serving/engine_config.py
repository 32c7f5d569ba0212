"""Settings of a hosted engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentopt_local.record import Record


class EngineConfig(Record):
    """How one model is hosted. The defaults fit the embedded 1.5B model on a laptop and on one GPU."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """``auto``: the GPU if Ray sees one, otherwise the CPU."""
    replicas: int = Field(default=1, ge=1)
    """Engine actors, one per GPU (times ``tensor_parallel_size``)."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs per replica; only for models that do not fit on one."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of activations and KV cache. ``auto``: the model's own on a GPU; on a CPU whatever it computes fast."""
    quantization: Literal["auto", "none", "int8"] = "auto"
    """Of a CPU engine's matrix products. ``int8``: 8-bit weights and activations; ``none``: exact in ``dtype``;
    ``auto``: int8 on x86 if ``dtype`` is ``auto`` too. Models that are already quantized run unchanged."""
    max_model_len: int = Field(default=8192, ge=256)
    """Longest prompt plus reply, in tokens."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Largest batch, in sequences."""
    max_num_batched_tokens: int = Field(default=8192, ge=256)
    """Largest batch, in tokens.
    Less on a CPU that would need more than a few seconds to read that many; long prompts are then read in chunks."""
    kv_cache_gib: float = Field(default=4.0, gt=0)
    """KV cache of a CPU engine, in GiB. A GPU engine sizes its cache by ``gpu_memory_utilization``."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    enforce_eager: bool | None = None
    """Skip compilation. None: yes on a CPU (compiling costs more than a short run saves), no on a GPU."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """OpenMP threads of a CPU engine; None: all cores divided by ``replicas``."""
    cpu_isa: Literal["auto", "avx2"] = "auto"
    """``avx2``: treat a newer CPU as one that has only AVX2, to see how an engine performs there."""
    seed: int = 0
    start_timeout_s: float = Field(default=900.0, gt=0)
    """How long a replica may take to load."""
    stall_timeout_s: float = Field(default=600.0, gt=0)
    """A replica that holds requests and makes no step for this long is considered hung and is restarted.
    A slow one is left alone."""
    max_restarts: int = Field(default=3, ge=0)
    """How often a replica that died or hung is restarted; its requests are sent again.
    One that fails twice for the same reason is not restarted."""
    pool_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Engines that ``agentopt serve`` keeps alive under this name on the Ray cluster; None: start new engines."""


class HostedModel(Record):
    """What the replicas of one pool have in common."""

    model: str
    """The model's name in the settings."""
    device: str
    """``cpu`` or ``gpu``."""
    replicas: int = 1
