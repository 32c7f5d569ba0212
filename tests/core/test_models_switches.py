"""The OpenAI-compatible adapter against real servers' differences and failures, each a switch of a fake one."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Sampling, ToolCall, ToolSpec, Usage
from agentopt_local.errors import (
    ConfigError,
    ContextOverflowError,
    ModelError,
    ModelOverloadedError,
    ModelTimeoutError,
    PromptError,
    RefusedPromptError,
)
from agentopt_local.models.openai import OpenAIChatModel
from tests.tools.fake_endpoint import (
    LEARNED,
    PASSING,
    Answer,
    FakeEndpoint,
    Switch,
    bomb,
    bounded,
    completed,
    dripping,
    refused,
    refusing,
    roles,
    without,
)

KEY = "sk-proj-Zq81LmTx40vRw7Bn"
TOOL = ToolSpec(
    name="f",
    description="Does f.",
    parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
)
CALL = ToolCall(name="f", arguments={"a": 1})
SCHEMA = Constraint(kind="json_schema", value='{"type": "object", "properties": {"n": {"type": "integer"}}}')
OPENING = (Message(role="system", content="S"), Message(role="user", content="Q"))
HISTORY = (
    *OPENING,
    Message(role="assistant", content="first", tool_calls=(CALL, CALL)),
    Message(role="tool", content="one"),
    Message(role="tool", content="two"),
    Message(role="user", content="again"),
    Message(role="user", content="and again"),
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def brain(body: dict[str, Any]) -> str | dict[str, Any]:
    """A call where there are tools, told natively or in words, and JSON elsewhere."""
    said = "\n".join(row["content"] or "" for row in body["messages"])
    if "tools" in body:
        return {"content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]}
    if "call these functions" in said:
        return '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    return '{"n": 1}'


def ask(messages: tuple[Message, ...] = OPENING, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=messages, **fields)


TURN = ask(tools=(TOOL,), sampling=Sampling(temperature=0.4, top_p=0.9, seed=2**40))
JSON = ask(constraint=SCHEMA)
TALK = ask(HISTORY, tools=(TOOL,))


def use(server: FakeEndpoint, *requests: ChatRequest, url: str = "", **options: Any) -> list[ChatReply]:
    """The replies of one model to ``requests``, one after the other."""

    async def session() -> list[ChatReply]:
        settings = {"backoff_s": 0.001, "timeout_s": 20, "max_resamples": 0, **options}
        model = OpenAIChatModel(url or server.url, "m", **settings)
        try:
            return [await model.complete(request) for request in requests]
        finally:
            await model.aclose()

    return asyncio.run(session())


def failure(switch: Switch, request: ChatRequest = JSON, **options: Any) -> ModelError:
    with FakeEndpoint(brain, switch) as server, pytest.raises(ModelError) as caught:
        use(server, request, **options)
    return caught.value


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_asked_again_and_never_taken_for_a_reply(name: str) -> None:
    with FakeEndpoint(brain, PASSING[name]) as server:
        replies = use(server, JSON, JSON)
    assert [reply.message.content for reply in replies] == ['{"n": 1}'] * 2
    assert len(server.bodies) == 3


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_ends_in_order(name: str) -> None:
    error = failure(lambda server, body, n: PASSING[name](server, body, 0), max_retries=2)
    assert error.retryable
    assert not isinstance(error, PromptError)
    assert "\n" not in str(error)
    assert len(str(error)) < 800


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("request_", [TURN, JSON, TALK], ids=["turn", "json", "talk"])
def test_what_is_refused_is_said_in_another_way_which_is_remembered(name: str, request_: ChatRequest) -> None:
    with FakeEndpoint(brain, LEARNED[name]) as server:
        first = use(server, request_)
        asked = len(server.bodies)
    with FakeEndpoint(brain, LEARNED[name]) as server:
        replies = use(server, request_, request_, request_)
    assert len(server.bodies) == asked + 2, "what was learned is not tried again"
    for reply in [*first, *replies]:
        if request_.tools:
            assert reply.message.tool_calls == (CALL,)
        else:
            assert json.loads(reply.message.content) == {"n": 1}
    sent = json.dumps(server.bodies[-1]["messages"])
    for message in request_.messages:
        assert message.content in sent, "nothing is lost on the way"


def test_e7_the_temperature_is_kept_and_a_top_p_of_1_is_not_sent() -> None:
    with FakeEndpoint(brain, LEARNED["E7"]) as server:
        use(server, TURN, JSON)
    assert [("top_p" in body, body["temperature"]) for body in server.bodies] == [
        (True, 0.4),
        (False, 0.4),
        (False, 0.0),
    ]


def test_a_temperature_that_is_lost_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with FakeEndpoint(brain, LEARNED["no temperature"]) as server:
        use(server, JSON, JSON)
    assert caplog.text.count("m takes no temperature") == 1


@pytest.mark.parametrize(
    ("field", "asked", "sent", "switch"),
    [
        ("max_tokens", 100_000, 8192, bounded("max_tokens", 1, 8192, "`max_tokens` must be less than or equal to `8192`"
         ", the maximum value for `max_tokens` is less than the `context_window` for this model", param="max_tokens")),
        ("max_tokens", 100_000, 8192, bounded("max_tokens", 1, 8192, "it has a maxOutputTokens value of 100000 but the "
         "supported range is from 1 (inclusive) to 8193 (exclusive).")),
        ("max_tokens", 100_000, 8192, bounded("max_tokens", 1, 8192, "max_tokens must be at most 8,192")),
        ("max_tokens", 100_000, 512, bounded("max_tokens", 1, 512, "max_tokens must be in [1,512]")),
        ("temperature", 0, 0.1, bounded("temperature", 0.1, 2, "temperature must be at least 0.1")),
        ("temperature", 0, 0.05, bounded("temperature", 0.05, 2, "temperature must be between 0.05 and 2")),
        ("temperature", 0, 0.01, bounded("temperature", 0.001, 1, "temperature must be in (0.0, 1.0]")),
        ("temperature", 0, 0.01, bounded("temperature", 0.001, 1, "temperature=0 is not allowed, use a small value")),
        ("temperature", 1.5, 1, bounded("temperature", 0, 1, "temperature must be between 0 and 1")),
        ("temperature", 0.4, 0.4, refusing(lambda body: refused(400, "give either temperature or topP, but not both")
         if {"temperature", "top_p"} <= set(body) else None)),
    ],
)  # fmt: skip
def test_a_bound_is_kept_to_and_no_field_lost(field: str, asked: float, sent: float, switch: Switch) -> None:
    sampling = Sampling(**{"temperature": 0.4, "top_p": 0.9, field: asked})
    with FakeEndpoint(brain, switch) as server:
        use(server, ask(constraint=SCHEMA, sampling=sampling))
    assert server.bodies[-1][field] == sent
    assert "response_format" in server.bodies[-1]


def test_arrays_of_anything_cost_no_tools() -> None:
    def refuse(body: dict[str, Any]) -> Answer | None:
        return (
            None
            if '"items"' in json.dumps(body["tools"])
            else refused(400, "array schema missing items", param="tools")
        )

    listing = ToolSpec(
        name="f", description="F.", parameters={"type": "object", "properties": {"a": {"type": "array"}}}
    )
    with FakeEndpoint(brain, refusing(refuse)) as server:
        use(server, ask(tools=(listing,)))
    assert len(server.bodies) == 1


BLANK = ask(
    (*OPENING, Message(role="assistant", content="", tool_calls=(CALL,)), Message(role="tool", content="one"),
     Message(role="assistant", content=""), Message(role="user", content="again"))
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "wrong", "contents"),
    [
        ("Invalid value for 'content': expected a string, got null.", None, ["", ""]),
        ("messages: text content blocks must be non-empty", "", [None, "(empty)"]),
        ("Assistant message must have either content or tool_calls, but not none.", "", [None, "(empty)"]),
    ],
)
def test_a_content_that_is_refused_is_written_in_another_way(words: str, wrong: Any, contents: list[Any]) -> None:
    def refuse(body: dict[str, Any]) -> Answer | None:
        return refused(400, words) if wrong in [row["content"] for row in body["messages"]] else None

    with FakeEndpoint(brain, refusing(refuse)) as server:
        assert use(server, BLANK)[0].message.content == '{"n": 1}'
    assert [row["content"] for row in server.bodies[-1]["messages"] if row["role"] == "assistant"] == contents


def test_a_reply_that_ends_at_the_limit_without_a_word_is_a_cut_reply_with_room_for_a_thought() -> None:
    switch = without("max_tokens", "Could not finish the message because max_tokens or model output limit was reached.")
    with FakeEndpoint(brain, switch) as server:
        reply = use(server, JSON)[0]
    assert (reply.finish_reason, reply.message.content) == ("length", "")
    assert server.bodies[-1]["max_tokens"] > server.bodies[0]["max_tokens"]


@pytest.mark.parametrize(
    "content", ["hello", {"type": "text", "text": "hello"}, [None, "hello"], [{"text": "hel"}, {"text": "lo"}]]
)
def test_a_content_is_read_in_all_its_forms(content: Any) -> None:
    with FakeEndpoint(switch=lambda server, body, n: completed({"content": content})) as server:
        assert use(server, ask())[0].message.content == "hello"


def test_a_key_is_masked_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ab/cd+ef/gh1234=ij+kl")
    for written in ("sk-ab%2Fcd%2Bef%2Fgh1234%3Dij%2Bkl", "sk-ab\\/cd+ef\\/gh1234=ij+kl"):
        error = failure(lambda server, body, n, said=written: Answer(400, f"bad key {said}".encode()))
        assert "bad key ***" in str(error)
        assert "gh1234" not in str(error)


def test_c1_turns_are_merged_no_further_than_needed() -> None:
    with FakeEndpoint(brain, LEARNED["C1 in a row"]) as server:
        use(server, TALK)
    assert roles(server.bodies[-1]) == ["system", "user", "assistant", "tool", "tool"]
    assert server.bodies[-1]["messages"][-1]["content"] == "two\n\nagain\n\nand again"
    with FakeEndpoint(brain, LEARNED["C1 alternate"]) as server:
        use(server, TALK)
    last = server.bodies[-1]["messages"]
    assert [row["role"] for row in last] == ["user", "assistant", "user"]
    assert last[2]["content"].count("<tool_response>") == 2
    assert last[1]["content"].count('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>') == 2


def test_what_helps_nobody_is_not_remembered() -> None:
    def once(server: FakeEndpoint, body: dict[str, Any], n: int) -> Answer | None:
        prompt = body["messages"][-1]["content"]
        return refused(400, "Conversation roles must alternate: jinja") if prompt == "bad" else None

    bad = ask((*HISTORY[:3], Message(role="user", content="bad")), tools=(TOOL,))
    with FakeEndpoint(brain, once) as server:

        async def session() -> None:
            model = OpenAIChatModel(server.url, "m", backoff_s=0.001)
            with pytest.raises(RefusedPromptError, match="roles must alternate"):
                await model.complete(bad)
            await model.complete(TALK)
            await model.aclose()

        asyncio.run(session())
    assert "tools" in server.bodies[-1]
    assert roles(server.bodies[-1])[0] == "system"


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "refusal", "sensitive", "prohibited_content"])
def test_e5_what_a_filter_withholds_is_a_bad_rollout(reason: str) -> None:
    error = failure(lambda server, body, n: completed("ye", finish_reason=reason))
    assert isinstance(error, RefusedPromptError)
    assert error.usage == Usage(requests=1, prompt_tokens=7, cached_tokens=3, completion_tokens=2)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}},
        {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
        {"error": {"message": "The prompt was flagged", "code": "content_filter"}},
    ],
)
def test_e5_an_empty_answer_of_a_filter_is_a_bad_rollout(body: dict[str, Any]) -> None:
    assert isinstance(failure(lambda server, _, n: Answer(200, body)), RefusedPromptError)


@pytest.mark.parametrize(
    "reason", ["length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded"]
)
def test_a_reply_that_was_cut_is_called_cut(reason: str) -> None:
    with FakeEndpoint(switch=lambda server, body, n: completed("{", finish_reason=reason)) as server:
        assert use(server, JSON)[0].finish_reason == "length"


@pytest.mark.parametrize(
    "reason", ["stop", None, "", "eos", "end_turn", "tool_calls", "malformed_function_call", 7, "new"]
)
def test_other_endings_are_the_models_own(reason: Any) -> None:
    with FakeEndpoint(switch=lambda server, body, n: completed("", finish_reason=reason)) as server:
        assert use(server, JSON)[0].finish_reason == "stop"


def test_what_the_model_wrote_wrong_is_its_reply() -> None:
    said = 'So <tool_call>{"name": "f", "arguments": {"a": 1}}'
    failed = refused(400, "Failed to call a function.", code="tool_use_failed", failed_generation=said)
    with FakeEndpoint(switch=lambda server, body, n: failed) as server:
        assert use(server, TURN)[0].message.tool_calls == (CALL,)
    silent = refused(400, "tool call validation failed", code="tool_use_failed")
    with FakeEndpoint(switch=lambda server, body, n: silent) as server:
        assert use(server, TURN)[0].message.content == ""


def test_e10_a_prompt_that_is_too_long_is_one() -> None:
    words = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"
    assert isinstance(failure(lambda server, body, n: Answer(422, {"error": words})), ContextOverflowError)


def test_e11_a_query_stays_behind_every_path() -> None:
    with FakeEndpoint(brain) as server:
        url = server.url.replace("/v1", "/openai/v1?api-version=preview")
        use(server, JSON, url=url)
        assert server.paths == [f"/openai/v1/{path}?api-version=preview" for path in ("models", "chat/completions")]
        use(server, JSON, url=f"{server.url}/chat/completions/")
    assert server.paths[-1] == "/v1/chat/completions"


def test_e12_a_refusal_is_shown_in_the_servers_words() -> None:
    region = failure(lambda server, body, n: refused(403, "Country, region, or territory not supported"))
    assert "answered 403 for m: Country, region, or territory not supported" in str(region)
    assert "not set" not in str(region)
    key = failure(lambda server, body, n: refused(401, "Incorrect API key provided"))
    assert re.search("OPENAI_API_KEY is not accepted: Incorrect API key provided", str(key))


def test_e9_a_mode_that_was_asked_for_is_insisted_on() -> None:
    error = failure(LEARNED["E9 model"], structured="json_schema")
    assert "Structured outputs are not supported" in str(error)


@pytest.mark.parametrize(
    "usage",
    [
        None, {}, [], "many", {"prompt_tokens": -10**6, "completion_tokens": -5},
        {"prompt_tokens": float("inf"), "completion_tokens": float("nan")},
        {"prompt_tokens": "7", "completion_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": 10**30, "completion_tokens": True},
        {"prompt_tokens": 7.5, "completion_tokens": [1]},
        {"prompt_tokens_details": 3, "completion_tokens_details": "x"},
    ],
)  # fmt: skip
def test_e1_d13_tokens_are_counted_whatever_the_server_says(usage: Any, caplog: pytest.LogCaptureFixture) -> None:
    with FakeEndpoint(brain, lambda server, body, n: server.say(body, usage)) as server:
        replies = use(server, ask(tools=(TOOL,)), JSON)
    for reply in replies:
        assert 5 <= reply.usage.prompt_tokens < 200
        assert 2 <= reply.usage.completion_tokens < 20
        assert reply.usage.cached_tokens == reply.usage.thought_tokens == 0
    assert caplog.text.count("does not count tokens") == 1


def test_counts_of_the_server_are_taken_as_they_are() -> None:
    given = {"prompt_tokens": 70, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 99}}
    with FakeEndpoint(switch=lambda server, body, n: completed("", given)) as server:
        usage = use(server, JSON)[0].usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (70, 70, 0)
    with FakeEndpoint(switch=lambda server, body, n: completed("x", {"input_tokens": 5, "output_tokens": 6})) as server:
        usage = use(server, JSON)[0].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 6)


def test_what_was_broken_off_is_paid_for() -> None:
    with FakeEndpoint(brain, PASSING["E5 error"]) as server:
        assert use(server, JSON)[0].usage.requests == 2
    error = failure(lambda server, body, n: completed("", finish_reason="error"), max_retries=2)
    assert error.usage is not None
    assert error.usage.requests == 3


@pytest.mark.parametrize("wait", ["99999999999999999999", "9" * 300, "Fri, 31 Dec 9999 23:59:59 GMT", "901"])
def test_d13_a_wait_without_end_ends_the_run(wait: str) -> None:
    started = time.monotonic()
    error = failure(lambda server, body, n: Answer(429, {"error": {"message": "slow down"}}, Retry_After=wait))
    assert isinstance(error, ModelOverloadedError)
    assert "it asks to wait" in str(error)
    assert time.monotonic() - started < 10


SECRETS = (KEY, f"Bearer {KEY}", KEY[:12] + "...", "..." + KEY[9:], "x" * 490 + KEY, json.dumps({"k": KEY}))


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
def test_d7_no_error_repeats_the_key_or_a_piece_of_it(text: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    for body in ({"error": {"message": text}}, {"error": text}, {"choices": [], "echo": text}, text):
        answer = Answer(status, body)
        error = failure(lambda server, _, n, answer=answer: answer, max_retries=1)
        shown = str(error) + repr(error) + caplog.text
        assert not [at for at in range(len(KEY) - 7) if KEY[at : at + 8] in shown], shown


def test_d7_a_reply_is_kept_without_the_key() -> None:
    with FakeEndpoint(
        switch=lambda server, body, n: completed(f"You are {server.headers[-1]['Authorization']}!")
    ) as server:
        assert use(server, ask())[0].message.content == "You are Bearer ***!"


def test_d7_words_that_are_a_key_stay_in_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "lm-studio")
    with FakeEndpoint(switch=lambda server, body, n: completed("I am lm-studio")) as server:
        assert use(server, ask())[0].message.content == "I am lm-studio"


@pytest.mark.parametrize(
    "key", ["sk-a\nsk-b", "sk-a\r\nX-Evil: 1", "sk-schlüssel-1234", "Bearer sk-123456789", '"sk-12345678"', "a\x00b"]
)
def test_d7_a_key_that_cannot_be_sent_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"OPENAI_API_KEY": key}
    monkeypatch.setattr("os.environ", environment)
    with pytest.raises(ConfigError, match="environment variable OPENAI_API_KEY") as caught:
        OpenAIChatModel("http://localhost:8000/v1", "m")
    assert key not in str(caught.value)
    environment["OPENAI_API_KEY"] = "sk-good-good"
    model = OpenAIChatModel("http://127.0.0.1:9/v1", "m")
    environment["OPENAI_API_KEY"] = key
    for _ in range(2):
        with pytest.raises(ConfigError, match="environment variable OPENAI_API_KEY"):
            asyncio.run(model.complete(JSON))
    assert "sk-" not in repr(model)


@pytest.mark.parametrize(
    "name",
    ["sk-proj-4711", "sk_live_51H8abcdefghij", "AIzaSyA1b2C3d4E5f6G7h8", "hf_abcdefghijklmnopqrstu", "", "A B", "3A"],
)
def test_d7_a_key_in_place_of_a_name_is_refused_unseen(name: str) -> None:
    with pytest.raises(ConfigError, match="api_key_env: this must be the name of an environment variable") as caught:
        OpenAIChatModel("http://localhost:8000/v1", "m", api_key_env=name)
    assert not name or name not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "openai_key", "KEY2", "_K", "AZURE_GPT4O_KEY", "MY_KEY_2024_03"])
def test_names_of_variables_are_names(name: str) -> None:
    OpenAIChatModel("http://localhost:8000/v1", "m", api_key_env=name)


def test_d8_a_server_that_drips_is_given_up() -> None:
    started = time.monotonic()
    drip = Answer(200, dripping(), pause_s=0.05)
    error = failure(lambda server, body, n: drip, timeout_s=0.4, max_retries=1)
    assert isinstance(error, ModelTimeoutError)
    with FakeEndpoint(brain) as server:
        server.models = drip
        assert use(server, JSON, timeout_s=0.4)[0].message.content == '{"n": 1}', "what it is need not be known"
        assert isinstance(
            failure(lambda server, body, n: Answer(500, dripping(), pause_s=0.05), timeout_s=0.4, max_retries=0),
            ModelTimeoutError,
        )
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "gzip, gzip", "zstd"])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_d8_a_bomb_is_not_unpacked(status: int, encoding: str) -> None:
    import tracemalloc

    data = bomb(600 << 20) if encoding == "gzip" else bomb(64 << 20)
    answer = Answer(status, data, Content_Encoding=encoding)
    with FakeEndpoint(brain, lambda server, body, n: answer) as server:
        server.models = answer
        tracemalloc.start()
        try:
            with pytest.raises(ModelError):
                use(server, JSON, max_retries=0)
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()


def test_d8_an_answer_without_an_end_is_cut() -> None:
    error = failure(lambda server, body, n: Answer(200, (b" " * (1 << 20) for _ in range(100))), max_retries=0)
    assert "longer than 8 MiB" in str(error)


def test_compressed_answers_are_read() -> None:
    import gzip
    import zlib

    data = json.dumps(completed("hi").data).encode()
    for encoding, pack in (
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("x-gzip", gzip.compress),
    ):
        answer = Answer(200, pack(data), Content_Encoding=encoding)
        with FakeEndpoint(switch=lambda server, body, n, answer=answer: answer) as server:
            assert use(server, ask())[0].message.content == "hi"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"), ("ALL_PROXY", "socks9://me:hunter2@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://["), ("HTTP_PROXY", "http://me:hunter2@host:port"), ("ALL_PROXY", "nonsense"),
        ("SSL_CERT_FILE", "/does/not/exist"), ("SSL_CERT_FILE", "/dev/null"),
    ],
)  # fmt: skip
def test_e8_a_client_that_cannot_be_made_is_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    model = OpenAIChatModel("https://server.invalid/v1", "m", max_retries=0, timeout_s=5)
    with pytest.raises((ConfigError, ModelError)) as caught:
        asyncio.run(model.complete(JSON))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    if isinstance(caught.value, ConfigError):
        assert f"{name}=" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["", "http://", "localhost:8000", f"https://{'a' * 64}.com/v1", f"https://{'a.' * 130}com/v1", "http://h:99999/v1",
     "http://[::1/v1", "http://h..x/v1", "http://ho st/v1", "file:///etc/passwd", "\x00", "sk-proj-aaaa1111bbbb"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.base_url") as caught:
        OpenAIChatModel(url, "m")
    assert "sk-proj" not in str(caught.value)


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ([{"name": "f", "arguments": {"a": 1}}], 1), ({"function": {"name": "f", "arguments": '{"a": 1}'}}, 1),
        ([None, {"function": {"name": "f", "arguments": {"a": 1}}}], 1),
        ([{"function": {"name": "f", "parameters": {"a": 1}}}], 1),
        ([None], 0), ([{}], 0), ([[]], 0), ("f(1)", 0), ([{"function": None}], 0), ([{"function": {"name": 7}}], 0),
        ([{"function": {"name": None, "arguments": 3}}], 0), ([{"function": {"arguments": "{}"}}], 0),
    ],
)  # fmt: skip
def test_odd_calls_are_the_models_fault_and_never_end_a_run(calls: Any, found: int) -> None:
    said = {"content": "I call", "tool_calls": calls}
    with FakeEndpoint(switch=lambda server, body, n: completed(said)) as server:
        message = use(server, ask(tools=(TOOL,)))[0].message
    assert message.tool_calls[: found or None] == (CALL,) * found or not found
    assert all(call.name != "f" for call in message.tool_calls) or found


def test_an_error_beside_an_empty_reply_is_an_error() -> None:
    whole = {"error": {"code": 503, "message": "x"}, **completed("").data}
    assert isinstance(failure(lambda server, body, n: Answer(200, whole), max_retries=0), ModelOverloadedError)
    with FakeEndpoint(switch=lambda server, body, n: Answer(200, {**whole, **completed("hi").data})) as server:
        assert use(server, ask())[0].message.content == "hi"


def test_an_answer_nested_beyond_reason_is_no_crash() -> None:
    for depth in (150, 300, 900, 2000, 100_000):
        for text in ("[" * depth + "]" * depth, '{"choices": ' + "[" * depth + "]" * depth + "}"):
            assert failure(lambda server, body, n, text=text: Answer(200, text.encode()), max_retries=0).retryable


def test_a_redirect_names_where_to_go() -> None:
    error = failure(lambda server, body, n: Answer(308, b"", Location="https://other.test/v1/chat/completions?key=abc"))
    assert "https://other.test/v1/chat/completions?key=***" in str(error)


def test_a_server_that_stops_counting_on_the_way_does_not_hang_others() -> None:
    with FakeEndpoint(
        brain, lambda server, body, n: Answer(429, {"error": {"message": "x"}}, Retry_After="0") if n < 3 else None
    ) as server:
        assert len(use(server, JSON, JSON)) == 2
