"""One actor of a pool as the pool sees it: calls, signs of life, arrival and end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from agentopt_local import errors
from agentopt_local.errors import AgentOptError, ConfigError, EngineDeadError, ModelError
from serving.actor import Life
from serving.facts import EngineFacts

log = logging.getLogger(__name__)
POLL_S = 0.2
"""Between two looks at an actor that Ray is restarting."""
CLOSE_TIMEOUT_S = 20.0
LOOK_TIMEOUT_S = 5.0


class ReplicaLostError(Exception):
    """A replica cannot answer: its process ended, its engine core did, or it hangs."""

    life: str = ""
    """Which life of the actor it was; an error that arrives late must not end the next one."""
    fate: str = ""
    """What happened, to follow "engine replica N"."""
    alive: bool = False
    """Whether the actor's process may still be there and has to be ended."""

    @classmethod
    def of(cls, replica: Replica, fate: str, *, alive: bool, life: str | None = None) -> ReplicaLostError:
        """The loss of ``replica``, in its present life if none is given."""
        error = cls(f"{replica.name} {fate}")
        error.life, error.fate, error.alive = replica.life if life is None else life, fate, alive
        return error


class Replica:
    """An actor of a pool, with what the pool keeps account of."""

    def __init__(self, actor: Any, index: int, noun: str, ends_with: tuple[type[AgentOptError], ...]) -> None:
        """See :class:`~serving.actor_pool.ActorPool`."""
        self.actor = actor
        self.index = index
        self.name = f"{noun} {index}"
        self.ends_with = ends_with
        self.up = False
        self.life = ""
        self.fate = "has not started"
        """What became of it last, to follow its name."""
        self.in_flight = 0
        self.facts: EngineFacts | None = None
        """Of its present life; None for what is no engine."""
        self._heard = 0.0
        self._beat: int | None = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """What the actor's ``method`` returns. Raises ReplicaLostError, or what the method itself raised."""
        life = self.life
        if self.in_flight == 0:
            self._heard = time.monotonic()
        self.in_flight += 1
        reference = getattr(self.actor, method).remote(*arguments)
        try:
            result = await reference
        except asyncio.CancelledError:
            ray.cancel(reference)  # an engine stops sampling: its place in the batch is free at once
            raise
        except RayTaskError as error:
            self._heard = time.monotonic()
            cause = error.cause
            if isinstance(cause, self.ends_with):
                raise ReplicaLostError.of(self, f"is of no more use: {cause}", alive=True, life=life) from None
            if isinstance(cause, AgentOptError):
                raise cause from None
            raise ModelError(f"{self.name} failed on a request: {cause!r}") from error
        except RayError as error:  # the actor's process ended, or Ray ended it to save memory, or its node is gone
            fate = f"has died: {first_line(error)}"
            raise ReplicaLostError.of(self, fate, alive=False, life=life) from None
        finally:
            self.in_flight -= 1
        self._heard = time.monotonic()
        return result

    def silent_s(self) -> float:
        """For how long requests have been waiting while none was answered; 0 if none waits."""
        return time.monotonic() - self._heard if self.in_flight else 0.0

    async def arrive(self, timeout_s: float) -> None:
        """Wait until the actor is ready in a new life. Raises EngineDeadError if it does not come up.

        ConfigError where the actor found that a setting does not fit its node.
        """
        try:
            async with asyncio.timeout(timeout_s):
                life = await self._life()
                while life is None or life.id == self.life:
                    await asyncio.sleep(POLL_S)
                    life = await self._life()
        except TimeoutError:
            self.fate = f"is not ready after {timeout_s:g} s"
            raise EngineDeadError(f"{self.name} {self.fate}") from None
        except RayError as error:
            kind, told = raised(error)
            if kind == ConfigError.__name__:
                raise ConfigError(f"{self.name}: {told}") from None
            # Before the first arrival there is no other fate to tell than that.
            if self.life:
                self.fate += f" and cannot be restarted ({told})"
            else:
                self.fate = f"died while it started: {told}"
            raise EngineDeadError(f"{self.name} {self.fate}") from None
        self.life, self.facts = life.id, life.facts
        self.up = True
        self._heard = time.monotonic()

    async def _life(self) -> Life | None:
        """Which life of the actor answers; None while Ray restarts it."""
        try:
            return Life(*await self.actor.ready.remote())
        except ActorUnavailableError:
            return None

    async def listen(self) -> None:
        """Take note if its work has gone on since the last time: a slow engine answers late, and steps meanwhile."""
        try:
            beat = await asyncio.wait_for(self.actor.beat.remote(), timeout=LOOK_TIMEOUT_S)
        except (TimeoutError, RayError) as error:  # who waits for an answer will find out
            log.debug("listening to %s: %r", self.name, error)
            return
        if beat is not None and beat != self._beat:
            self._beat, self._heard = beat, time.monotonic()

    async def look(self) -> None:
        """Raises ReplicaLostError if its life has ended, as a pool does not notice that asks it nothing."""
        life = self.life
        try:
            now = await asyncio.wait_for(self.actor.ready.remote(), timeout=LOOK_TIMEOUT_S)
        except TimeoutError:
            return  # busy, perhaps: who waits for an answer will find out
        except RayError as error:
            raise ReplicaLostError.of(self, f"has died: {first_line(error)}", alive=False, life=life) from None
        if Life(*now).id != life:
            raise ReplicaLostError.of(self, "was restarted", alive=False, life=life)

    async def put_down(self, life: str) -> None:
        """End the process of ``life``, for Ray to start the next. Several pools that share the actor may ask for it."""
        try:
            await asyncio.wait_for(self.actor.end.remote(life), timeout=LOOK_TIMEOUT_S)
        except TimeoutError:  # it does not even listen
            ray.kill(self.actor, no_restart=False)
        except RayError as error:  # it has ended
            log.debug("ending %s: %r", self.name, error)

    async def end(self) -> None:
        """Close what the actor holds and end it for good."""
        self.up = False
        try:
            if self.life:
                await asyncio.wait_for(self.actor.close.remote(), timeout=CLOSE_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            log.debug("closing %s: %r", self.name, error)
        ray.kill(self.actor)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def raised(error: RayError) -> tuple[str, str]:
    """The class and the text of what an actor raised while it was made, or of Ray's own account of its end.

    Ray hands such an error over as a traceback alone.
    """
    if isinstance(error, RayTaskError) and isinstance(cause := error.cause, Exception):
        name = type(cause).__name__
        return name, str(cause) if isinstance(cause, AgentOptError) else f"{name}: {cause}"
    lines = str(error).strip().splitlines()
    if lines and "creation task" in lines[0]:
        last = max(index for index, line in enumerate(lines) if not line[:1].isspace())  # frames are indented
        told = " ".join(line.strip() for line in lines[last:])
        name, _, text = told.partition(": ")
        name = name.rpartition(".")[2]
        return name, text if hasattr(errors, name) else told
    return type(error).__name__, first_line(error)
