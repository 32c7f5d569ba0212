"""The real engine: vLLM on this machine's CPU (or GPU), with an embedded model, in a Ray actor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.actions import header_constraint, parse_header, source_type
from agentopt_local.chat import ChatRequest, Constraint, Message, Sampling, ToolSpec
from agentopt_local.errors import ConfigError, ContextOverflowError, EngineDeadError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.source import clean
from agentopt_local.tool_calls import check_arguments
from serving import cpu
from tests.tools.ray_warnings import RAY_WARNS

pytestmark = [
    pytest.mark.engine,
    *RAY_WARNS,
]
MODEL = "qwen2.5-coder-0.5b"
ADD = 'def add(a: int, b: int) -> int:\n    """Return a + b."""\n    return a + b\n'
TOOL = ToolSpec(
    name="add",
    description="Add two integers.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
)
ISAS = ["auto", "avx2"] if cpu.features() != cpu.features("avx2") else ["auto"]
TURN = r"<answer>[^<\n]+</answer>"


def model_path() -> Path:
    from serving.model_store import resolve

    try:
        return resolve(MODEL, allow_fetch=False)
    except ConfigError as error:
        pytest.skip(f"the embedded test model is not here ({error}); make test fetches it")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module", params=ISAS)
def pool(loop: asyncio.AbstractEventLoop, request: pytest.FixtureRequest) -> Iterator[Any]:
    """One engine for all tests of this file, and another that passes for one on an older processor."""
    path = model_path()
    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.config import RayConfig
    from serving.engine_config import EngineConfig
    from serving.pool import start_pool

    connect(RayConfig())
    # Steps of 256 tokens: longer prompts are read in chunks.
    config = EngineConfig(
        max_model_len=1024, max_num_seqs=32, max_num_batched_tokens=256, kv_cache_gib=1, cpu_isa=request.param
    )
    started = loop.run_until_complete(start_pool(path, config))
    yield started
    loop.run_until_complete(started.aclose())
    disconnect()


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def ask(loop: asyncio.AbstractEventLoop, pool: Any, *requests: ChatRequest) -> list[Any]:
    async def gather() -> list[Any]:
        return list(await asyncio.gather(*(pool.complete(request) for request in requests)))

    return loop.run_until_complete(gather())


def test_a_plain_completion(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    (reply,) = ask(loop, pool, ChatRequest(messages=user("Say hello."), sampling=Sampling(max_tokens=8)))
    assert reply.message.role == "assistant"
    assert reply.message.content
    assert 1 <= reply.usage.completion_tokens <= 8
    assert reply.usage.prompt_tokens > 5


def test_x3_a_prompt_is_counted_as_it_will_be_read(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    request = ChatRequest(messages=user("Count these: 12345 \u6f22\u5b57."), sampling=Sampling(max_tokens=4))
    counted = loop.run_until_complete(pool.count_tokens(request))
    (reply,) = ask(loop, pool, request)
    assert (pool.context_tokens, counted) == (1024, reply.usage.prompt_tokens)


def test_every_sampled_action_is_legal(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    functions = FunctionSet.of(ADD)
    requests = [
        ChatRequest(
            messages=user("Choose an action as JSON. Add a function that multiplies, or remove `add`."),
            constraint=header_constraint(functions),
            sampling=Sampling(max_tokens=64, temperature=1.3, seed=seed),
        )
        for seed in range(24)
    ]
    headers = [parse_header(reply.message.content, functions) for reply in ask(loop, pool, *requests)]
    assert len(headers) == 24
    assert {header.name for header in headers if header.action in ("revise_function", "remove_function")} <= {"add"}
    assert "add" not in {header.name for header in headers if header.action == "add_function"}


def test_a_constrained_source_is_a_function(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    request = ChatRequest(
        messages=user("Write the Python function multiply that returns the product of two integers."),
        constraint=Constraint.of(source_type("multiply", max_lines=6)),
        sampling=Sampling(max_tokens=200),
    )
    (reply,) = ask(loop, pool, request)
    assert reply.finish_reason == "stop"
    function = Function(source=clean(reply.message.content))
    assert function.name == "multiply"
    assert function.parameters["properties"]


def test_turns_call_only_what_exists_with_valid_arguments(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    requests = [
        ChatRequest(
            messages=user(f"What is {n} + {n + 1}? Call a function."),
            tools=(TOOL,),
            constraint=Constraint(kind="turn", value=TURN, max_thought_sentences=0),
            sampling=Sampling(max_tokens=60, temperature=0.9, seed=n),
        )
        for n in range(16)
    ]
    calls = [call for reply in ask(loop, pool, *requests) for call in reply.message.tool_calls]
    assert calls, "the model never called its function"
    assert {call.name for call in calls} == {"add"}
    assert [check_arguments(TOOL, call.arguments) for call in calls] == [None] * len(calls)


def test_a_growing_conversation_reuses_its_prefix(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    messages = user("Count from one to ten in words, then from ten to one. " * 12)
    first = ChatRequest(messages=messages, sampling=Sampling(max_tokens=16), conversation="grow")
    (reply,) = ask(loop, pool, first)
    more = (*messages, reply.message, Message(role="user", content="Go on."))
    (second,) = ask(loop, pool, ChatRequest(messages=more, sampling=Sampling(max_tokens=4), conversation="grow"))
    held = reply.usage.prompt_tokens + reply.usage.completion_tokens
    block = 32  # the CPU engine caches whole blocks
    assert second.usage.cached_tokens >= held - 2 * block > 0
    assert second.usage.evicted_tokens == 0


def test_seeded_requests_with_long_prompts_do_not_kill_the_engine(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    requests = [
        ChatRequest(
            messages=user(f"Number {n}. " + "All work and no play makes the engine a dull boy. " * 40),
            sampling=Sampling(max_tokens=4, temperature=0.8, seed=n),
        )
        for n in range(10)
    ]
    assert len(ask(loop, pool, *requests)) == 10


def test_a_prompt_in_chunks_leaves_the_seed_alone(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    """vLLM samples after every chunk and throws the token away; the generator must not notice."""
    told = "The mill stood by the river, and the river turned the mill. " * 50
    # What follows a system message is not put into the prefix cache by a request of its own.
    messages = (Message(role="system", content="Tell stories."), *user(told + "Go on with another story."))
    request = ChatRequest(messages=messages, sampling=Sampling(max_tokens=24, temperature=1.0, seed=5))
    (chunks,), (cached,) = ask(loop, pool, request), ask(loop, pool, request)
    assert chunks.usage.prompt_tokens - chunks.usage.cached_tokens > 2 * 256, "three steps at least"
    assert cached.usage.cached_tokens > 2 * 256, "one step"
    assert chunks.message == cached.message


def test_an_engine_tells_how_it_computes_and_what_it_has_done(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    facts = pool.facts
    assert facts.step_tokens == 256
    assert facts.day is not None, "a resumed run asks for the same one"
    if pool.device == "cpu":
        expected = cpu.choose(pool.config, cpu.features(pool.config.cpu_isa))
        assert facts.speed.arithmetic == expected
        assert (facts.quantization == cpu.INT8_METHOD) == (expected.quantization == "int8")
        assert facts.speed.at(32) > facts.speed.at(1) > 0
        before = loop.run_until_complete(pool.counters())
        (reply,) = ask(loop, pool, ChatRequest(messages=user("Count to nine. " * 30), sampling=Sampling(max_tokens=9)))
        after = loop.run_until_complete(pool.counters())
        computed = reply.usage.prompt_tokens - reply.usage.cached_tokens
        assert after.prompt_tokens - before.prompt_tokens >= computed - 32
        assert after.completion_tokens - before.completion_tokens >= reply.usage.completion_tokens - 1
        assert after.steps > before.steps


def test_the_same_seed_gives_the_same_text(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    request = ChatRequest(messages=user("Tell a story."), sampling=Sampling(max_tokens=24, temperature=1.0, seed=7))
    other = request.model_copy(update={"sampling": Sampling(max_tokens=24, temperature=1.0, seed=8)})
    (one,), (two,), (three,) = (ask(loop, pool, each) for each in (request, request, other))
    assert one.message == two.message
    assert one.message != three.message


def test_a_prompt_beyond_the_context_is_said_so(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    with pytest.raises(ContextOverflowError, match="max_model_len is 1024"):
        ask(loop, pool, ChatRequest(messages=user("word " * 2000)))


@pytest.mark.parametrize(
    "text", ["", "lone \ud800 surrogate", "a\x00b\u2028\ufeff", "👩\u200d👩\u200d👧" * 9, "<|im_end|>"]
)
def test_odd_prompts_do_not_end_the_engine(loop: asyncio.AbstractEventLoop, pool: Any, text: str) -> None:
    (reply,) = ask(loop, pool, ChatRequest(messages=user(text), sampling=Sampling(max_tokens=4)))
    assert reply.usage.completion_tokens >= 1


def test_json_replies_follow_their_schema(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    request = ChatRequest(
        messages=user("Give n = 5 as JSON."),
        constraint=Constraint(kind="json_schema", value=json.dumps(schema)),
        sampling=Sampling(max_tokens=40),
    )
    (reply,) = ask(loop, pool, request)
    assert isinstance(json.loads(reply.message.content)["n"], int)


def test_a_killed_engine_is_named(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    """The pool is gone afterwards."""
    import ray

    ray.kill(pool.replicas[0].actor)  # for good: Ray does not restart it
    with pytest.raises(EngineDeadError, match="replica 0 has died"):
        ask(loop, pool, ChatRequest(messages=user("Are you there?")))


def cramped(path: Path, config: Any) -> Any:
    """An engine whose KV cache holds little more than one conversation: 48 blocks of 32 tokens."""
    from serving import engine, vllm_options

    options = vllm_options.engine_options
    vllm_options.engine_options = lambda *given, **more: options(*given, **more) | {"num_gpu_blocks_override": 48}
    return engine.Engine(path, config, cpu=True)


def test_what_the_cache_has_lost_is_told(loop: asyncio.AbstractEventLoop, pool: Any) -> None:
    import sys
    from functools import partial

    import ray

    from serving.engine_config import EngineConfig, HostedModel
    from serving.pool import host
    from serving.vllm_options import engine_environment

    if pool.config.cpu_isa != "auto":
        pytest.skip("of any processor")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import test files
    config = EngineConfig(device="cpu", max_model_len=1024, max_num_seqs=4, max_num_batched_tokens=1024, kv_cache_gib=1)
    hosted = HostedModel(model=MODEL, device="cpu")
    env = engine_environment(config, cpu=True, cores=2)
    small = loop.run_until_complete(host(partial(cramped, model_path(), config), config, hosted, env=env))
    assert 1000 < small.kv_cache_tokens <= 48 * 32

    def turn(session: str, told: tuple[Message, ...], text: str) -> tuple[Any, tuple[Message, ...]]:
        messages = (*told, Message(role="user", content=text))
        (reply,) = ask(
            loop, small, ChatRequest(messages=messages, sampling=Sampling(max_tokens=8), conversation=session)
        )
        return reply.usage, (*messages, reply.message)

    story = "Seven grey geese flew over the old mill and landed on the pond. "
    _, told = turn("kept", (), story * 20)
    second, told = turn("kept", told, "Go on.")
    assert second.cached_tokens > 200
    assert second.evicted_tokens == 0
    for day in ("Monday", "Friday"):  # two others take its place
        turn(day, (), f"On {day} the baker sold nine loaves of rye before the bell rang twice. " * 50)
    third, _ = turn("kept", told, "And then?")
    assert third.evicted_tokens >= second.prompt_tokens - 64
    assert third.cached_tokens < 64
    loop.run_until_complete(small.aclose())
