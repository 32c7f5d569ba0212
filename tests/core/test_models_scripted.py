"""The scripted model replies with its script and nothing else."""

from __future__ import annotations

import asyncio
import time

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Sampling, ToolCall, ToolSpec, Usage
from agentopt_local.errors import ModelError, ModelTimeoutError
from agentopt_local.models.scripted import ScriptedChatModel

TOOL = ToolSpec(name="f", description="", parameters={"properties": {"a": {"type": "integer"}}, "required": ["a"]})


def ask(text: str, max_tokens: int = 100, constraint: Constraint | None = None) -> ChatRequest:
    return ChatRequest(
        messages=(Message(role="user", content=text),),
        tools=(TOOL,),
        constraint=constraint,
        sampling=Sampling(max_tokens=max_tokens),
    )


def test_a_sequence_is_handed_out_in_order_and_ends() -> None:
    finished = ChatReply(message=Message(role="assistant", content="b"), usage=Usage(requests=1, cached_tokens=7))
    model = ScriptedChatModel(["a", finished, ModelTimeoutError("late")])
    assert asyncio.run(model.complete(ask("one two"))).message.content == "a"
    assert asyncio.run(model.complete(ask("three"))) == finished
    with pytest.raises(ModelTimeoutError, match="late"):
        asyncio.run(model.complete(ask("four")))
    with pytest.raises(ModelError, match="3 replies, and this is request 4"):
        asyncio.run(model.complete(ask("five")))
    assert [request.messages[0].content for request in model.requests] == ["one two", "three", "four", "five"]
    assert model.usage == Usage(requests=2, prompt_tokens=2, cached_tokens=7, completion_tokens=1)


def test_calls_are_parsed_out_of_text() -> None:
    model = ScriptedChatModel(lambda _: 'So.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>')
    message = asyncio.run(model.complete(ask("x"))).message
    assert message == Message(role="assistant", content="So.", tool_calls=(ToolCall(name="f", arguments={"a": 1}),))


def test_concurrent_requests_wait_together() -> None:
    async def both() -> list[ChatReply]:
        model = ScriptedChatModel(lambda request: request.messages[0].content.upper(), latency_s=0.1)
        return await asyncio.gather(*(model.complete(ask(f"q{i}")) for i in range(50)))

    started = time.perf_counter()
    assert [reply.message.content for reply in asyncio.run(both())] == [f"Q{i}" for i in range(50)]
    assert time.perf_counter() - started < 2.5, "one after the other they would take 5 s"


def test_a_strict_script_cannot_break_its_constraint() -> None:
    model = ScriptedChatModel(["yes", "maybe"], strict=True)
    constraint = Constraint(kind="regex", value="yes|no")
    assert asyncio.run(model.complete(ask("x", constraint=constraint))).message.content == "yes"
    with pytest.raises(ModelError, match=r"must match this regex: yes\|no"):
        asyncio.run(model.complete(ask("x", constraint=constraint)))
    asyncio.run(model.aclose())
    with pytest.raises(ModelError, match="closed"):
        asyncio.run(model.complete(ask("x")))
