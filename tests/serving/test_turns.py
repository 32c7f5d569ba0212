"""Pools that use the same memory in turn: with scripted models in real Ray actors, and with two real engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Message, Sampling
from agentopt_local.errors import ConfigError, EngineDeadError
from serving.engine_config import EngineConfig, HostedModel
from tests.tools.tiny_models import FAMILIES, make_model

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUICK = EngineConfig(start_timeout_s=60, device="cpu")


class Exclusive:
    """A model that fails if another is awake; ``folder`` holds who is, and a line for each time one woke."""

    def __init__(self, folder: Path, name: str) -> None:
        self.memory, self.log, self.name = folder / "memory", folder / "log", name
        self.asleep = True
        if (folder / f"broken-{name}").exists():
            raise EngineDeadError(f"{name} is broken")
        self.take()

    def take(self) -> None:
        if self.asleep:
            self.memory.touch(exist_ok=False)
            with self.log.open("a") as log:
                log.write(self.name)
        self.asleep = False

    async def wake(self) -> None:
        self.take()

    async def sleep(self) -> None:
        if not self.asleep:
            self.memory.unlink()
        self.asleep = True

    async def complete(self, request: ChatRequest) -> ChatReply:
        assert not self.asleep
        await asyncio.sleep(0.02)
        assert not self.asleep, "it was put to sleep while it worked"
        return ChatReply(message=Message(role="assistant", content=f"{self.name} {os.getpid()}"))

    async def aclose(self) -> None:
        await self.sleep()


def with_pools(use: Callable[[Any, Any], Awaitable[None]], folder: Path) -> None:
    """``use`` of two pools that take turns, called a and b."""
    from serving.placement import reserve_in_turns
    from serving.pool import host

    async def run() -> None:
        places = await reserve_in_turns({"a": QUICK, "b": QUICK})
        async with contextlib.AsyncExitStack() as stack:
            pools = []
            for name, place in places.items():
                hosted = HostedModel(model=name, device="cpu")
                pools.append(await host(partial(Exclusive, folder, name), QUICK, hosted, place=place))
                stack.push_async_callback(pools[-1].aclose)
            await use(*pools)

    asyncio.run(run())


async def ask(pool: Any) -> str:
    reply = await pool.complete(ChatRequest(messages=(Message(role="user", content="hello"),)))
    return str(reply.message.content)


def test_one_works_at_a_time_and_for_as_long_as_it_has_requests(tmp_path: Path) -> None:
    async def use(a: Any, b: Any) -> None:
        assert (tmp_path / "log").read_text() == "ab"

        async def rollout() -> set[str]:
            found = set()
            for _ in range(8):  # with pauses in which the other must not take the turn
                found.add((await ask(a))[0])
                await asyncio.sleep(0.1)
            return found

        await ask(a)
        rollouts = [asyncio.create_task(rollout()) for _ in range(20)]
        await asyncio.sleep(0.2)
        proposals = await asyncio.gather(*(ask(b) for _ in range(20)))
        assert all(task.done() for task in rollouts)
        assert {each[0] for each in proposals} == {"b"}
        assert set().union(*(task.result() for task in rollouts)) == {"a"}
        assert (await ask(a))[0] == "a"
        assert (tmp_path / "log").read_text() == "ababa"

    with_pools(use, tmp_path)


def test_who_gives_up_waiting_leaves_nobody_half_asleep(tmp_path: Path) -> None:
    async def use(a: Any, b: Any) -> None:
        for pause in (0.0, 0.9, 1.0, 1.02, 1.04):
            waiting = asyncio.create_task(ask(a))
            await asyncio.sleep(pause)
            waiting.cancel()
            assert (await asyncio.gather(ask(b), ask(a), ask(b)))[0][0] == "b"

    with_pools(use, tmp_path)


def test_an_engine_that_is_lost_in_its_sleep_loads_when_its_turn_comes(tmp_path: Path) -> None:
    async def use(a: Any, b: Any) -> None:
        before = await ask(a)
        await ask(b)
        os.kill(int(before.split()[1]), signal.SIGKILL)
        for _ in range(3):
            assert (await ask(b))[0] == "b", "the restarted one sleeps"
        after = await ask(a)
        assert after[0] == "a"
        assert after != before

    with_pools(use, tmp_path)


def test_an_engine_that_does_not_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken-b").touch()

    async def use(a: Any, b: Any) -> None:
        raise AssertionError

    with pytest.raises(EngineDeadError, match=r"the engines for b did not start: engine replica 0 .*b is broken"):
        with_pools(use, tmp_path)
    assert (tmp_path / "log").read_text() == "a"


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

    options = engine_options(Path("/none"), EngineConfig().in_turns(), memory=24 << 30, sleeps=True)
    assert (options["enable_sleep_mode"], options["gpu_memory_utilization"]) == (True, 0.85)
    own = EngineConfig(gpu_memory_utilization=0.7).in_turns()
    assert engine_options(Path("/none"), own, memory=24 << 30, sleeps=True)["gpu_memory_utilization"] == 0.7


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
            "trainer": {"max_epochs": 1},
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
