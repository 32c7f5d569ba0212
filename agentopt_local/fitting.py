"""Evidence within a context: budgets shrink first, down to what can be read, then the number of problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from agentopt_local.chat import ChatRequest, Message, Thinking
from agentopt_local.evidence import CHARS_PER_TOKEN, Evidence
from agentopt_local.room import Room
from agentopt_local.update import OptimizerConfig

LEGIBLE_CHARS = 400
"""Of one of several rollouts; rather than less of each, fewer are shown."""
LEAST_SHARE = 0.1
SHRINK = 0.75
FEEDBACK_TOKENS = 60
"""Of what a draft is told about a source that failed, for each shown problem; more where there is room."""
WORDS_BETWEEN = 200
"""Tokens of the prompts between an action, its source and a repair."""

Write = Callable[[Sequence[Evidence], float], str]
"""The prompt with these rollouts and this share of the budgets for them, the functions and the failed updates."""


class Fitted(NamedTuple):
    """A prompt that fits, and what it shows."""

    prompt: str
    evidence: tuple[Evidence, ...]
    share: float
    """Of the budgets; 1 where all fits."""


async def fit(
    write: Write, evidence: Sequence[Evidence], room: Room, config: OptimizerConfig, thinking: Thinking | None = None
) -> Fitted | None:
    """The longest prompt that leaves room for an action, its source and, if possible, a repair; None if none does."""
    everything = tuple(evidence)
    for repairs in (1, 0) if config.max_retries else (0,):
        for n in range(len(everything), 0, -1):
            legible = LEGIBLE_CHARS * n / (config.evidence_tokens * CHARS_PER_TOKEN)
            least = min(1.0, legible) if n > 1 or repairs else LEAST_SHARE
            needed = reserve(config, n, repairs)
            for share in shares(least):
                prompt = write(everything[:n], share)
                request = ChatRequest(messages=(Message(role="user", content=prompt),), thinking=thinking)
                left = await room.left(request, enough=needed)
                if left is None or left >= needed:
                    return Fitted(prompt, everything[:n], share)
    return None


def shares(least: float) -> Iterator[float]:
    """Shares of the budgets to try, from all of them to ``least``."""
    share = 1.0
    while share > least:
        yield share
        share *= SHRINK
    yield least


def reserve(config: OptimizerConfig, problems: int, repairs: int) -> int:
    """Tokens of a draft's conversation after its first prompt: the action, the source, and ``repairs`` of it."""
    rounds = config.max_source_tokens * (1 + repairs) + FEEDBACK_TOKENS * problems * repairs
    return config.max_header_tokens + WORDS_BETWEEN + rounds
