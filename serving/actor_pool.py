"""Interchangeable Ray actors that may die: routing, retrying, restarting.

A request is a pure value, so one that a dying actor held is sent again: at once to another actor, or to the same one
after Ray (``max_restarts``) has restarted it. Callers get a complete answer or an exception, never an answer that a
fault cut short.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import ray

from agentopt_local.errors import AgentOptError, ConfigError, EngineDeadError, ModelOverloadedError
from serving.replica import Replica, ReplicaLostError

log = logging.getLogger(__name__)
MAX_IN_FLIGHT = 65_536
"""Calls that an actor may hold at once. Admission is up to the caller; this must never be the limit."""
MAX_CONVERSATIONS = 65_536
"""Conversations whose replica is remembered; the least recently used is forgotten first."""
MAX_TRIES = 3
"""How often one request is sent when actors die while they hold it: it may be what kills them."""


class ActorPool:
    """Replicas of one actor. A conversation stays on its replica; a new one goes to the least busy.

    A pool may be closed twice, and several processes may each have one over the same actors.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        noun: str,
        start_timeout_s: float,
        stall_timeout_s: float | None = None,
        fatal_errors: tuple[type[AgentOptError], ...] = (),
        owned: bool = True,
    ) -> None:
        """``actors``: handles of a :class:`~serving.actor.PooledActor`. ``noun``: what messages call one of them.

        ``stall_timeout_s``: an actor that holds requests and neither answers nor makes progress for this long is
        considered hung; None: never. There is no limit per request, which would punish long queues and slow machines.
        ``fatal_errors``: errors of a method after which the actor, though alive, cannot answer any more.
        ``owned``: whether closing the pool ends the actors.
        """
        self.replicas = [Replica(actor, index, noun, fatal_errors) for index, actor in enumerate(actors)]
        self.noun = noun
        self.start_timeout_s = start_timeout_s
        self.stall_timeout_s = stall_timeout_s
        self.owned = owned
        self._placed: OrderedDict[str, int] = OrderedDict()
        """Conversation -> index of its replica."""
        self._restarting: set[asyncio.Task[None]] = set()
        self._watchdog: asyncio.Task[None] | None = None

    async def call(self, method: str, *arguments: Any, what: str, conversation: str | None = None) -> Any:
        """What ``method`` returns on the conversation's replica, or on another if that one is lost.

        ``what`` names the request at the start of a message. Raises EngineDeadError when no replica is left, naming
        each with its last error, and when ``MAX_TRIES`` were lost while they held the request.
        """
        failures: list[str] = []
        while len(failures) < MAX_TRIES:
            replica = await self._route(conversation)
            try:
                return await replica.call(method, *arguments)
            except ModelOverloadedError as error:
                failures.append(f"{replica.name}: {error}")
            except ReplicaLostError as error:
                failures.append(str(error))
                self._lose(replica, error)
        raise EngineDeadError(
            f"{what} was broken off {len(failures)} times, so it may itself be what ends the {self.noun}: "
            + "; ".join(failures)
        )

    async def start(self) -> None:
        """Wait until every actor is ready. Raises EngineDeadError or ConfigError if one does not start."""
        starting = [asyncio.create_task(replica.wait_ready(self.start_timeout_s)) for replica in self.replicas]
        try:
            await asyncio.gather(*starting)
        finally:
            await _cancel(starting)
        if self.stall_timeout_s is not None:
            self._watchdog = asyncio.create_task(self._watch(self.stall_timeout_s))

    async def _route(self, conversation: str | None) -> Replica:
        """The conversation's replica if it is up, otherwise the least busy; waits while all are being restarted."""
        while not (up := [replica for replica in self.replicas if replica.up]):
            if not self._restarting:
                ends = "; ".join(f"{each.name} {each.last_error}" for each in self.replicas)
                raise EngineDeadError(
                    f"no {self.noun} is left: {ends}" if ends else f"the pool of {self.noun}s is closed"
                )
            await asyncio.wait(self._restarting, return_when=asyncio.FIRST_COMPLETED)
        index = self._placed.get(conversation) if conversation is not None else None
        replica = self.replicas[index] if index is not None else None
        if replica is None or not replica.up:
            replica = min(up, key=lambda each: each.in_flight)
        if conversation is not None:
            self._placed[conversation] = replica.index
            self._placed.move_to_end(conversation)
            if len(self._placed) > MAX_CONVERSATIONS:
                self._placed.popitem(last=False)
        return replica

    def _lose(self, replica: Replica, error: ReplicaLostError) -> None:
        """Take a replica out of service and restart it in the background; later reports of the same loss do nothing.

        One that fails twice for the same reason is not restarted: it would only fail again.
        """
        if not replica.up or replica.incarnation != error.incarnation:
            return
        # If the process was killed from outside, that may not happen again.
        repeated = error.alive and same_reason(error.reason, replica.last_error)
        replica.up, replica.last_error = False, error.reason
        if repeated:
            replica.last_error += ", for the second time: it is not restarted"
            log.error("%s %s", replica.name, replica.last_error)
            ray.kill(replica.actor)
            return
        log.warning("%s %s; its requests are sent again", replica.name, error.reason)
        task = asyncio.create_task(self._restart(replica, error))
        self._restarting.add(task)
        task.add_done_callback(self._restarting.discard)

    async def _restart(self, replica: Replica, error: ReplicaLostError) -> None:
        """Let Ray restart the actor, as often as ``max_restarts`` allows, and wait until it is ready."""
        if error.alive:
            await replica.kill(error.incarnation)
        try:
            await replica.wait_ready(self.start_timeout_s)
        except (ConfigError, EngineDeadError) as failed:
            log.error("%s is not coming back: %s", replica.name, failed)
        else:
            log.warning("%s is back", replica.name)

    async def _watch(self, limit_s: float) -> None:
        """Find replicas that hang, and those that were lost while only other pools used them."""
        while True:
            await asyncio.sleep(min(5.0, limit_s / 4))
            for replica in self.replicas:
                if replica.up and replica.in_flight == 0:
                    try:
                        await replica.ping()
                    except ReplicaLostError as error:
                        self._lose(replica, error)
                elif replica.up and replica.stalled_s() > limit_s / 2:
                    await replica.poll_heartbeat()
                    if replica.stalled_s() > limit_s:
                        reason = f"hung: it holds {replica.in_flight} requests and did nothing for {limit_s:g} s"
                        self._lose(replica, ReplicaLostError.of(replica, reason, alive=True))

    async def aclose(self) -> None:
        """End the actors if this pool owns them. Safe to call twice."""
        await _cancel([*self._restarting, *([self._watchdog] if self._watchdog else [])])
        replicas, self.replicas = self.replicas, []
        if self.owned:
            await asyncio.gather(*(replica.close() for replica in replicas))


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel the tasks that still run, and wait until all have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def same_reason(reason: str, other: str) -> bool:
    """Whether two reasons are the same except for numbers, such as process ids and times."""
    return re.sub(r"\d+", "", reason) == re.sub(r"\d+", "", other)
