"""A model in a Ray actor. All methods are ``async``: the model batches whatever is in flight."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import NamedTuple

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest
from serving.config import HostedModel
from serving.facts import EngineFacts, Pulse


class Life(NamedTuple):
    """One process of an actor, from its start to its end."""

    id: str
    """The process id and what tells this life of the actor from the next."""
    facts: EngineFacts | None = None
    """Of the engine in it; None where there is none."""


class PooledActor:
    """What an :class:`~serving.actor_pool.ActorPool` needs of its actors. Ray restarts one by ``__init__``."""

    def __init__(self) -> None:
        self.life = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    async def ready(self) -> Life:
        """Answers once the actor can be used."""
        return Life(self.life)

    async def beat(self) -> int | None:
        """A number that changes while the actor's work goes on; None: it does not tell."""
        return None

    async def end(self, life: str) -> None:
        """End this process if it is that life, for Ray to start the next: who asks late ends nothing."""
        if life == self.life:
            os._exit(1)

    async def close(self) -> None:
        """Release what is held before the actor is killed."""


class ModelActor(PooledActor):
    """What runs inside the actor process: a vLLM engine, or any other ChatModel."""

    def __init__(self, make: Callable[[], ChatModel], hosted: HostedModel) -> None:
        """Make the model; the actor is ready when this returns."""
        super().__init__()
        self.model = make()
        self.hosted = hosted

    async def ready(self) -> Life:
        """Once the model is loaded."""
        return Life(self.life, getattr(self.model, "facts", None))

    async def pulse(self) -> Pulse | None:
        """What the engine has done so far; None for other models."""
        return getattr(self.model, "pulse", None)

    async def beat(self) -> int | None:
        """The engine's steps; None where they are not counted."""
        pulse = await self.pulse()
        return None if pulse is None else pulse.steps

    async def about(self) -> HostedModel:
        """What the pool of this actor hosts, for those who join it by name."""
        return self.hosted

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request."""
        return await self.model.complete(request)

    async def close(self) -> None:
        """End the model before the actor is killed."""
        await self.model.aclose()
