"""How many rollouts may be in flight."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from agentopt_local.admission import Admission


class Rooms:
    """Rollouts that stay until they are told to go."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.inside: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def enter(self, *names: int) -> list[int]:
        """Ask for places; those who are in then."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._stay(name))
        return await self.settled()

    async def settled(self) -> list[int]:
        for _ in range(5):
            await asyncio.sleep(0)
        return list(self.inside)

    async def leave(self, *names: int, tokens: int = 0, evicted: float = 0.0) -> list[int]:
        for name in names:
            self.admission.learn(tokens, evicted)
            self.inside.pop(name).set()
        return await self.settled()

    async def _stay(self, name: int) -> None:
        async with self.admission:
            go = self.inside[name] = asyncio.Event()
            await go.wait()

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def rooms(admission: Admission, script: Callable[[Rooms], object]) -> None:
    async def run() -> None:
        here = Rooms(admission)
        try:
            await script(here)  # type: ignore[misc]
        finally:
            await here.end()
        assert admission.in_flight == 0

    asyncio.run(run())


def test_places_go_by_order_of_asking() -> None:
    async def script(here: Rooms) -> None:
        assert await here.enter(1, 2, 3, 4) == [1, 2]
        assert await here.leave(2) == [1, 3]
        assert await here.leave(1, 3) == [4]

    rooms(Admission(2), script)


def test_the_kv_cache_bounds_what_is_under_way() -> None:
    async def script(here: Rooms) -> None:
        assert await here.enter(*range(10)) == [0, 1], "each is expected to take 500 of 1,000 tokens"
        assert await here.leave(0, tokens=250) == [1, 2, 3, 4], "it took 250"

    rooms(Admission(8, capacity=lambda: 1000, expected_tokens=500), script)


def test_longer_conversations_let_fewer_in() -> None:
    async def script(here: Rooms) -> None:
        assert len(await here.enter(*range(12))) == 10
        for name in range(4):
            await here.leave(name, tokens=400)
        assert here.admission.limit in (2, 3)
        assert len(here.inside) == 6, "who is in stays; nobody follows"

    rooms(Admission(64, capacity=lambda: 1000, expected_tokens=100), script)


def test_the_limit_follows_the_engines() -> None:
    held = [1000]

    async def script(here: Rooms) -> None:
        assert len(await here.enter(*range(12))) == 10
        held[0] = 500  # an engine died
        assert len(await here.leave(0)) == 9
        held[0] = 1000  # and is back
        assert len(await here.leave(1)) == 10

    rooms(Admission(64, capacity=lambda: held[0], expected_tokens=100), script)


@pytest.mark.parametrize(("concurrency", "capacity", "limit"), [(7, None, 7), (7, 10, 1), (7, 0, 1), (3, 10_000, 3)])
def test_never_less_than_one_nor_more_than_the_users_limit(concurrency: int, capacity: int | None, limit: int) -> None:
    assert Admission(concurrency, capacity=lambda: capacity, expected_tokens=100).limit == limit


def test_a_place_is_not_lost_with_who_is_cancelled() -> None:
    async def script(here: Rooms) -> None:
        assert await here.enter(1, 2, 3) == [1]
        here.tasks[2].cancel()
        await here.settled()
        here.inside.pop(1).set()
        await asyncio.sleep(0)  # 1 leaves, and 3 is let in
        here.tasks[3].cancel()  # before it could notice
        with contextlib.suppress(asyncio.CancelledError):
            await here.tasks[3]
        assert here.admission.in_flight == 0
        assert await here.enter(4) == [4]

    rooms(Admission(1), script)


def waves(admission: Admission, n: int, evicted: Callable[[int], float]) -> list[int]:
    """The limit after each of ``n`` waves of conversations of 100 tokens; ``evicted`` of how many are under way."""
    limits = []

    async def script(here: Rooms) -> None:
        await here.enter(*range(5000))
        for _ in range(n):
            inside = list(here.inside)
            for name in inside:
                await here.leave(name, tokens=100, evicted=evicted(len(inside)))
            limits.append(admission.limit)

    rooms(admission, script)
    return limits


def test_the_limit_grows_while_nothing_is_evicted_up_to_the_users() -> None:
    limits = waves(Admission(32, capacity=lambda: 1000, expected_tokens=100), 20, lambda n: 0.0)
    assert limits[0] in (10, 11)
    assert limits == sorted(limits)
    assert limits[-1] == 32


def test_evictions_lower_the_limit_once_per_wave_and_it_settles() -> None:
    # Others use the same engines: only 5 conversations have room.
    limits = waves(Admission(64, capacity=lambda: 1000, expected_tokens=100), 30, lambda n: 0.5 if n > 5 else 0.0)
    assert limits[:2] == [8, 6]
    assert all(4 <= each <= 6 for each in limits[2:]), limits
    assert waves(Admission(4, capacity=lambda: 1000, expected_tokens=100), 1, lambda n: 0.5) == [3], "of what was in"
    few = waves(Admission(4, capacity=lambda: 1000, expected_tokens=100), 12, lambda n: 1.0)
    assert few[-1] == 1
    assert waves(Admission(8, capacity=lambda: 1000, expected_tokens=100), 3, lambda n: 0.1) == [8, 8, 8]


def test_without_engines_of_ones_own_nothing_but_the_users_limit_counts() -> None:
    assert waves(Admission(6), 3, lambda n: 0.5) == [6, 6, 6]
