"""What engines report about themselves: how they compute, how fast they should be, what they have done."""

from __future__ import annotations

from datetime import date
from typing import Literal

from agentopt_local.record import Record

Kernel = Literal["fbgemm", "onednn"]


class Arithmetic(Record):
    """How an engine computes its matrix products, and why."""

    dtype: str
    """Of activations and KV cache."""
    quantization: str | None = None
    """``int8``: 8-bit weights and activations in the products; None: they are computed in ``dtype``."""
    kernel: Kernel | None = None
    """The library that computes the int8 products."""
    reason: str
    slow: bool = False
    """Whether the processor has no fast instructions for it."""

    def __str__(self) -> str:
        what = f"int8 products ({self.kernel}), {self.dtype} between them" if self.quantization else self.dtype
        return f"{what}: {self.reason}"


class Speed(Record):
    """How fast an engine is expected to be."""

    arithmetic: Arithmetic
    features: str
    """Of the processor, as text."""
    prompt: float
    """Prompt tokens read per second."""
    generated: dict[int, float]
    """Batch size in sequences -> tokens generated per second, summed over the batch."""

    def at(self, sequences: int) -> float:
        """Tokens generated per second in a batch of ``sequences``."""
        return self.generated[max((size for size in self.generated if size <= sequences), default=min(self.generated))]

    def __str__(self) -> str:
        most = max(self.generated)
        alone, together = self.at(1), self.at(most)
        return f"about {together:.0f} tokens/s for {most} at once, {alone:.1f} for one, {self.prompt:.0f} read"


class EngineFacts(Record):
    """How a loaded engine computes, which a run's results and speed depend on."""

    dtype: str
    quantization: str | None = None
    """vLLM's name for it."""
    speed: Speed | None = None
    """Of a CPU engine: the reason for its arithmetic, and its expected speed."""
    step_tokens: int
    """Largest number of tokens in one step."""
    max_model_len: int = 0
    """Longest prompt plus reply, in tokens."""
    max_num_seqs: int = 0
    """Largest batch, in sequences."""
    kv_cache_tokens: int | None = None
    """Capacity of the KV cache, in tokens."""
    calls: str = ""
    """How the model writes calls: the name of a format or of the parser that reads it."""
    thinks: str = ""
    """Whether the model thinks before it replies: ``never``, ``if switched on``, ``if it likes`` or ``always``."""
    day: date | None = None
    """The current date to chat templates that show it."""


class EngineCounters(Record):
    """What an engine has done since it started; sums if there are several replicas."""

    steps: int = 0
    prompt_tokens: int = 0
    """Prompt tokens computed, excluding those found in the prefix cache."""
    completion_tokens: int = 0

    def after(self, prompt_tokens: int, completion_tokens: int) -> EngineCounters:
        """The counters after one more step."""
        return self + EngineCounters(steps=1, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

    def __add__(self, other: EngineCounters) -> EngineCounters:
        return EngineCounters(
            steps=self.steps + other.steps,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )
