"""The pool of real Ray actors that host a scripted model: routing, and every way in which an engine can fail."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Message
from agentopt_local.errors import ConfigError, ContextOverflowError, EngineDeadError, ModelError, ModelOverloadedError
from serving.engine_config import EngineConfig, HostedModel
from serving.facts import EngineCounters
from tests.tools.ray_warnings import RAY_WARNS

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    *RAY_WARNS,
]
QUICK = EngineConfig(start_timeout_s=60, max_restarts=3)


class Obedient:
    """A model that does what the last message says: ``WORD[ PATH]``; with a path, only while no such file exists."""

    def __init__(self) -> None:
        self.core = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.counters = EngineCounters()

    async def complete(self, request: ChatRequest) -> ChatReply:
        word, _, path = request.messages[-1].content.partition(" ")
        if path and not first(Path(path)):
            word = "answer"
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(600)  # noqa: ASYNC251 - the loop is what hangs
        if word == "wait":
            await asyncio.sleep(0.5)
        if word == "core":
            raise EngineDeadError(f"the core has ended at {time.time()}: no memory")
        if word == "slow":
            for _ in range(16):
                await asyncio.sleep(0.25)
                self.counters = self.counters.after(32, 1)
        if word == "cut":
            raise ModelOverloadedError("vLLM broke a request off (abort)")
        if word == "long":
            raise ContextOverflowError("the prompt has 9 tokens")
        if word == "bug":
            raise KeyError("nobody thought of this")
        return ChatReply(message=Message(role="assistant", content=f"{os.getpid()} {self.core.pid}"))

    async def aclose(self) -> None:
        self.core.terminate()
        self.core.wait()


def first(path: Path) -> bool:
    """Whether this call made ``path``."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Counting(Obedient):
    """One that counts words for tokens."""

    async def count_tokens(self, request: ChatRequest) -> int:
        return len(request.messages[-1].content.split())


def with_pool(
    use: Callable[[Any], Awaitable[Any]], n: int = 1, config: EngineConfig = QUICK, make: Any = Obedient
) -> Any:
    """``use`` of a pool with ``n`` replicas, which is closed afterwards."""
    from serving.pool import host

    async def run() -> Any:
        pool = await host(make, config, HostedModel(model="obedient", device="cpu", replicas=n))
        try:
            return await use(pool)
        finally:
            await pool.aclose()

    return asyncio.run(run())


async def say(pool: Any, word: str, session: str | None = None) -> str:
    reply = await pool.complete(ChatRequest(messages=(Message(role="user", content=word),), conversation=session))
    return str(reply.message.content)


def alive(pid: str | int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: str | int) -> bool:
    for _ in range(100):
        if not alive(pid):
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize(("make", "counted"), [(Counting, 3), (Obedient, None)])
def test_x3_tokens_are_counted_where_the_model_is_if_it_counts(make: Any, counted: int | None) -> None:
    async def use(pool: Any) -> None:
        request = ChatRequest(messages=(Message(role="user", content="one two three"),))
        assert await pool.count_tokens(request) == counted
        assert pool.context_tokens is None, "it is not an engine"

    with_pool(use, make=make)


def test_sessions_stay_and_new_ones_go_where_least_is_under_way() -> None:
    async def use(pool: Any) -> None:
        placed = await asyncio.gather(*(say(pool, "wait", f"s{n}") for n in range(6)))
        assert sorted(placed.count(each) for each in set(placed)) == [3, 3]
        again = [await say(pool, "answer", f"s{n}") for n in range(6)]
        assert again == list(placed)
        cores = {each.split()[1] for each in placed}
        await pool.aclose()
        assert all([await gone(core) for core in cores])
        with pytest.raises(EngineDeadError, match="the pool of engine replicas is closed"):
            await say(pool, "answer")
        await pool.aclose()

    with_pool(use, 2)


@pytest.mark.parametrize("way", ["die", "core", "hang"])
def test_one_replica_is_restarted_and_all_requests_are_answered(way: str, tmp_path: Path) -> None:
    async def use(pool: Any) -> None:
        before = await say(pool, "answer", "s")
        flight = [say(pool, "wait", f"s{n}") for n in range(10)]
        replies = await asyncio.gather(*flight, say(pool, f"{way} {tmp_path / 'once'}", "killer"))
        after = {*replies, await say(pool, "answer", "s")}
        assert before not in after
        assert len(after) == 1, "one new life answered them all"
        assert await gone(before.split()[0])
        assert await gone(before.split()[1]), "the engine core went with its actor"
        assert (tmp_path / "once").exists()

    with_pool(use, config=QUICK.model_copy(update={"stall_timeout_s": 2.0}))


def test_with_two_replicas_the_other_goes_on_at_once(tmp_path: Path) -> None:
    async def use(pool: Any) -> None:
        lives = [await say(pool, "answer", "a")]
        busy = asyncio.create_task(say(pool, "wait", "a"))
        await asyncio.sleep(0.1)
        lives.append(await say(pool, "answer", "b"))
        assert lives[0] != lives[1]
        assert await busy == lives[0]
        # Whoever waits for the restart would be answered by the next life of the first.
        assert await say(pool, f"die {tmp_path / 'once'}", "a") == lives[1]
        assert await say(pool, "answer", "a") == lives[1], "the session has moved"
        for _ in range(200):
            if all(each.up for each in pool.replicas):
                break
            await asyncio.sleep(0.05)
        placed = await asyncio.gather(*(say(pool, "wait", f"n{n}") for n in range(4)))
        assert len(set(placed)) == 2

    with_pool(use, 2)


def test_who_reports_a_loss_late_does_not_end_the_next_life() -> None:
    async def use(pool: Any) -> None:
        before = await say(pool, "answer")
        await pool.replicas[0].kill("an earlier incarnation")
        assert await say(pool, "answer") == before
        await pool.replicas[0].kill(pool.replicas[0].incarnation)
        assert await gone(before.split()[0])
        assert await say(pool, "answer") != before

    with_pool(use)


@pytest.mark.parametrize("restarts", [3, 0])
def test_a_pool_that_asks_nothing_notices_a_loss(restarts: int, caplog: pytest.LogCaptureFixture) -> None:
    """As the driver's does while rollout workers use the engines: its limit of rollouts depends on it."""

    async def use(pool: Any) -> None:
        other = pool.connector()()
        await other.start()
        before = (await say(other, "answer")).split()[0]
        os.kill(int(before), signal.SIGKILL)
        for _ in range(100):
            if restarts == 0 and not pool.replicas[0].up:
                break
            if pool.replicas[0].up and "is back" in caplog.text:
                break
            await asyncio.sleep(0.1)
        assert pool.replicas[0].up is (restarts > 0)
        assert "engine replica 0 has died" in caplog.text or "engine replica 0 was restarted" in caplog.text
        await other.aclose()
        if restarts:
            assert await say(pool, "answer") != before, "the other pool left the engine alive"

    with_pool(use, config=QUICK.model_copy(update={"max_restarts": restarts, "stall_timeout_s": 2.0}))


def test_a_request_that_kills_every_engine_is_named_and_ends_the_run() -> None:
    async def use(pool: Any) -> None:
        with pytest.raises(EngineDeadError, match=r"request \(poison\) was broken off 3 times.*replica 0 has died"):
            await say(pool, "die", "poison")
        assert await say(pool, "answer")

    with_pool(use)


def test_an_engine_that_fails_twice_for_one_reason_is_not_started_a_third_time() -> None:
    async def use(pool: Any) -> None:
        with pytest.raises(EngineDeadError, match=r"no engine replica is left.*no memory, for the second time"):
            await say(pool, "core", "poison")
        with pytest.raises(EngineDeadError, match="for the second time: it is not restarted"):
            await say(pool, "answer")

    with_pool(use)


def test_a_slow_engine_is_not_taken_for_a_hung_one() -> None:
    async def use(pool: Any) -> None:
        before = await say(pool, "answer")
        assert await say(pool, "slow") == before, "four seconds without an answer, but with steps"
        counters = await pool.counters()
        assert (counters.steps, counters.prompt_tokens, counters.completion_tokens) == (16, 512, 16)

    with_pool(use, config=QUICK.model_copy(update={"stall_timeout_s": 1.0}))


def test_restarts_are_bounded_and_the_end_says_what_happened(tmp_path: Path) -> None:
    async def use(pool: Any) -> None:
        with pytest.raises(
            EngineDeadError, match=r"no engine replica is left: engine replica 0 has died.*cannot be restarted"
        ):
            await say(pool, f"die {tmp_path / 'once'}")
        with pytest.raises(EngineDeadError, match="no engine replica is left"):
            await say(pool, "answer")

    with_pool(use, config=QUICK.model_copy(update={"max_restarts": 0}))


def test_half_an_answer_is_asked_again(tmp_path: Path) -> None:
    async def use(pool: Any) -> None:
        assert await say(pool, f"cut {tmp_path / 'once'}", "s") == await say(pool, "answer", "s")
        with pytest.raises(EngineDeadError, match="broken off 3 times"):
            await say(pool, "cut")

    with_pool(use)


def test_what_a_model_raises_reaches_the_caller_and_ends_no_engine() -> None:
    async def use(pool: Any) -> None:
        before = await say(pool, "answer")
        with pytest.raises(ContextOverflowError, match="9 tokens"):
            await say(pool, "long")
        with pytest.raises(ModelError, match="engine replica 0 failed on a request: KeyError"):
            await say(pool, "bug")
        assert await say(pool, "answer") == before

    with_pool(use)


class Broken:
    def __init__(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError("no such weights"),
            EngineDeadError(
                "the engines for m did not start: engine replica 0 died while it started: OSError: no such weights"
            ),
        ),
        # A setting that does not fit the node is a mistake and no failure.
        (ConfigError("this node has no AVX2"), ConfigError("engine replica 0: this node has no AVX2")),
    ],
)
def test_an_engine_that_does_not_start_is_told(error: Exception, expected: Exception) -> None:
    from serving.pool import host

    async def run() -> None:
        await host(partial(Broken, error), QUICK, HostedModel(model="m", device="cpu"))  # type: ignore[arg-type]

    with pytest.raises(type(expected)) as caught:
        asyncio.run(run())
    assert str(caught.value) == str(expected)


def test_a_named_pool_outlives_those_who_join_it() -> None:
    from serving.pool import end_named, join

    named = QUICK.model_copy(update={"pool_name": "shared"})

    async def use(pool: Any) -> None:
        lives = {await say(pool, "answer")}
        for _ in range(2):
            joined = await join(named, "obedient")
            lives |= set(await asyncio.gather(*(say(joined, "wait") for _ in range(4))))
            await joined.aclose()
        assert len(lives) == 2
        assert await say(pool, "answer") in lives
        with pytest.raises(ConfigError, match="'shared' host 'obedient'"):
            await join(named, "another")
        assert end_named("shared") == 2

    with_pool(use, 2, named)
    with pytest.raises(ConfigError, match=r"engine\.pool_name = 'shared': the Ray cluster has no such engines"):
        asyncio.run(join(named, "obedient"))
