"""Engines that use the same memory in turn: while one works, the others sleep.

A training asks its models in phases: rollouts ask the agent's, then proposals ask the optimizer's. So one GPU can serve
two models that do not fit on it together, at the price of a switch between phases.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

log = logging.getLogger(__name__)
QUIET_S = 1.0
"""How long the engine that is awake must have had no request before another wakes. Rollouts pause between turns, while
their code runs; a switch in each such pause would cost seconds."""
POLL_S = 0.05


class Sleeper(Protocol):
    """What takes turns."""

    async def sleep(self) -> None:
        """Give the memory back. Safe to call twice."""

    async def wake(self) -> None:
        """Take the memory. Safe to call twice."""


class Turns:
    """Lets one of several pools of engines work at a time, for as long as it has requests.

    The others wait, so callers must not hold a turn while they wait for an answer of another pool.
    """

    def __init__(self) -> None:
        self._awake: Sleeper | None = None
        self._working = 0
        """Requests in flight at the one that is awake."""
        self._ended = -math.inf
        """When the last of them ended, by the monotonic clock; at first none has."""
        self._switching = asyncio.Lock()

    @asynccontextmanager
    async def turn_of(self, pool: Sleeper) -> AsyncIterator[None]:
        """Keep ``pool`` awake inside the block; before it, wait until the others have nothing to do.

        Raises what sleeping or waking raises; the next call tries again.
        """
        while self._awake is not pool:
            # to its end even if the caller is cancelled: two must never be awake, nor one half asleep
            await asyncio.shield(asyncio.create_task(self._switch(pool)))
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            self._ended = time.monotonic()

    def _quiet(self) -> bool:
        return not self._working and time.monotonic() - self._ended > QUIET_S

    async def _switch(self, pool: Sleeper) -> None:
        async with self._switching:
            if self._awake is pool:
                return
            while not self._quiet():  # noqa: ASYNC110 - the end of a pause is not an event
                await asyncio.sleep(POLL_S)
            before, self._awake = self._awake, None
            started = time.monotonic()
            if before is not None:
                await before.sleep()
            await pool.wake()
            log.info("switched to the other engine in %.1f s", time.monotonic() - started)
            self._awake = pool
