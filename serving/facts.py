"""What engines tell of themselves: how they compute, how fast they should be, what they have done."""

from __future__ import annotations

from typing import Literal

from agentopt_local.record import Record

Kernel = Literal["fbgemm", "onednn"]


class Arithmetic(Record):
    """How an engine's products are computed, and why."""

    dtype: str
    """Of activations and KV cache."""
    quantization: str | None = None
    """``int8``: weights and activations of the products; None: as ``dtype``."""
    kernel: Kernel | None = None
    """Whose int8 product."""
    reason: str
    slow: bool = False
    """Whether the processor has nothing fast for it."""

    def __str__(self) -> str:
        what = f"int8 products ({self.kernel}), {self.dtype} between them" if self.quantization else self.dtype
        return f"{what}: {self.reason}"


class Speed(Record):
    """What an engine is expected to do."""

    arithmetic: Arithmetic
    features: str
    """Of the processor, in words."""
    prompt: float
    """Prompt tokens read per second."""
    generated: dict[int, float]
    """Tokens generated per second by sequences at once, summed over them."""

    def at(self, sequences: int) -> float:
        """Tokens generated per second with ``sequences`` at once."""
        return self.generated[max((size for size in self.generated if size <= sequences), default=min(self.generated))]

    def __str__(self) -> str:
        most = max(self.generated)
        alone, together = self.at(1), self.at(most)
        return f"about {together:.0f} tokens/s for {most} at once, {alone:.1f} for one, {self.prompt:.0f} read"


class EngineFacts(Record):
    """How a loaded engine computes: what a run's results and its speed depend on."""

    dtype: str
    quantization: str | None = None
    """vLLM's name of it."""
    speed: Speed | None = None
    """Of a CPU engine: the reason for its arithmetic, and the speed that it should have."""
    step_tokens: int
    """Most tokens of one step."""
    kv_cache_tokens: int | None = None
    """Tokens that the KV cache holds."""


class Pulse(Record):
    """What an engine has done since it started; sums over replicas where there are several."""

    steps: int = 0
    prompt_tokens: int = 0
    """Read, without those that the prefix cache held."""
    completion_tokens: int = 0

    def after(self, prompt_tokens: int, completion_tokens: int) -> Pulse:
        """After one more step."""
        return self + Pulse(steps=1, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

    def __add__(self, other: Pulse) -> Pulse:
        return Pulse(
            steps=self.steps + other.steps,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )
