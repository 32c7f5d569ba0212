"""Running coroutines together: results in order, and only the first error."""

from __future__ import annotations

import asyncio

import pytest

from agentopt_local.concurrency import first_error, together


async def after(seconds: float, result: str) -> str:
    await asyncio.sleep(seconds)
    return result


def test_results_come_in_the_order_of_the_work() -> None:
    assert asyncio.run(together(after(0.01 * (3 - n), str(n)) for n in range(3))) == ["0", "1", "2"]
    assert asyncio.run(together([])) == []


def test_the_first_error_is_raised_as_itself_and_cancels_the_rest() -> None:
    cancelled: list[str] = []

    async def waits() -> str:
        try:
            return await after(30, "never")
        except asyncio.CancelledError:
            cancelled.append("waits")
            raise

    async def fails() -> str:
        await asyncio.sleep(0.01)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        asyncio.run(together([waits(), fails()]))
    assert cancelled == ["waits"]


def test_the_first_error_of_nested_groups() -> None:
    error = KeyError("inner")
    group = ExceptionGroup("outer", [ExceptionGroup("middle", [error, ValueError("second")]), TypeError("third")])
    assert first_error(group) is error
