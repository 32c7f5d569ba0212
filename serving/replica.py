"""One actor of a pool as the pool sees it: calls, heartbeats, start and end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from agentopt_local import errors
from agentopt_local.errors import AgentOptError, ConfigError, EngineDeadError, ModelError
from serving.actor import Incarnation
from serving.facts import EngineFacts

log = logging.getLogger(__name__)
POLL_S = 0.2
"""Between two attempts to reach an actor that Ray is restarting."""
CLOSE_TIMEOUT_S = 20.0
PING_TIMEOUT_S = 5.0


class ReplicaLostError(Exception):
    """A replica cannot answer: its process has ended, its engine core has, or it hangs."""

    incarnation: str = ""
    """The incarnation that was lost; an error that arrives late must not end its successor."""
    reason: str = ""
    """What happened, phrased to follow "engine replica N"."""
    alive: bool = False
    """Whether the actor's process may still be running and has to be ended."""

    @classmethod
    def of(cls, replica: Replica, reason: str, *, alive: bool, incarnation: str | None = None) -> ReplicaLostError:
        """The loss of ``replica``, in its current incarnation unless another is given."""
        error = cls(f"{replica.name} {reason}")
        error.incarnation = replica.incarnation if incarnation is None else incarnation
        error.reason, error.alive = reason, alive
        return error


class Replica:
    """An actor of a pool, with the pool's bookkeeping about it."""

    def __init__(self, actor: Any, index: int, noun: str, fatal_errors: tuple[type[AgentOptError], ...]) -> None:
        """See :class:`~serving.actor_pool.ActorPool`."""
        self.actor = actor
        self.index = index
        self.name = f"{noun} {index}"
        self.fatal_errors = fatal_errors
        self.up = False
        self.incarnation = ""
        self.last_error = "has not started"
        """What last went wrong with it, phrased to follow its name."""
        self.in_flight = 0
        self.settling = False
        """Whether it loads, sleeps or wakes, and makes no steps."""
        self.facts: EngineFacts | None = None
        """Of its current incarnation; None if there is no engine in it."""
        self._last_activity = 0.0
        self._heartbeat: int | None = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """What the actor's ``method`` returns. Raises ReplicaLostError, or what the method itself raised."""
        incarnation = self.incarnation
        if self.in_flight == 0:
            self._last_activity = time.monotonic()
        self.in_flight += 1
        reference = getattr(self.actor, method).remote(*arguments)
        try:
            result = await reference
        except asyncio.CancelledError:
            ray.cancel(reference)  # an engine stops sampling: its place in the batch is free at once
            raise
        except RayTaskError as error:
            self._last_activity = time.monotonic()
            cause = error.cause
            if isinstance(cause, self.fatal_errors):
                reason = f"can no longer be used: {cause}"
                raise ReplicaLostError.of(self, reason, alive=True, incarnation=incarnation) from None
            if isinstance(cause, AgentOptError):
                raise cause from None
            raise ModelError(f"{self.name} failed on a request: {cause!r}") from error
        except RayError as error:  # the actor's process ended, Ray ended it to save memory, or its node is gone
            reason = f"has died: {first_line(error)}"
            raise ReplicaLostError.of(self, reason, alive=False, incarnation=incarnation) from None
        finally:
            self.in_flight -= 1
        self._last_activity = time.monotonic()
        return result

    def stalled_s(self) -> float:
        """How long requests have been waiting without any sign of progress; 0 if none are waiting."""
        return time.monotonic() - self._last_activity if self.in_flight and not self.settling else 0.0

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until a new incarnation of the actor is ready.

        Raises EngineDeadError if it does not start, and ConfigError if it found that a setting does not fit its node.
        """
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._current()
                while found is None or found.id == self.incarnation:
                    await asyncio.sleep(POLL_S)
                    found = await self._current()
        except TimeoutError:
            self.last_error = f"is not ready after {timeout_s:g} s"
            raise EngineDeadError(f"{self.name} {self.last_error}") from None
        except RayError as error:
            kind, text = actor_error(error)
            if kind == ConfigError.__name__:
                raise ConfigError(f"{self.name}: {text}") from None
            if self.incarnation:
                self.last_error += f" and cannot be restarted ({text})"
            else:  # nothing else has gone wrong with it before
                self.last_error = f"died while it started: {text}"
            raise EngineDeadError(f"{self.name} {self.last_error}") from None
        self.incarnation, self.facts = found.id, found.facts or self.facts  # one that sleeps has none yet
        self.up = True
        self._last_activity = time.monotonic()

    async def _current(self) -> Incarnation | None:
        """The incarnation that answers; None while Ray restarts the actor."""
        try:
            return Incarnation(*await self.actor.ready.remote())
        except ActorUnavailableError:
            return None

    async def poll_heartbeat(self) -> None:
        """Record whether the actor has made progress: a slow engine answers late but keeps making steps."""
        try:
            heartbeat = await asyncio.wait_for(self.actor.heartbeat.remote(), timeout=PING_TIMEOUT_S)
        except (TimeoutError, RayError) as error:  # the pending calls will find out
            log.debug("heartbeat of %s: %r", self.name, error)
            return
        if heartbeat is not None and heartbeat != self._heartbeat:
            self._heartbeat, self._last_activity = heartbeat, time.monotonic()

    async def ping(self) -> None:
        """Raise ReplicaLostError if the incarnation has ended, which a pool without calls in flight does not notice."""
        incarnation = self.incarnation
        try:
            now = await asyncio.wait_for(self.actor.ready.remote(), timeout=PING_TIMEOUT_S)
        except TimeoutError:
            return  # it may be busy; calls will find out
        except RayError as error:
            reason = f"has died: {first_line(error)}"
            raise ReplicaLostError.of(self, reason, alive=False, incarnation=incarnation) from None
        if Incarnation(*now).id != incarnation:
            raise ReplicaLostError.of(self, "was restarted", alive=False, incarnation=incarnation)

    async def kill(self, incarnation: str) -> None:
        """End the process of ``incarnation``; see :meth:`~serving.actor.PooledActor.exit`."""
        try:
            await asyncio.wait_for(self.actor.exit.remote(incarnation), timeout=PING_TIMEOUT_S)
        except TimeoutError:  # it does not respond at all
            ray.kill(self.actor, no_restart=False)
        except RayError as error:  # it has ended
            log.debug("killing %s: %r", self.name, error)

    async def close(self) -> None:
        """Release what the actor holds and end it for good."""
        self.up = False
        try:
            if self.incarnation:
                await asyncio.wait_for(self.actor.close.remote(), timeout=CLOSE_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            log.debug("closing %s: %r", self.name, error)
        ray.kill(self.actor)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def actor_error(error: RayError) -> tuple[str, str]:
    """The class name and text of what an actor raised while it was created, or of Ray's own account of its end.

    Ray passes on such an error only as the text of a traceback.
    """
    if isinstance(error, RayTaskError) and isinstance(cause := error.cause, Exception):
        name = type(cause).__name__
        return name, str(cause) if isinstance(cause, AgentOptError) else f"{name}: {cause}"
    lines = str(error).strip().splitlines()
    if lines and "creation task" in lines[0]:
        last = max(index for index, line in enumerate(lines) if not line[:1].isspace())  # frames are indented
        raised = " ".join(line.strip() for line in lines[last:])
        name, _, text = raised.partition(": ")
        name = name.rpartition(".")[2]
        return name, text if hasattr(errors, name) else raised
    return type(error).__name__, first_line(error)
