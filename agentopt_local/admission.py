"""Which rollouts may be under way: as many as fit the engines' KV cache, and never more than the user's limit.

An engine with more conversations than fit its KV cache evicts their prefixes between turns, or aborts replies and
computes them again. Both cost more than waiting outside. How many fit is first estimated from their size, then found
by trying. The number grows while rollouts wait and nothing is evicted, because conversations share their first tokens
and most are not at their end. It falls when something is evicted, because others may use the same engines.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

WEIGHT = 0.1
"""Weight of the latest conversation in the expected size of the next."""
GROWTH = 0.1
"""Growth of the limit, as a share, while as many conversations end as it admits."""
CUT = 0.8
"""The share of the limit that is left after an eviction."""
EVICTED = 0.1
"""A conversation counts as evicted if more than this share of its prompt tokens was computed again."""


class Admission:
    """``async with admission:`` around a rollout waits for its place, first come, first served."""

    def __init__(
        self, concurrency: int, *, capacity: Callable[[], int | None] = lambda: None, expected_tokens: int = 1
    ) -> None:
        """At most ``concurrency`` at once.

        ``capacity``: tokens that fit the KV caches of all engines at this moment, so that the limit falls when an
        engine dies and rises when it comes back; None: no such limit. ``expected_tokens``: the size of a conversation
        at its end, until :meth:`learn` has seen one.
        """
        self.in_flight = 0
        self._concurrency = concurrency
        self._capacity = capacity
        self._tokens = float(expected_tokens)
        self._learned = False
        self._share = 1.0
        """The limit over the conversations that fit by size: above 1 if they share much, below 1 if others run too."""
        self._earlier = 0
        """Unfinished conversations that were admitted before the last cut: their evictions say nothing new."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Rollouts that may be under way now, at least one."""
        room = self._room
        return self._concurrency if room is None else max(1, int(min(self._concurrency, room * self._share)))

    @property
    def _room(self) -> float | None:
        """Conversations whose final size fits the KV caches; None: no such limit."""
        capacity = self._capacity()
        return None if capacity is None else max(capacity, 1) / self._tokens

    def learn(self, tokens: int, evicted: float = 0.0) -> None:
        """A conversation has ended with ``tokens`` tokens.

        ``evicted``: the share of its prompt tokens that the engine had lost between turns and computed again.
        """
        if tokens > 0:
            self._tokens += (tokens - self._tokens) * (WEIGHT if self._learned else 1.0)
            self._learned = True
        limit, room = self.limit, self._room
        if room is None:
            return
        if self._earlier > 0:
            self._earlier -= 1
        elif evicted > EVICTED:
            self._share = CUT * limit / room
            self._earlier = self.in_flight - 1
        elif self._waiting and limit < self._concurrency:
            self._share *= 1 + GROWTH / limit

    async def __aenter__(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and cancelled at the same moment
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
