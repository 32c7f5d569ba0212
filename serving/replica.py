"""One engine actor as its pool sees it: calls, signs of life, arrival and end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from agentopt_local.chat import ChatReply, ChatRequest
from agentopt_local.errors import AgentOptError, EngineDeadError, ModelError

log = logging.getLogger(__name__)
POLL_S = 0.2
"""Between two looks at an actor that Ray is restarting."""
CLOSE_TIMEOUT_S = 20.0


class ReplicaLostError(Exception):
    """A replica cannot answer: its process ended, its engine core did, or it hangs."""

    life: str = ""
    """Which life of the actor it was; an error that arrives late must not end the next one."""
    fate: str = ""
    """What happened, to follow "engine replica N"."""
    alive: bool = False
    """Whether the actor's process may still be there and has to be killed."""

    @classmethod
    def of(cls, replica: Replica, fate: str, *, alive: bool, life: str | None = None) -> ReplicaLostError:
        """The loss of ``replica``, in its present life if none is given."""
        error = cls(f"engine replica {replica.index} {fate}")
        error.life, error.fate, error.alive = replica.life if life is None else life, fate, alive
        return error


class Replica:
    """An actor that hosts a model, with what its pool keeps account of."""

    def __init__(self, actor: Any, index: int) -> None:
        """``actor``: a handle of :class:`~serving.actor.ModelActor`."""
        self.actor = actor
        self.index = index
        self.up = False
        self.life = ""
        self.fate = "has not started"
        """What became of it last, to follow "engine replica N"."""
        self.in_flight = 0
        self.kv_cache_tokens: int | None = None
        """Of its present life; None for models that have no KV cache of their own."""
        self._heard = 0.0

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request``. Raises ReplicaLostError, or what the model itself raised."""
        life = self.life
        if self.in_flight == 0:
            self._heard = time.monotonic()
        self.in_flight += 1
        reference = self.actor.complete.remote(request)
        try:
            reply = await reference
        except asyncio.CancelledError:
            ray.cancel(reference)  # the engine stops sampling: its place in the batch is free at once
            raise
        except RayTaskError as error:
            self._heard = time.monotonic()
            cause = error.cause
            if isinstance(cause, EngineDeadError):  # the actor lives, its engine core does not
                raise ReplicaLostError.of(self, f"lost its engine core: {cause}", alive=True, life=life) from None
            if isinstance(cause, AgentOptError):
                raise cause from None
            raise ModelError(f"engine replica {self.index} failed on a request: {cause!r}") from error
        except RayError as error:  # the actor's process ended, or Ray ended it to save memory, or its node is gone
            fate = f"has died: {first_line(error)}"
            raise ReplicaLostError.of(self, fate, alive=False, life=life) from None
        finally:
            self.in_flight -= 1
        self._heard = time.monotonic()
        assert isinstance(reply, ChatReply)
        return reply

    def silent_s(self) -> float:
        """For how long requests have been waiting while none was answered; 0 if none waits."""
        return time.monotonic() - self._heard if self.in_flight else 0.0

    async def arrive(self, timeout_s: float) -> None:
        """Wait until the actor is ready in a new life. Raises EngineDeadError if it does not come up."""
        try:
            async with asyncio.timeout(timeout_s):
                life = await self._life()
                while life is None or life == self.life:
                    await asyncio.sleep(POLL_S)
                    life = await self._life()
                self.kv_cache_tokens = await self.actor.kv_cache_tokens.remote()
        except TimeoutError:
            self.fate = f"is not ready after {timeout_s:g} s"
            raise EngineDeadError(f"engine replica {self.index} {self.fate}") from None
        except RayError as error:
            cause = first_line(error)
            # Before the first arrival there is no other fate to tell than Ray's own account.
            self.fate = f"{self.fate} and cannot be restarted" if self.life else f"died while it started: {error}"
            raise EngineDeadError(f"engine replica {self.index} {self.fate} ({cause})") from None
        self.life = life
        self.up = True
        self._heard = time.monotonic()

    async def _life(self) -> str | None:
        """Which life of the actor answers; None while Ray restarts it."""
        try:
            return str(await self.actor.ready.remote())
        except ActorUnavailableError:
            return None

    async def end(self) -> None:
        """End the model and the actor."""
        self.up = False
        try:
            if self.life:
                await asyncio.wait_for(self.actor.close.remote(), timeout=CLOSE_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            log.debug("closing engine replica %d: %r", self.index, error)
        ray.kill(self.actor)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
