"""The OpenAI-compatible adapter with models that think: requests, replies and history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Sampling, Thinking, ToolCall, ToolSpec
from agentopt_local.errors import ContextOverflowError
from agentopt_local.models.openai import OpenAIChatModel

TOOL = ToolSpec(name="f", description="Does f.", parameters={"type": "object", "properties": {}, "required": []})
CALL = ToolCall(name="f", arguments={})
Answer = Callable[[dict[str, Any]], httpx.Response]


def said(content: str | None, cut: bool = False, thoughts: int = 0, **fields: Any) -> httpx.Response:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 3 + thoughts,
        "completion_tokens_details": {"reasoning_tokens": thoughts},
    }
    message = {"role": "assistant", "content": content, **fields}
    choice = {"message": message, "finish_reason": "length" if cut else "stop"}
    return httpx.Response(200, content=json.dumps({"choices": [choice], "usage": usage}))


def refusal(message: str, **more: str) -> httpx.Response:
    return httpx.Response(400, json={"error": {"message": message, **more}})


class Server:
    """Answers chat requests with a function, and records them."""

    def __init__(self, answer: Answer, owned_by: str = "me") -> None:
        self.answer = answer
        self.owned_by = owned_by
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "m", "owned_by": self.owned_by}]})
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"count": 1})
        self.bodies.append(json.loads(request.content))
        return self.answer(self.bodies[-1])

    def ask(self, *requests: ChatRequest, **options: Any) -> list[ChatReply]:
        """The replies of one model to ``requests``, one after the other."""

        async def all_of_them() -> list[ChatReply]:
            settings = {"structured": "none", "backoff_s": 0.001, **options}
            model = OpenAIChatModel("http://server.test/v1", "m", transport=httpx.MockTransport(self), **settings)
            try:
                return [await model.complete(request) for request in requests]
            finally:
                await model.aclose()

        return asyncio.run(all_of_them())

    def sent(self, field: str) -> list[Any]:
        return [body.get(field) for body in self.bodies]


def ask(effort: Any = None, *, most: int = 100, **fields: Any) -> ChatRequest:
    thinking = None if effort is None else Thinking(effort=effort, max_tokens=1000)
    given = {"messages": (Message(role="user", content="q"),), "sampling": Sampling(max_tokens=most), **fields}
    return ChatRequest(thinking=thinking, **given)


EFFORTS = (None, "off", "least", "on", "low", "medium", "high")


@pytest.mark.parametrize("structured", ["auto", "json_schema", "none"])
def test_vllm_gets_the_switches_of_its_templates_however_replies_are_constrained(structured: str) -> None:
    server = Server(lambda body: said("hi"), owned_by="vllm")
    server.ask(*map(ask, EFFORTS), structured=structured)
    switches = [body["chat_template_kwargs"] for body in server.bodies]
    assert switches == [{"enable_thinking": on, "thinking": on} for on in (False, False, False, True, True, True, True)]
    assert server.sent("reasoning_effort") == [None] * 4 + ["low", "medium", "high"]


def test_other_servers_hear_of_thoughts_only_where_their_default_is_not_wanted() -> None:
    server = Server(lambda body: said("hi"))
    server.ask(*map(ask, EFFORTS))
    assert server.sent("chat_template_kwargs") == [None] * 7
    assert server.sent("reasoning_effort") == [None, "none", None, None, "low", "medium", "high"]


def test_refused_fields_and_efforts_are_not_sent_again() -> None:
    def old(body: dict[str, Any]) -> httpx.Response:
        if body.get("reasoning_effort") in ("none", "low"):
            return refusal("Unsupported value: 'reasoning_effort' does not support it. Supported values: 'high'.")
        return said("hi")

    server = Server(old)
    server.ask(ask("off"), ask("high"), ask("low"), ask("off"), ask("low"))
    assert server.sent("reasoning_effort") == ["none", None, "high", "low", None, None, None]

    def mistral(body: dict[str, Any]) -> httpx.Response:
        if "chat_template_kwargs" in body:
            return refusal("chat_template is not supported for Mistral tokenizers.", param="chat_template")
        return said("hi")

    server = Server(mistral, owned_by="vllm")
    server.ask(ask(), ask("high"))
    assert ["chat_template_kwargs" in body for body in server.bodies] == [True, False, False]
    assert server.sent("reasoning_effort") == [None, None, "high"]


def test_a_refused_temperature_does_not_cost_the_effort() -> None:
    def picky(body: dict[str, Any]) -> httpx.Response:
        if "temperature" in body:
            return refusal("'temperature' is not supported with reasoning_effort above none")
        return said("hi")

    server = Server(picky)
    server.ask(ask("high"))
    assert server.sent("reasoning_effort") == ["high", "high"]


@pytest.mark.parametrize(
    ("content", "cut", "thought", "rest"),
    [
        ("<think>\nwell</think>\n\nyes", False, "well", "yes"),
        ("well\n</think>\n\nyes", False, "well", "yes"),
        ("\n<think>\n\n</think>\n\nyes", False, "", "yes"),
        ("<think>\nwell, then", True, "well, then", ""),
        ("<think> is a tag", False, "", "<think> is a tag"),
        ("Write <think> first", True, "", "Write <think> first"),
        ("well </think>", False, "well", ""),
        ("yes", True, "", "yes"),
    ],
)
def test_a_thought_in_the_text_is_split_off(content: str, cut: bool, thought: str, rest: str) -> None:
    (reply,) = Server(lambda body: said(content, cut)).ask(ask("off"))
    assert (reply.message.thought, reply.message.content) == (thought, rest)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_in_a_field_of_its_own_is_no_content(field: str) -> None:
    server = Server(lambda body: said("a </think> b", thoughts=7, **{field: " hm\ud800 "}))
    (reply,) = server.ask(ask())
    assert reply.message == Message(role="assistant", content="a </think> b", thought="hm?")
    assert reply.usage.thought_tokens == 7
    assert reply.usage.completion_tokens == 10


def test_thoughts_before_calls_of_every_kind_are_kept() -> None:
    native = {"tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]}
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for reply in (
        said(None, reasoning="hm", **native),
        said("<think>hm</think>", **native),
        said(text, reasoning="hm"),
        said(f"<think>\nhm\n</think>\n\n{text}"),
    ):
        (got,) = Server(lambda body, reply=reply: reply).ask(ask(tools=(TOOL,)))  # type: ignore[misc]
        assert got.message == Message(role="assistant", thought="hm", tool_calls=(CALL,))


def test_a_server_that_thinks_gets_room_for_it_and_others_do_not() -> None:
    def thinker(body: dict[str, Any]) -> httpx.Response:
        cut = body["max_tokens"] < 600
        return said("" if cut else "yes", cut, thoughts=500, reasoning="hm")

    server = Server(thinker)
    replies = server.ask(ask("on"), ask("on"), ask("off"))
    assert [reply.message.content for reply in replies] == ["yes", "yes", ""]
    assert server.sent("max_tokens") == [100, 1100, 1100, 100]
    assert [reply.usage.requests for reply in replies] == [2, 1, 1], "the first one was asked again, and is paid for"
    assert (replies[2].finish_reason, replies[2].message.thought) == ("length", "hm")

    plain = Server(lambda body: said("yes", cut=True))
    plain.ask(ask("on"), ask("high"), ask())
    assert plain.sent("max_tokens") == [100, 100, 100]


def test_a_thought_that_is_cut_with_room_is_an_ordinary_cut_turn() -> None:
    server = Server(lambda body: said("<think>on and on", cut=True))
    (reply,) = server.ask(ask("on", constraint=Constraint(kind="regex", value="yes")))
    assert (reply.finish_reason, reply.message.content, reply.message.thought) == ("length", "", "on and on")
    assert server.sent("max_tokens") == [100, 1100]


def test_room_that_the_context_lacks_is_not_insisted_on() -> None:
    def small(body: dict[str, Any]) -> httpx.Response:
        if body["max_tokens"] > 600:
            return refusal("This model's maximum context length is 600 tokens.")
        return said("yes", reasoning="hm")

    server = Server(small)
    replies = server.ask(ask("on"), ask("on"))
    assert [reply.message.content for reply in replies] == ["yes", "yes"]
    assert server.sent("max_tokens") == [100, 1100, 100]
    with pytest.raises(ContextOverflowError):
        server.ask(ask("on", most=700))


EARLIER = (
    Message(role="user", content="q"),
    Message(role="assistant", thought="old", tool_calls=(CALL,)),
    Message(role="tool", content="1"),
    Message(role="assistant", thought="old", content="a"),
    Message(role="user", content="q2"),
)
HISTORY = (
    *EARLIER,
    Message(role="assistant", thought="new\ud800", tool_calls=(CALL,)),
    Message(role="tool", content="2"),
    Message(role="assistant", tool_calls=(CALL,)),
    Message(role="tool", content="3"),
)


def thoughts_sent(server: Server, field: str) -> list[list[str | None]]:
    return [[row.get(field) for row in body["messages"] if row["role"] == "assistant"] for body in server.bodies]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_server_gets_its_thoughts_back_while_calls_are_under_way(field: str) -> None:
    server = Server(lambda body: said("a", **{field: "hm"}))
    server.ask(ask(messages=HISTORY), ask(messages=HISTORY), ask(messages=EARLIER))
    assert thoughts_sent(server, field) == [[None] * 4, [None, None, "new?", None], [None, None]]


def test_servers_without_such_a_field_never_get_it() -> None:
    server = Server(lambda body: said("<think>hm</think>a"))
    server.ask(ask(messages=HISTORY), ask(messages=HISTORY))
    assert not any({"reasoning", "reasoning_content"} & set(row) for body in server.bodies for row in body["messages"])

    def strict(body: dict[str, Any]) -> httpx.Response:
        if any("reasoning" in row for row in body["messages"]):
            return refusal("Extra inputs are not permitted: messages.5.reasoning")
        return said("a", reasoning="hm")

    server = Server(strict)
    server.ask(*[ask(messages=HISTORY)] * 3)
    assert thoughts_sent(server, "reasoning")[1:] == [[None, None, "new?", None], [None] * 4, [None] * 4]


def test_a_server_that_wants_all_its_thoughts_back_gets_them() -> None:
    def deepseek(body: dict[str, Any]) -> httpx.Response:
        if not all("reasoning_content" in row for row in body["messages"] if row["role"] == "assistant"):
            return refusal("The `reasoning_content` in the thinking mode must be passed back to the API.")
        return said("a", reasoning_content="hm")

    server = Server(deepseek)
    server.ask(ask(messages=HISTORY))
    assert thoughts_sent(server, "reasoning_content")[-1] == ["old", "old", "new?", ""]
