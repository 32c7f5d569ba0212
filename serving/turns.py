"""Engines that use the same memory in turn: while one works, the others sleep.

A training asks its models in phases: rollouts ask the agent's, then proposals ask the optimizer's. So one GPU can serve
two models that do not fit on it together, at the price of a switch between phases.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
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
        self._requests: Counter[Sleeper] = Counter()
        """Requests of each pool, those that still wait for its turn included."""
        self._ended = -math.inf
        """When the pool that is awake last had none, by the monotonic clock."""
        self._change: asyncio.Task[None] | None = None
        """The only one under way. A task of its own, because it must not end half way when its caller is cancelled."""
        self._to: Sleeper | None = None
        """Who wakes by it."""

    @asynccontextmanager
    async def turn_of(self, pool: Sleeper) -> AsyncIterator[None]:
        """Keep ``pool`` awake inside the block; before it, wait until the others have nothing to do.

        Raises what sleeping or waking raises; the next call tries again.
        """
        self._requests[pool] += 1
        try:
            while self._awake is not pool:
                if self._change is None or self._change.done():
                    self._change, self._to = asyncio.create_task(self._switch(pool)), pool
                change, to = self._change, self._to
                await asyncio.wait([change])
                if to is pool or change.cancelled():
                    change.result()  # raises what went wrong
            yield
        finally:
            self._requests[pool] -= 1
            if self._awake is pool:
                self._ended = time.monotonic()

    def _quiet(self) -> bool:
        busy = self._awake is not None and self._requests[self._awake]
        return not busy and time.monotonic() - self._ended > QUIET_S

    async def _switch(self, pool: Sleeper) -> None:
        while not self._quiet():  # noqa: ASYNC110 - the end of a pause is not an event
            await asyncio.sleep(POLL_S)
        started = time.monotonic()
        before, self._awake = self._awake, None  # requests wait from here on
        async with contextlib.AsyncExitStack() as undo:
            if before is not None:
                undo.callback(setattr, self, "_awake", before)
                await before.sleep()
                undo.pop_all()
            undo.push_async_callback(pool.sleep)  # some of its engines may be awake
            await pool.wake()
            undo.pop_all()
        log.info("another engine works after %.1f s", time.monotonic() - started)
        self._awake, self._ended = pool, time.monotonic()
