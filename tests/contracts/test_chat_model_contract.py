"""What every ChatModel promises, regardless of its backend.

A harness builds a model around a *brain*: a function from the text of the last message to the model's preferred reply.
Real models ignore it, so the tests compare replies only with the request. To add a model, add its harness to
``HARNESSES``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import jsonschema
import pytest

from agentopt_local.chat import ChatModel, ChatRequest, Constraint, Message, Sampling, ToolCall, ToolSpec
from agentopt_local.errors import ModelError
from agentopt_local.models.openai import OpenAIChatModel
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.tool_calls import check_arguments

T = TypeVar("T")
Brain = Callable[[str], str]
Harness = Callable[[Brain], AbstractContextManager[ChatModel]]

ADD = ToolSpec(
    name="add",
    description="Add two integers.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)


@contextlib.contextmanager
def scripted(brain: Brain) -> Iterator[ChatModel]:
    yield ScriptedChatModel(lambda request: brain(request.messages[-1].content), strict=True)


def handler(brain: Brain, owned_by: str, faults: list[str]) -> type[BaseHTTPRequestHandler]:
    """A server of chat completions that first commits ``faults``, one per request."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def reply(self, status: int, body: Any, short: int = 0) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(data) + short, "Connection": "close", "Retry-After": 0}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "m", "owned_by": owned_by}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                self.reply(200, {"count": 1})
                return
            fault = faults.pop(0) if faults else ""
            if fault == "overloaded":
                self.reply(429, {"error": {"message": "slow down"}})
            elif fault == "broken":
                self.reply(500, b"oops")
            elif fault == "bad json":
                self.reply(200, b'{"choices": [')
            elif fault == "truncated":
                self.reply(200, b'{"choices": [', short=100)
            else:
                self.reply(200, self.completion(body))

        def completion(self, body: dict[str, Any]) -> dict[str, Any]:
            words = brain(body["messages"][-1]["content"]).split(" ")
            cut = len(words) > body["max_tokens"]
            words = words[: body["max_tokens"]]
            message = {"role": "assistant", "content": " ".join(words)}
            return {
                "choices": [{"message": message, "finish_reason": "length" if cut else "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": len(words)},
            }

    return Handler


def served(structured: Any, owned_by: str = "someone", faults: tuple[str, ...] = ()) -> Harness:
    """An OpenAI-compatible server on loopback, and a model that talks to it."""

    @contextlib.contextmanager
    def build(brain: Brain) -> Iterator[ChatModel]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(brain, owned_by, list(faults)))
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            yield OpenAIChatModel(url, "m", structured=structured, backoff_s=0.001)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return build


HARNESSES = [
    pytest.param(scripted, id="scripted"),
    pytest.param(served("none"), id="openai"),
    pytest.param(served("json_schema"), id="openai-json-schema"),
    pytest.param(served("auto", owned_by="vllm"), id="openai-vllm"),
    pytest.param(served("auto", faults=("overloaded", "broken", "bad json", "truncated")), id="openai-faulty"),
]


@pytest.fixture(params=HARNESSES)
def harness(request: pytest.FixtureRequest) -> Harness:
    chosen: Harness = request.param
    return chosen


def use(harness: Harness, brain: Brain, work: Callable[[ChatModel], Awaitable[T]]) -> T:
    """The result of ``work`` with a model around ``brain``, which is closed twice afterwards."""

    async def session(model: ChatModel) -> T:
        try:
            return await work(model)
        finally:
            await model.aclose()
            await model.aclose()

    with harness(brain) as model:
        return asyncio.run(session(model))


def ask(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **fields)


def test_a_reply_is_an_assistant_turn_with_its_usage(harness: Harness) -> None:
    reply = use(harness, lambda _: "hello you", lambda model: model.complete(ask("hello")))
    assert reply.message.role == "assistant"
    assert reply.message.tool_calls == ()
    assert reply.usage.requests >= 1
    assert reply.usage.prompt_tokens > 0
    assert 0 < reply.usage.completion_tokens <= 512


def test_history_with_calls_is_understood(harness: Harness) -> None:
    messages = (
        Message(role="system", content="Be short."),
        Message(role="user", content="Add 1 and 2."),
        Message(role="assistant", content="Easy.", tool_calls=(ToolCall(name="add", arguments={"a": 1, "b": 2}),)),
        Message(role="tool", content="3"),
    )
    request = ChatRequest(messages=messages, tools=(ADD,), conversation="s", sampling=Sampling(max_tokens=20))
    assert use(harness, lambda _: "It is 3.", lambda model: model.complete(request)).message.role == "assistant"


@pytest.mark.parametrize(
    "inclination",
    [
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
        '```json\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n```',
        '<tool_call>\n{"name": "subtract", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": "one"}}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2, "c": 3}}\n</tool_call>',
        "<answer>3</answer>",
        "I would rather talk.",
    ],
)
def test_a_turn_is_a_valid_call_or_matching_text(harness: Harness, inclination: str) -> None:
    def brain(asked: str) -> str:
        return "<answer>3</answer>" if "not accepted" in asked else inclination

    turn = Constraint(kind="turn", value=r"<answer>[^<]{1,20}</answer>")
    try:
        reply = use(harness, brain, lambda model: model.complete(ask("1 + 2?", tools=(ADD,), constraint=turn)))
    except ModelError:
        return  # a script that cannot be followed
    calls = reply.message.tool_calls
    assert len(calls) <= 1
    for call in calls:
        assert call.name == "add"
        assert check_arguments(ADD, call.arguments) is None
    if not calls and reply.finish_reason == "stop":
        assert reply.message.content.startswith("<answer>")
        assert reply.message.content.endswith("</answer>")


def test_json_fits_its_schema(harness: Harness) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["add", "stop"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["kind", "n"],
        "additionalProperties": False,
    }
    wanted = Constraint(kind="json_schema", value=json.dumps(schema))
    reply = use(harness, lambda _: '{"kind": "add", "n": 3}', lambda model: model.complete(ask("?", constraint=wanted)))
    jsonschema.validate(json.loads(reply.message.content), schema)


def test_a_grammar_is_kept(harness: Harness) -> None:
    wanted = Constraint(kind="grammar", value='start: "x = " NUMBER\nNUMBER: /[0-9]{1,4}/')
    reply = use(harness, lambda _: "x = 12", lambda model: model.complete(ask("?", constraint=wanted)))
    name, _, number = reply.message.content.partition(" = ")
    assert name == "x"
    assert number.isdigit()


def test_max_tokens_cuts_the_reply(harness: Harness) -> None:
    wanted = Constraint(kind="regex", value="(word ){50}end")
    request = ask("?", constraint=wanted, sampling=Sampling(max_tokens=5))
    reply = use(harness, lambda _: "word " * 50 + "end", lambda model: model.complete(request))
    assert reply.finish_reason == "length"
    assert 0 < reply.usage.completion_tokens <= 5
    assert len(reply.message.content.split()) <= 5


def test_concurrent_replies_are_not_mixed_up(harness: Harness) -> None:
    async def many(model: ChatModel) -> list[str]:
        requests = [ask(f"id-{i}", constraint=Constraint(kind="regex", value=f"id-{i}")) for i in range(24)]
        return [reply.message.content for reply in await asyncio.gather(*map(model.complete, requests))]

    assert use(harness, lambda asked: asked, many) == [f"id-{i}" for i in range(24)]
