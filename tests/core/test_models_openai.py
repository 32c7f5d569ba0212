"""The OpenAI-compatible adapter against a server that misbehaves in many ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Sampling, ToolCall, ToolSpec
from agentopt_local.models.openai import OpenAIChatModel
from agentopt_local.tool_formats import COMPACT_JSON

KEY = "sk-not-a-real-key-123"
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'
TOOL = ToolSpec(
    name="f",
    description="Does f.",
    parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
)
Answer = httpx.Response | Exception | str | dict[str, Any]


def completion(said: str | dict[str, Any], finish_reason: str = "stop") -> httpx.Response:
    message = {"role": "assistant", "content": said} if isinstance(said, str) else {"role": "assistant", **said}
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage})


def refusal(status: int, message: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}}, headers=headers)


class Server:
    """Answers chat requests from a list (the last one for ever) or with a function; records what it was sent."""

    def __init__(self, *answers: Answer | Callable[[dict[str, Any]], Answer], owned_by: str = "me") -> None:
        self.answers = list(answers)
        self.owned_by = owned_by
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m", "owned_by": self.owned_by}]})
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"count": 1})
        assert request.url.path == "/v1/chat/completions"
        body = json.loads(request.content)
        self.bodies.append(body)
        self.headers.append(request.headers)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer = answer(body) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else completion(answer)

    def model(self, **options: Any) -> OpenAIChatModel:
        settings = {"backoff_s": 0.001, "structured": "none", **options}
        return OpenAIChatModel("http://server.test/v1/", "m", transport=httpx.MockTransport(self), **settings)


def ask(content: str = "hello", **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=content),), **fields)


def run(model: OpenAIChatModel, request: ChatRequest) -> ChatReply:
    async def once() -> ChatReply:
        try:
            return await model.complete(request)
        finally:
            await model.aclose()

    return asyncio.run(once())


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_a_request_and_its_reply() -> None:
    server = Server("hi")
    sampling = Sampling(max_tokens=7, temperature=0.5, top_p=0.9, seed=3)
    reply = run(server.model(), ask(sampling=sampling))
    assert reply.message == Message(role="assistant", content="hi")
    assert reply.usage.model_dump() == {
        "requests": 1,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "evicted_tokens": 0,
        "completion_tokens": 3,
        "thought_tokens": 0,
    }
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_the_seed_can_be_left_out_and_the_key_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server = Server("hi")
    run(server.model(send_seed=False), ask(sampling=Sampling(seed=3)))
    assert "seed" not in server.bodies[0]
    assert "Authorization" not in server.headers[0]


def test_history_gets_the_same_call_ids_every_time() -> None:
    call = ToolCall(name="f", arguments={"a": 1})
    messages = (
        Message(role="user", content="q"),
        Message(role="assistant", tool_calls=(call, call)),
        Message(role="tool", content="1"),
        Message(role="tool", content="2"),
        Message(role="assistant", content="then", tool_calls=(call,)),
        Message(role="tool", content="3"),
        Message(role="tool", content="answers nothing"),
    )
    server = Server("done")
    for _ in range(2):
        run(server.model(), ChatRequest(messages=messages, tools=(TOOL,)))
    rows = server.bodies[0]["messages"]
    assert rows == server.bodies[1]["messages"]
    assert [c["id"] for row in rows for c in row.get("tool_calls", [])] == ["call00000", "call00001", "call00002"]
    assert [row.get("tool_call_id") for row in rows[2:4]] == ["call00000", "call00001"]
    assert rows[1]["content"] is None
    assert rows[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert rows[6]["role"] == "user"
    assert server.bodies[0]["tools"][0]["function"]["name"] == "f"
    assert server.bodies[0]["tool_choice"] == "auto"


def native(arguments: str, name: str = "f") -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"id": "x", "function": {"name": name, "arguments": arguments}}]}


def test_calls_are_read_from_the_field_and_from_the_text() -> None:
    wanted = (ToolCall(name="f", arguments={"a": 1}),)
    for said in (native('{"a": 1}'), '```json\n{"name": "f", "arguments": {"a": 1}}\n```'):
        assert run(Server(completion(said)).model(), ask(tools=(TOOL,))).message.tool_calls == wanted
    broken = run(Server(completion(native('{"a": '))).model(), ask(tools=(TOOL,))).message
    assert broken.tool_calls == ()
    assert '{"name": "f", "arguments": {"a": }' in broken.content


def test_fields_that_the_server_refuses_are_left_out_for_good() -> None:
    def reasoning_model(body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return refusal(400, "Unsupported value: 'temperature' does not support 0.0 with this model.")
        return "hi"

    server = Server(reasoning_model)
    model = server.model()

    async def twice() -> None:
        for _ in range(2):
            assert (await model.complete(ask(sampling=Sampling(max_tokens=9)))).message.content == "hi"
        await model.aclose()

    asyncio.run(twice())
    assert len(server.bodies) == 4
    assert server.bodies[-1]["max_completion_tokens"] == 9


def constraint(kind: Any, value: str) -> Constraint:
    return Constraint(kind=kind, value=value)


def test_schemas_go_out_as_response_format_until_refused() -> None:
    server = Server('{"n": 1}', refusal(400, "response_format is not supported"), '```json\n{"n": 2}\n```', '{"n": 3}')
    model = server.model(structured="auto")

    async def thrice() -> list[str]:
        wanted = constraint("json_schema", SCHEMA)
        replies = [(await model.complete(ask(constraint=wanted))).message.content for _ in range(3)]
        await model.aclose()
        return replies

    assert asyncio.run(thrice()) == ['{"n": 1}', '{"n": 2}', '{"n": 3}']
    assert server.bodies[0]["response_format"]["json_schema"]["strict"] is True
    assert ["response_format" in body for body in server.bodies] == [True, True, False, False]


@pytest.mark.parametrize(
    ("wanted", "bad", "good"),
    [
        (constraint("json_schema", SCHEMA), '{"n": "x"}', '{"n": 1}'),
        (constraint("json_schema", SCHEMA), "n = 1", '{"n": 1}'),
        (constraint("regex", r"[0-9]+/[0-9]+"), "a half", "1/2"),
        (constraint("grammar", 'start: "a" NUMBER\nNUMBER: /[0-9]+/'), "b1", "a12"),
        (constraint("turn", r"<answer>[^<]+</answer>"), "half", "<answer>1/2</answer>"),
        (constraint("turn", r"x"), native("{}"), native('{"a": 1}')),
        (constraint("turn", r"x"), native("{}", name="g"), native('{"a": 1}')),
        (None, native('{"a": "b"}'), native('{"a": 1}')),
    ],
)
def test_a_wrong_reply_is_asked_for_again(
    wanted: Constraint | None, bad: str | dict[str, Any], good: str | dict[str, Any]
) -> None:
    server = Server(completion(bad), completion(good))
    reply = run(server.model(), ask(constraint=wanted, tools=(TOOL,), sampling=Sampling(seed=5)))
    assert reply.message.content == good if isinstance(good, str) else reply.message.tool_calls
    assert reply.usage.requests == 2
    first, second = server.bodies
    assert first["messages"][-1]["content"] == "hello"
    assert second["messages"][-1]["content"].startswith("hello\n\n(Your last answer was not accepted.")
    assert second["seed"] != first["seed"]
    assert second["temperature"] > first["temperature"]


def test_after_the_last_sample_the_reply_comes_as_it_is() -> None:
    server = Server("never")
    reply = run(server.model(max_resamples=2), ask(constraint=constraint("regex", "yes")))
    assert reply.message.content == "never"
    assert len(server.bodies) == 3


def test_a_reply_that_was_cut_is_not_asked_for_again() -> None:
    server = Server(completion('{"n": ', finish_reason="length"))
    reply = run(server.model(), ask(constraint=constraint("json_schema", SCHEMA)))
    assert reply.finish_reason == "length"
    assert len(server.bodies) == 1


def test_vllm_is_recognised_and_gets_all_constraints() -> None:
    server = Server(
        lambda body: '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' if "tools" in body else "12",
        owned_by="vllm",
    )
    model = server.model(structured="auto")

    async def all_kinds() -> list[Message]:
        kinds = [("regex", "[0-9]+", ()), ("json_schema", '{"type": "integer"}', ()), ("turn", "x", (TOOL,))]
        made = [
            await model.complete(ask(constraint=constraint(kind, value), tools=tools)) for kind, value, tools in kinds
        ]
        await model.aclose()
        return [reply.message for reply in made]

    messages = asyncio.run(all_kinds())
    assert messages[2].tool_calls == (ToolCall(name="f", arguments={"a": 1}),)
    fields = [body["structured_outputs"] for body in server.bodies]
    assert fields[0] == {"regex": "[0-9]+"}
    assert fields[1] == {"json": {"type": "integer", "x-guidance": COMPACT_JSON}}
    assert "THOUGHT <tool_call>" in fields[2]["grammar"], "the marks are single tokens, says /tokenize"
    assert server.bodies[2]["tool_choice"] == "none"
    assert server.bodies[2]["tools"]


def test_vllm_gets_the_longest_text_before_a_call() -> None:
    server = Server("x", owned_by="vllm")
    for sentences in (12, 0):
        wanted = Constraint(kind="turn", value="x", max_thought_sentences=sentences)
        run(server.model(structured="auto"), ask(constraint=wanted, tools=(TOOL,)))
    grammars = [body["structured_outputs"]["grammar"] for body in server.bodies]
    assert ["{0,12}" in grammar for grammar in grammars] == [True, False]


def test_vllm_is_asked_for_text_where_it_has_no_tool_parser() -> None:
    def vllm(body: dict[str, Any]) -> Answer:
        if body["tool_choice"] == "auto":
            return refusal(
                400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            )
        return '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'

    for options, owner in (({"structured": "auto"}, "vllm"), ({}, "vllm"), ({}, "a gateway")):
        server = Server(vllm, owned_by=owner)
        model = server.model(**options)

        async def twice(model: OpenAIChatModel = model) -> list[tuple[ToolCall, ...]]:
            replies = [await model.complete(ask(tools=(TOOL,))) for _ in range(2)]
            await model.aclose()
            return [reply.message.tool_calls for reply in replies]

        assert asyncio.run(twice()) == [(ToolCall(name="f", arguments={"a": 1}),)] * 2
        assert [body["tool_choice"] for body in server.bodies] == ["auto", "none", "none"]


@pytest.mark.parametrize("thought", [{}, {"reasoning": "hm"}])
def test_a_tool_parser_that_drops_our_calls_is_given_its_own_format(thought: dict[str, str]) -> None:
    # vLLM's qwen3_xml parser takes JSON in <tool_call> tags for broken XML and returns nothing.
    def vllm(body: dict[str, Any]) -> Answer:
        said = {"content": "\n\n", **thought} if "structured_outputs" in body else native('{"a": 1}')
        usage = {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 3 if thought else 0}}
        return httpx.Response(200, json={"choices": [{"message": said, "finish_reason": "stop"}], "usage": usage})

    server = Server(vllm, owned_by="vllm")
    reply = run(server.model(structured="auto"), ask(constraint=constraint("turn", "x"), tools=(TOOL,)))
    assert reply.message.tool_calls == (ToolCall(name="f", arguments={"a": 1}),)
    assert [body["tool_choice"] for body in server.bodies] == ["none", "auto"]
    assert reply.usage.requests == 2


def test_no_more_requests_in_flight_than_allowed() -> None:
    in_flight = most = 0

    async def slow(_: httpx.Request) -> httpx.Response:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        return completion("hi")

    async def many() -> None:
        model = OpenAIChatModel(
            "http://server.test/v1", "m", max_concurrency=4, structured="none", transport=httpx.MockTransport(slow)
        )
        await asyncio.gather(*(model.complete(ask()) for _ in range(20)))
        await model.aclose()

    asyncio.run(many())
    assert most == 4
