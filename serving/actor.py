"""A model in a Ray actor. All methods are ``async``: the model batches whatever is in flight."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest
from serving.config import HostedModel


class ModelActor:
    """What runs inside the actor process: a vLLM engine, or any other ChatModel."""

    def __init__(self, make: Callable[[], ChatModel], hosted: HostedModel) -> None:
        """Make the model; the actor is ready when this returns. Ray calls it again when it restarts the actor."""
        self.model = make()
        self.hosted = hosted
        self.life = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    async def ready(self) -> str:
        """Once the model is loaded: the process id and what tells this life of the actor from the next."""
        return self.life

    async def kv_cache_tokens(self) -> int | None:
        """Tokens that the model's KV cache holds; None for models without one."""
        return getattr(self.model, "kv_cache_tokens", None)

    async def about(self) -> HostedModel:
        """What the pool of this actor hosts, for those who join it by name."""
        return self.hosted

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request."""
        return await self.model.complete(request)

    async def close(self) -> None:
        """End the model before the actor is killed."""
        await self.model.aclose()
