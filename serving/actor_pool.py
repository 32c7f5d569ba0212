"""Ray actors that do the same work and may die: routing, asking again, restarting.

What they are asked is a pure value, so what a dying actor held is simply asked again: of another one at once, or of
the same one when Ray has restarted it. Who awaits an answer therefore gets a whole one or an exception, never one that
a fault cut short.
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
"""Calls that an actor may hold at once. Admission is the caller's business; this must never be the limit."""
MAX_SESSIONS = 65_536
"""Sessions whose replica is remembered; the longest unused is forgotten first."""
MAX_TRIES = 3
"""How often one request is asked when actors die under it."""


class ActorPool:
    """Replicas of one actor. A session stays on its replica; a new one goes to the least busy.

    A pool may be closed twice, and several processes may have one over the same actors.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        noun: str,
        start_timeout_s: float,
        stall_timeout_s: float | None = None,
        ends_with: tuple[type[AgentOptError], ...] = (),
        own: bool = True,
    ) -> None:
        """``actors``: handles of a :class:`~serving.actor.PooledActor`. ``noun``: what one is called in messages.

        ``stall_timeout_s``: an actor that holds requests and neither answers nor steps for this long hangs; None: no
        limit.
        ``ends_with``: errors of a method that say that the actor, though alive, cannot answer any more.
        ``own``: whether closing the pool ends the actors.
        """
        self.replicas = [Replica(actor, index, noun, ends_with) for index, actor in enumerate(actors)]
        self.noun = noun
        self.start_timeout_s = start_timeout_s
        self.stall_timeout_s = stall_timeout_s
        self.own = own
        self._sessions: OrderedDict[str, int] = OrderedDict()
        self._returning: set[asyncio.Task[None]] = set()
        self._watchdog: asyncio.Task[None] | None = None

    async def ask(self, method: str, *arguments: Any, what: str, session: str | None = None) -> Any:
        """What ``method`` of the session's replica returns, or of another if that one is lost.

        Raises EngineDeadError, naming the replicas and what became of them, when none is left. ``what``: the request,
        to begin a message with.
        """
        met: list[str] = []
        while len(met) < MAX_TRIES:
            replica = await self._route(session)
            try:
                return await replica.call(method, *arguments)
            except ModelOverloadedError as error:
                met.append(f"{replica.name}: {error}")
            except ReplicaLostError as error:
                met.append(str(error))
                self._lose(replica, error)
        raise EngineDeadError(
            f"{what} was broken off {len(met)} times, so it may itself be what ends the {self.noun}: {'; '.join(met)}"
        )

    async def start(self) -> None:
        """Wait until every actor is ready. Raises EngineDeadError or ConfigError where one does not come up."""
        try:
            async with asyncio.TaskGroup() as group:
                for replica in self.replicas:
                    group.create_task(replica.arrive(self.start_timeout_s))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if self.stall_timeout_s is not None:
            self._watchdog = asyncio.create_task(self._watch(self.stall_timeout_s))

    async def _route(self, session: str | None) -> Replica:
        """The session's replica if it is up, else the least busy; waits where all are being restarted."""
        while not (up := [replica for replica in self.replicas if replica.up]):
            if not self._returning:
                fates = "; ".join(f"{each.name} {each.fate}" for each in self.replicas)
                raise EngineDeadError(
                    f"no {self.noun} is left: {fates}" if fates else f"the pool of {self.noun}s is closed"
                )
            await asyncio.wait(self._returning, return_when=asyncio.FIRST_COMPLETED)
        index = self._sessions.get(session) if session is not None else None
        replica = self.replicas[index] if index is not None else None
        if replica is None or not replica.up:
            replica = min(up, key=lambda each: each.in_flight)
        if session is not None:
            self._sessions[session] = replica.index
            self._sessions.move_to_end(session)
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return replica

    def _lose(self, replica: Replica, error: ReplicaLostError) -> None:
        """Take a replica out and bring it back in the background; later reports of the same loss change nothing.

        One that fails for the reason for which it failed the last time stays out.
        """
        if not replica.up or replica.life != error.life:
            return
        again = error.alive and same(error.fate, replica.fate)
        replica.up, replica.fate = False, error.fate
        if again:  # it would only happen once more; a process that something else killed is another matter
            replica.fate += ", for the second time: it is not restarted"
            log.error("%s %s", replica.name, replica.fate)
            ray.kill(replica.actor)
            return
        log.warning("%s %s; its requests are asked again", replica.name, error.fate)
        task = asyncio.create_task(self._bring_back(replica, error))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _bring_back(self, replica: Replica, error: ReplicaLostError) -> None:
        """Let Ray restart the actor, as often as ``max_restarts`` allows, and wait until it is ready."""
        if error.alive:
            await replica.put_down(error.life)
        try:
            await replica.arrive(self.start_timeout_s)
        except (ConfigError, EngineDeadError) as failed:
            log.error("%s is not coming back: %s", replica.name, failed)
        else:
            log.warning("%s is back", replica.name)

    async def _watch(self, limit_s: float) -> None:
        """Find replicas that hold requests and answer none of them, and those that were lost while others used them."""
        while True:
            await asyncio.sleep(min(5.0, limit_s / 4))
            for replica in self.replicas:
                if replica.up and replica.in_flight == 0:
                    try:
                        await replica.look()
                    except ReplicaLostError as error:
                        self._lose(replica, error)
                elif replica.up and replica.silent_s() > limit_s / 2:
                    await replica.listen()
                    if replica.silent_s() > limit_s:
                        fate = f"hung: it holds {replica.in_flight} requests and did nothing for {limit_s:g} s"
                        self._lose(replica, ReplicaLostError.of(replica, fate, alive=True))

    async def aclose(self) -> None:
        """End the actors, if they are this pool's own. Safe to call twice."""
        tasks = [*self._returning, *([self._watchdog] if self._watchdog else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        replicas, self.replicas = self.replicas, []
        if self.own:
            await asyncio.gather(*(replica.end() for replica in replicas))


def same(fate: str, other: str) -> bool:
    """Whether two replicas' fates are the same but for numbers, such as process ids and times."""
    return re.sub(r"\d+", "", fate) == re.sub(r"\d+", "", other)
