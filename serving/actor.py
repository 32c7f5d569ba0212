"""Ray actors for :class:`~serving.actor_pool.ActorPool`: a base class, and the actor that hosts a model.

All methods are ``async``: the model batches whatever is in flight.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest
from serving.engine_config import HostedModel
from serving.facts import EngineCounters, EngineFacts


class Incarnation(NamedTuple):
    """One process of an actor: Ray starts a new one each time it restarts the actor."""

    id: str
    """Unique to this process."""
    facts: EngineFacts | None = None
    """Of the engine in it; None if there is no engine."""


class PooledActor:
    """What an :class:`~serving.actor_pool.ActorPool` needs from its actors. To restart one, Ray calls ``__init__``."""

    def __init__(self) -> None:
        self.incarnation = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    async def ready(self) -> Incarnation:
        """Return once the actor can be used."""
        return Incarnation(self.incarnation)

    async def heartbeat(self) -> int | None:
        """A number that changes as long as the actor makes progress; None if it does not report progress."""
        return None

    async def exit(self, incarnation: str) -> None:
        """End this process, so that Ray starts the next, but only if it still is ``incarnation``.

        Several pools (jobs, rollout workers) may see the same failure. The id keeps a late report from ending the
        process that has already replaced the failed one. Ray ends the process's children, such as an engine core, too.
        """
        if incarnation == self.incarnation:
            os._exit(1)

    async def close(self) -> None:
        """Release what the actor holds before it is killed."""


class SleepingModel(ChatModel, Protocol):
    """A model that can give its memory back for a while."""

    async def sleep(self) -> None:
        """Give the memory back. Safe to call twice."""

    async def wake(self) -> None:
        """Take the memory again. Safe to call twice."""


class ModelActor(PooledActor):
    """Hosts a vLLM engine, or any other ChatModel, in the actor's process."""

    def __init__(self, make: Callable[[], ChatModel], hosted: HostedModel, *, asleep: bool = False) -> None:
        """Make the model; the actor is ready when this returns.

        ``asleep``: make it when it is first woken. It takes turns with others, and when Ray restarts the actor it may
        not be its turn.
        """
        super().__init__()
        self._make = make
        self.model = None if asleep else make()
        self.hosted = hosted
        self._waking = asyncio.Lock()

    async def ready(self) -> Incarnation:
        """Return once the model is loaded, or sleeps."""
        return Incarnation(self.incarnation, getattr(self.model, "facts", None))

    async def wake(self) -> Incarnation:
        """Have the model take its memory. Raises ConfigError and EngineDeadError."""
        async with self._waking:
            if self.model is None:
                self.model = await asyncio.to_thread(self._make)
            else:
                await cast("SleepingModel", self.model).wake()
        return await self.ready()

    async def sleep(self) -> Incarnation:
        """Have the model give its memory back."""
        async with self._waking:
            if self.model is not None:
                await cast("SleepingModel", self.model).sleep()
        return await self.ready()

    async def counters(self) -> EngineCounters | None:
        """What the engine has done so far; None for models that do not count."""
        return getattr(self.model, "counters", None)

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Tokens of the prompt of ``request``; None for models that do not count, or that have not been woken yet."""
        count = getattr(self.model, "count_tokens", None)
        return None if count is None else cast("int | None", await count(request))

    async def heartbeat(self) -> int | None:
        """The engine's steps; None if they are not counted."""
        counters = await self.counters()
        return None if counters is None else counters.steps

    async def describe(self) -> HostedModel:
        """What this actor's pool hosts, for those who join it by name."""
        return self.hosted

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one request."""
        if self.model is None:  # restarted since its turn began
            await self.wake()
        assert self.model is not None
        return await self.model.complete(request)

    async def close(self) -> None:
        """Close the model before the actor is killed."""
        if self.model is not None:
            await self.model.aclose()
