"""An engine in a Ray actor. All methods are ``async``: the engine batches whatever is in flight."""

from __future__ import annotations

import os
from pathlib import Path

from agentopt_local.chat import ChatReply, ChatRequest
from serving.config import EngineConfig
from serving.engine import Engine


class EngineActor:
    """What runs inside the actor process."""

    def __init__(self, model: str, config: EngineConfig, cpu: bool) -> None:
        """Load the model; the actor is ready when this returns."""
        self.engine = Engine(Path(model), config, cpu=cpu)

    async def ready(self) -> int:
        """The actor's process id, once the model is loaded."""
        return os.getpid()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request."""
        return await self.engine.complete(request)

    async def close(self) -> None:
        """End the engine core before the actor is killed."""
        await self.engine.aclose()
