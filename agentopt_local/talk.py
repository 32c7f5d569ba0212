"""A draft's requests to its model: each with its own seed, and none longer than the model's context."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest, Constraint, Message, Sampling, Thinking, Usage
from agentopt_local.errors import ContextOverflowError
from agentopt_local.room import Room
from agentopt_local.seeds import derive
from agentopt_local.update import OptimizerConfig

log = logging.getLogger("agentopt.drafts")


class Talk:
    """What one draft asks."""

    def __init__(
        self, model: ChatModel, room: Room, config: OptimizerConfig, seed: int, thinking: Thinking | None = None
    ) -> None:
        """``config``: temperature and top_p of requests that have none of their own."""
        self.model = model
        self.room = room
        self.config = config
        self.seed = seed
        self.thinking = thinking
        self.usage = Usage()
        """Of all requests so far."""
        self.cut = 0
        """Replies that the limit of tokens or the end of the context has cut off."""
        self._requests = 0

    async def ask(
        self,
        forms: Iterable[Sequence[Message]],
        constraint: Constraint | None,
        *,
        max_tokens: int,
        temperature: float | None = None,
        part: str = "",
    ) -> ChatReply:
        """The reply to the first of ``forms`` that leaves ``max_tokens`` of the context, or else to the last one.

        ``part``: which conversation of the draft it is. Raises ContextOverflowError if the last form leaves no room for
        a reply, PromptError if the prompt is refused.
        """
        self._requests += 1
        for form in forms:
            request = ChatRequest(
                messages=tuple(form),
                constraint=constraint,
                sampling=Sampling(
                    max_tokens=max_tokens,
                    temperature=self.config.temperature if temperature is None else temperature,
                    top_p=self.config.top_p,
                    seed=derive(self.seed, "request", self._requests),
                ),
                thinking=self.thinking,
                conversation=f"optimizer/{part}{self.seed}",
            )
            left = await self.room.left(request, enough=max_tokens)
            if left is None or left >= max_tokens:
                break
        else:
            self.room.check(left)
            short = request.sampling.model_copy(update={"max_tokens": left})
            request = request.model_copy(update={"sampling": short})
        try:
            reply = await self.model.complete(request)
        except ContextOverflowError:
            await self.room.refused(request)
            raise
        self.room.heard(request, reply)
        self.usage += reply.usage
        self.cut += reply.finish_reason == "length"
        log.debug("draft %d, request %d: %s\n%s", self.seed, self._requests, reply.usage, reply.message.content)
        return reply
