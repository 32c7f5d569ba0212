"""Pools that use the same memory in turn: with scripted models in real Ray actors, and with two real engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Message, Sampling
from agentopt_local.errors import ConfigError, EngineDeadError
from serving import turns
from serving.engine_config import EngineConfig, HostedModel
from tests.tools.ray_warnings import RAY_WARNS
from tests.tools.tiny_models import FAMILIES, make_model

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    *RAY_WARNS,
]
QUICK = EngineConfig(start_timeout_s=60, device="cpu")


def alive(memory: Path) -> bool:
    """Whether the process that has this memory lives."""
    return Path(f"/proc/{memory.name.rpartition('-')[2]}").exists()


class Exclusive:
    """A model that fails if another is awake; ``folder`` holds who is, and a letter for each time one woke.

    Files in ``folder`` make it misbehave: ``NAME-METHOD`` fails or, if it holds a number, takes so many seconds.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.mine: Path | None = None
        self.misbehave("load")
        self.take()

    def misbehave(self, method: str) -> float:
        file = self.folder / f"{self.name}-{method}"
        text = file.read_text() if file.exists() else "0"
        if not text:
            raise RuntimeError(f"the core of {self.name} has ended")
        time.sleep(float(text))
        return float(text)

    def take(self) -> None:
        if self.mine is not None:
            return
        other = "ab".replace(self.name, "")
        assert not any(map(alive, self.folder.glob(f"memory-{other}-*"))), "another has the memory"
        self.mine = self.folder / f"memory-{self.name}-{os.getpid()}"
        self.mine.touch()
        with (self.folder / "log").open("a") as log:
            log.write(self.name)

    async def wake(self) -> None:
        self.misbehave("wake")
        self.take()

    async def sleep(self) -> None:
        self.misbehave("sleep")
        if self.mine is not None:
            self.mine.unlink()
        self.mine = None

    async def complete(self, request: ChatRequest) -> ChatReply:
        assert self.mine is not None, "it sleeps"
        await asyncio.sleep(0.02)
        assert self.mine is not None, "it was put to sleep while it worked"
        return ChatReply(message=Message(role="assistant", content=f"{self.name} {os.getpid()}"))

    async def aclose(self) -> None:
        if self.mine is not None:
            self.mine.unlink()


def with_pools(
    use: Callable[[Any, Any], Awaitable[None]], folder: Path, config: EngineConfig = QUICK, replicas: int = 1
) -> None:
    """``use`` of two pools that take turns, called a and b."""
    from serving.placement import reserve_in_turns
    from serving.pool import host

    async def run() -> None:
        places = await reserve_in_turns({"a": config, "b": config})
        async with contextlib.AsyncExitStack() as stack:
            pools = []
            for name, place in places.items():
                hosted = HostedModel(model=name, device="cpu", replicas=replicas)
                make = partial(Exclusive, folder, name)
                pools.append(await host(make, config, hosted, place=place))
                stack.push_async_callback(pools[-1].aclose)
            await use(*pools)

    asyncio.run(run())


async def ask(pool: Any) -> str:
    reply = await pool.complete(ChatRequest(messages=(Message(role="user", content="hello"),)))
    return str(reply.message.content)


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


@pytest.mark.parametrize("replicas", [1, 2])
def test_one_works_at_a_time_and_for_as_long_as_it_has_requests(
    replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "QUIET_S", 4.0)

    async def use(a: Any, b: Any) -> None:
        async def rollout() -> None:
            for _ in range(8):  # with pauses in which the other must not take the turn
                await ask(a)
                await asyncio.sleep(0.1)

        await ask(a)
        rollouts = [asyncio.create_task(rollout()) for _ in range(20)]
        await asyncio.sleep(0.2)
        proposals = await asyncio.gather(*(ask(b) for _ in range(20)))
        assert all(task.done() for task in rollouts)
        assert len({each.split()[1] for each in proposals}) == replicas
        await ask(a)
        assert log_of(tmp_path) == "".join(each * replicas for each in "ababa")

    with_pools(use, tmp_path, replicas=replicas)


def test_who_asks_during_a_change_waits_until_those_before_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no pause at all between changes, two that always ask must not wake each other for ever."""
    monkeypatch.setattr(turns, "QUIET_S", 0.0)

    async def use(a: Any, b: Any) -> None:
        for _ in range(5):
            await asyncio.wait_for(asyncio.gather(*(ask(pool) for _ in range(10) for pool in (a, b))), 30)
        assert len(log_of(tmp_path)) < 20

    with_pools(use, tmp_path)


def test_who_gives_up_waiting_leaves_nobody_half_asleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "QUIET_S", 0.0)
    for name in ("a-wake", "b-sleep"):
        (tmp_path / name).write_text("0.3")

    async def use(a: Any, b: Any) -> None:
        await ask(b)
        for asleep in (False, True):
            waiting = asyncio.create_task(ask(a))
            while asleep and list(tmp_path.glob("memory-b-*")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # b falls asleep, or a wakes up
            waiting.cancel()
            answers = await asyncio.gather(ask(b), ask(a), ask(b))
            assert [each[0] for each in answers] == ["b", "a", "b"]
            await ask(b)

    with_pools(use, tmp_path)


@pytest.mark.parametrize("way", ["killed", "wake", "sleep"])
def test_an_engine_that_is_lost_at_a_change_is_restarted(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "QUIET_S", 0.0)

    async def use(a: Any, b: Any) -> None:
        before = (await ask(a)).split()[1]
        if way == "sleep":
            (tmp_path / "a-sleep").touch()
        await ask(b)
        if way == "wake":
            (tmp_path / "a-wake").touch()
        if way == "killed":
            os.kill(int(before), signal.SIGKILL)
        for _ in range(3):
            await ask(b)
        name, after = (await ask(a)).split()
        assert name == "a"
        assert after != before
        if way == "sleep":
            (tmp_path / "a-sleep").unlink()
        await ask(b)

    with_pools(use, tmp_path)


def test_loading_may_take_longer_than_an_engine_may_hang(tmp_path: Path) -> None:
    (tmp_path / "a-load").write_text("10")

    async def use(a: Any, b: Any) -> None:
        assert (await ask(a))[0] == "a"
        assert log_of(tmp_path) == "aba"

    with_pools(use, tmp_path, QUICK.model_copy(update={"stall_timeout_s": 4.0}))


@pytest.mark.parametrize(("text", "reason"), [("", "the core of b has ended"), ("60", "did not wake within 20 s")])
def test_an_engine_that_does_not_start_says_so(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "b-load").write_text(text)

    async def use(a: Any, b: Any) -> None:
        raise AssertionError

    config = QUICK.model_copy(update={"start_timeout_s": 20.0 if text else 60.0})
    with pytest.raises(EngineDeadError, match=rf"the engines for b did not start: engine replica 0 .*{reason}"):
        with_pools(use, tmp_path, config)
    assert log_of(tmp_path) == "a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "take_turns = true is for two models that this run starts engines for: set optimizer_model"),
        ({"optimizer_model": {"name": "m", "base_url": "http://127.0.0.1:9/v1"}}, "for two models"),
        ({"optimizer_engine": {"gpu_fraction": 0.5}}, r"optimizer_engine\.gpu_fraction = 0.5, but with take_turns"),
    ],
)
def test_settings_that_contradict_turns_are_refused(settings: dict[str, Any], message: str) -> None:
    from ray_jobs.config import build
    from ray_jobs.open_models import check_model

    spec = {"task": {"spec": "reasoning_gym:spell_backward"}, "take_turns": True}
    with pytest.raises(ConfigError, match=message):
        check_model(build(spec | settings, "this test"))


def test_engines_that_take_turns_leave_room_for_what_the_sleeping_one_keeps() -> None:
    from serving.vllm_options import engine_options

    for gib, own, share in ((80, None, 0.9), (24, None, 0.88), (12, None, 0.75), (12, 0.8, 0.8)):
        config = EngineConfig(gpu_memory_utilization=own)
        options = engine_options(Path("/none"), config, memory=gib << 30, sleeps=True)
        assert (options["enable_sleep_mode"], options["gpu_memory_utilization"]) == (True, share)
    alone = engine_options(Path("/none"), EngineConfig(), memory=12 << 30)
    assert (alone["enable_sleep_mode"], alone["gpu_memory_utilization"]) == (False, 0.9)


def test_who_only_asks_the_agent_starts_no_other_engine() -> None:
    from ray_jobs.config import build
    from ray_jobs.open_models import agent_alone, check_turns, hosted_models

    other = {"optimizer_model": {"name": "m"}, "optimizer_engine": {"seed": 1}}
    config = build({"task": {"spec": "reasoning_gym:spell_backward"}, "take_turns": True} | other, "this test")
    check_turns(config)
    alone = agent_alone(config)
    check_turns(alone)
    assert list(hosted_models(alone)) == ["engine"]


@pytest.mark.engine
def test_two_engines_train_in_turn_and_conversations_go_on(tmp_path: Path) -> None:
    """On a CPU a sleeping engine ends: its conversations must not."""
    from agentopt_local.run.writer import RunDir
    from ray_jobs.config import build
    from ray_jobs.open_models import open_models
    from ray_jobs.training import train

    families = {family.name: family for family in FAMILIES}
    engine = {"max_model_len": 2048, "max_num_seqs": 16, "kv_cache_gib": 0.25}
    config = build(
        {
            "concurrency": 16,
            "take_turns": True,
            "task": {"spec": "reasoning_gym:spell_backward", "n_train": 4, "n_test": 2},
            "model": {"name": str(make_model(families["qwen2.5"], tmp_path / "agent"))},
            "optimizer_model": {"name": str(make_model(families["qwen3-instruct"], tmp_path / "optimizer"))},
            "engine": engine,
            "optimizer_engine": engine,
            "agent": {"max_turns": 2, "max_turn_tokens": 60, "think": False, "interpreter": False},
            "optimizer": {"n_samples": 2, "max_retries": 0, "max_source_tokens": 80, "max_actions": 1},
            "trainer": {"max_epochs": 1, "noise_floor": False},
        },
        "this test",
    )

    async def talk(model: Any, messages: tuple[Message, ...]) -> tuple[ChatReply, tuple[Message, ...]]:
        request = ChatRequest(
            messages=messages, sampling=Sampling(max_tokens=40, temperature=1.0, seed=7), conversation="long"
        )
        reply = await model.complete(request)
        return reply, (*messages, reply.message, Message(role="user", content="and then?"))

    async def use() -> None:
        async with contextlib.AsyncExitStack() as stack:
            models = await open_models(config, stack, lambda stage, done, total: None)
            first, messages = await talk(models.agent, (Message(role="user", content="tell me a story"),))
            with contextlib.closing(RunDir(tmp_path / "run", create=True)) as run_dir:
                report = await train(config, run_dir, model=models)
            assert report.test is not None
            assert report.tokens["optimizer"].requests > 0
            second, messages = await talk(models.agent, messages)
            third, _ = await talk(models.agent, messages)
            # the sampled ids were kept: the text of random tokens would be tokenized differently
            grown = first.usage.prompt_tokens + first.usage.completion_tokens
            assert second.usage.prompt_tokens > grown
            assert second.usage.evicted_tokens == 0, "what sleep cost is not a sign of a full cache"
            assert third.usage.cached_tokens > 0

    asyncio.run(use())
