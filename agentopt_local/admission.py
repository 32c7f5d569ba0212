"""Which rollouts may be under way: as many as the engines' KV cache holds, and never more than the user's limit.

An engine that is given more conversations than its KV cache holds evicts their prefixes between turns, or breaks
replies off and computes them again. Both cost more than waiting outside.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

WEIGHT = 0.1
"""Of the latest conversation in the expected size of the next."""


class Admission:
    """``async with admission:`` around a rollout waits for its place, first come, first served."""

    def __init__(
        self, concurrency: int, *, capacity: Callable[[], int | None] = lambda: None, expected_tokens: int = 1
    ) -> None:
        """At most ``concurrency`` at once.

        ``capacity``: tokens that the KV caches of the engines hold together at this moment, so that the limit falls
        with an engine that dies and rises with one that comes back; None: no such limit. ``expected_tokens``: the
        size of a conversation at its end until :meth:`learn` has seen one.
        """
        self.in_flight = 0
        self._concurrency = concurrency
        self._capacity = capacity
        self._tokens = float(expected_tokens)
        self._learned = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Rollouts that may be under way now, at least one."""
        capacity = self._capacity()
        if capacity is None:
            return self._concurrency
        return max(1, min(self._concurrency, int(capacity / self._tokens)))

    def learn(self, tokens: int) -> None:
        """A conversation has ended with ``tokens`` tokens."""
        if tokens > 0:
            self._tokens += (tokens - self._tokens) * (WEIGHT if self._learned else 1.0)
            self._learned = True

    async def __aenter__(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in and cancelled at the same moment
                await self.__aexit__()
            raise

    async def __aexit__(self, *error: object) -> None:
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
