"""Settings of a hosted engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from agentopt_local.record import Record
from agentopt_local.setting_types import PLAIN, Seconds

CPU_QUANTIZATION = ("auto", "none", "int8")
"""Values of ``quantization`` that are ours; all others are vLLM's."""


class EngineConfig(Record):
    """How one model is hosted. The defaults fit the embedded 1.5B model on a laptop, and fill a GPU with any model."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """``auto``: the GPU if Ray sees one, otherwise the CPU."""
    replicas: int = Field(default=1, ge=1, le=100_000)
    """Engine actors, each with its own copy of the model."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=100_000)
    """GPUs that share each layer of a replica; only for models that do not fit on one."""
    pipeline_parallel_size: int = Field(default=1, ge=1, le=100_000)
    """Groups of GPUs that each have a part of a replica's layers; for replicas that span nodes."""
    data_parallel_size: int = Field(default=1, ge=1, le=100_000)
    """Copies of the attention layers within a replica, with ``expert_parallel``; ``replicas`` is better without."""
    expert_parallel: bool = False
    """Distribute a mixture model's experts over a replica's GPUs instead of cutting each into slices."""
    gpu_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of one GPU that a replica takes; below 1, an engine of another model can have the rest."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of a GPU's memory that a replica uses; None: 0.9 of its ``gpu_fraction``."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of activations and KV cache. ``auto``: the model's own on a GPU; on a CPU whatever it computes fast."""
    quantization: str = "auto"
    """``auto`` (int8 products on x86 CPUs if ``dtype`` is ``auto`` too), ``none``, ``int8`` (of a CPU's products), or
    any of vLLM's names, such as ``fp8``. Models whose files are quantized run unchanged."""
    kv_cache_dtype: str = "auto"
    """Of the KV cache, by vLLM's names; ``fp8`` holds twice as many tokens."""
    max_model_len: Annotated[int, Field(ge=256)] | Literal["auto"] = "auto"
    """Longest prompt plus reply, in tokens. ``auto``: the model's own limit, or what fits the memory; 8192 on a CPU."""
    max_num_seqs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Largest batch, in sequences. ``auto``: what a GPU's memory has room for; 64 on a CPU."""
    max_num_batched_tokens: Annotated[int, Field(ge=256)] | Literal["auto"] = "auto"
    """Largest batch, in tokens. ``auto``: 16384 on a GPU with 60 GiB or more, otherwise 8192.
    Less on a CPU that would need more than a few seconds to read that many; long prompts are then read in chunks."""
    kv_cache_gib: float = Field(default=4.0, gt=0, le=1 << 20)
    """KV cache of a CPU engine, in GiB. A GPU engine sizes its cache by ``gpu_memory_utilization``."""
    speculative_config: Annotated[dict[str, Any] | None, PLAIN] = None
    """Speculative decoding, as a table with vLLM's keys: ``method``, ``model``, ``num_speculative_tokens``, ..."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model's files, outside the sandbox."""
    enforce_eager: bool | None = None
    """Skip compilation. None: yes on a CPU (compiling costs more than a short run saves), no on a GPU."""
    cpu_threads: int | None = Field(default=None, ge=1, le=100_000)
    """OpenMP threads of a CPU engine; None: all cores divided by ``replicas``."""
    cpu_isa: Literal["auto", "avx2"] = "auto"
    """``avx2``: treat a newer CPU as one that has only AVX2, to see how an engine performs there."""
    seed: int = 0
    vllm: Annotated[dict[str, Any], PLAIN] = Field(default={})
    """Any other argument of the installed vLLM, by its name in Python: ``--engine.vllm.NAME VALUE``."""
    start_timeout_s: Seconds = 900.0
    """How long a replica may take to load."""
    stall_timeout_s: Seconds = 600.0
    """A replica that holds requests and makes no step for this long is considered hung and is restarted.
    A slow one is left alone."""
    max_restarts: int = Field(default=3, ge=0)
    """How often a replica that died or hung is restarted; its requests are sent again.
    One that fails twice for the same reason is not restarted."""
    pool_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Engines that ``agentopt serve`` keeps alive under this name on the Ray cluster; None: start new engines."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> EngineConfig:
        if self.gpu_fraction < 1 and self.gpus > 1:
            raise PydanticCustomError(
                "together",
                "gpu_fraction = {fraction} is a share of one GPU, but a replica has {gpus}: leave gpu_fraction out",
                {"fraction": self.gpu_fraction, "gpus": self.gpus},
            )
        return self

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def memory_share(self) -> float:
        """The share of each GPU's memory that a replica uses."""
        return 0.9 * self.gpu_fraction if self.gpu_memory_utilization is None else self.gpu_memory_utilization


class HostedModel(Record):
    """What the replicas of one pool have in common."""

    model: str
    """The model's name in the settings."""
    device: str
    """``cpu`` or ``gpu``."""
    replicas: int = 1
