"""When the next request to a server may start."""

from __future__ import annotations

import asyncio
import random


class Pacer:
    """Keeps all requests of a client within a server's limits. Belongs to one event loop."""

    def __init__(self, requests_per_minute: float | None) -> None:
        """``requests_per_minute``: None: no limit. Requests start evenly spaced, never in bursts."""
        self.interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._closed_until = 0.0

    def close_for(self, seconds: float) -> None:
        """Start no request for ``seconds``: the server asked one of them to come back later."""
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)

    async def wait(self) -> None:
        """Return when the caller's request may start."""
        clock = asyncio.get_running_loop().time
        start = max(clock(), self._next)
        if self.interval_s:
            self._next = start + self.interval_s
        while (left := max(start, self._closed_until) - clock()) > 0:
            # Requests that waited for the server together must not return to it at the same moment.
            late = random.uniform(0.0, 0.1) if self._closed_until > start else 0.0
            await asyncio.sleep(left * (1 + late))
