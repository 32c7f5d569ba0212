"""How many tokens a model's context has left beside a prompt.

Counted by the model's own tokenizer where it offers that (``context_tokens`` and ``count_tokens`` of hosted engines),
else estimated on the safe side and corrected by what replies report. A context whose length is not known is learned
from prompts that were refused as too long.
"""

from __future__ import annotations

import math
import re
from typing import Protocol, cast

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest
from agentopt_local.errors import ContextOverflowError

PER_MESSAGE = 8
"""Tokens that a chat template puts around a message."""
MARGIN = 1.05
"""Of estimates that were corrected by replies: other texts have other shares of digits and names."""
REFUSED_SHARE = 0.85
"""Of a prompt and its reply that were refused together: what the next ones may take."""
LEAST_REPLY = 16
"""Tokens; a prompt that leaves less room than this is not sent."""
SHORT = 200
"""Estimated tokens; shorter prompts say more about the chat template than about text."""
WORDY = re.compile(r"[A-Za-z ]")
DIGITS_AND_MARKS = re.compile(r"[\x21-\x40\x5b-\x60\x7b-\x7e\n\t]")


class Counting(Protocol):
    """A model that knows its context and its tokenizer."""

    @property
    def context_tokens(self) -> int | None:
        """Longest prompt plus reply, in tokens; None if it is not known."""
        ...

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Tokens of the prompt of ``request``; None if they cannot be counted now."""
        ...


class Room:
    """The context of one model. Several conversations share what is learned of it."""

    def __init__(self, model: ChatModel) -> None:
        """``model`` may offer what :class:`Counting` says."""
        self.model = cast("Counting", model)
        self._counts = hasattr(model, "count_tokens")
        self._learned: int | None = None
        self._ratio: float | None = None
        """Tokens per estimated token, the most that was seen; None before the first reply."""

    @property
    def limit(self) -> int | None:
        """Longest prompt plus reply, in tokens; None as long as nothing is known of it."""
        known = (getattr(self.model, "context_tokens", None), self._learned)
        return min((each for each in known if each is not None), default=None)

    async def left(self, request: ChatRequest, *, enough: int = 0) -> int | None:
        """Tokens that the prompt of ``request`` leaves for a reply, perhaps below 0; None if the context is not known.

        Nothing is counted where a safe estimate shows that ``enough`` are left.
        """
        limit = self.limit
        if limit is None:
            return None
        safe = estimate(request)
        return limit - (safe if limit - safe >= max(enough, LEAST_REPLY) else await self.tokens(request))

    async def tokens(self, request: ChatRequest) -> int:
        """Tokens of the prompt of ``request``, counted or estimated."""
        counted = await self.model.count_tokens(request) if self._counts else None
        return self._corrected(estimate(request)) if counted is None else counted

    def heard(self, request: ChatRequest, reply: ChatReply) -> None:
        """Note how many tokens a prompt had."""
        guess = estimate(request)
        if reply.usage.requests == 1 and reply.usage.prompt_tokens > 0 and guess >= SHORT:
            self._ratio = max(reply.usage.prompt_tokens / guess, self._ratio or 0.0)

    async def refused(self, request: ChatRequest) -> None:
        """Note that prompt and reply of ``request`` together were too long."""
        asked = await self.tokens(request) + request.sampling.max_tokens
        if self._learned is None or asked <= self._learned:  # others that were under way say nothing new
            self._learned = int(REFUSED_SHARE * asked)

    def check(self, left: int | None) -> None:
        """Raise ContextOverflowError if there is no room for a reply."""
        if left is not None and left < LEAST_REPLY:
            raise ContextOverflowError(f"the prompt leaves {left} tokens of the context of {self.limit} for a reply")

    def _corrected(self, safe: int) -> int:
        return safe if self._ratio is None else math.ceil(safe * self._ratio * MARGIN)


def estimate(request: ChatRequest) -> int:
    """Tokens of the prompt of ``request``, rather too many: no tokenizer in use needs more for ordinary text."""
    texts = [message.content for message in request.messages]
    texts += [f"{call.name} {call.arguments}" for message in request.messages for call in message.tool_calls]
    texts += [f"{tool.name} {tool.description} {tool.parameters}" for tool in request.tools]
    return sum(estimate_text(text) + PER_MESSAGE for text in texts)


def estimate_text(text: str) -> int:
    """Tokens of ``text``, rather too many: three letters, or one digit or mark, or one byte of other scripts each."""
    words = len(WORDY.findall(text))
    marks = len(DIGITS_AND_MARKS.findall(text))
    others = len(text.encode("utf-8", "replace")) - words - marks
    return math.ceil(words / 3 + marks + others)
