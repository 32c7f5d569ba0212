"""The OpenAI-compatible adapter when the server or the network fails."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import httpx
import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message
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

KEY = "sk-not-a-real-key-123"
HI = httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": "hi"}}]})
Answer = httpx.Response | Exception


def refusal(status: int, message: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}}, headers=headers)


class Server:
    """Gives its answers one after the other, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and not isinstance(self.answers[0], httpx.ConnectError):
            return httpx.Response(404)  # it lists no models
        answer = self.answers[min(self.requests, len(self.answers) - 1)]
        self.requests += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def model(self, **options: Any) -> OpenAIChatModel:
        settings = {"backoff_s": 0.001, "structured": "none", **options}
        return OpenAIChatModel("http://server.test/v1", "m", transport=httpx.MockTransport(self), **settings)


def ask() -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content="hello"),))


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


@pytest.mark.parametrize(
    "fault",
    [
        refusal(429, "slow down", **{"Retry-After": "0"}),
        refusal(429, "slow down", **{"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
        refusal(500, "oops"),
        httpx.Response(503, text="<html>no backend</html>"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx.Response(200, text='{"choices": [{"mess'),
        httpx.Response(200, text="[" * 100_000),
    ],
)
def test_passing_faults_are_retried(fault: Answer) -> None:
    server = Server(fault, fault, HI)
    assert run(server.model(), ask()).message.content == "hi"
    assert server.requests == 3


def test_retry_after_is_honoured() -> None:
    server = Server(refusal(429, "slow down", **{"Retry-After": "0.3"}), HI)

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        model = server.model()
        await model.complete(ask())
        await model.aclose()
        return loop.time() - started

    assert asyncio.run(timed()) >= 0.3


@pytest.mark.parametrize(
    ("fault", "kind", "retryable", "requests"),
    [
        (refusal(429, "slow down"), ModelOverloadedError, True, 3),
        (refusal(502, "bad gateway"), ModelOverloadedError, True, 3),
        (httpx.ReadTimeout("slow"), ModelTimeoutError, True, 3),
        (httpx.ReadError("broken"), ModelError, True, 3),
        (httpx.ConnectError("refused"), ModelError, False, 1),
        (refusal(429, "insufficient_quota"), ModelError, False, 1),
        (refusal(400, "This model's maximum context length is 2048 tokens."), ContextOverflowError, False, 1),
        (
            httpx.Response(400, json={"error": {"message": "no", "code": "context_length_exceeded"}}),
            ContextOverflowError,
            False,
            1,
        ),
        (refusal(400, "bad role"), ModelError, False, 1),
        (httpx.Response(200, json={"error": {"message": "upstream died"}}), ModelOverloadedError, True, 3),
        (refusal(401, f"Incorrect API key {KEY}"), ModelError, False, 1),
        (refusal(404, f"no model for {KEY}"), ModelError, False, 1),
    ],
)
def test_lasting_faults_say_what_to_do(
    fault: Answer, kind: type[ModelError], retryable: bool, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server(fault)
    model = server.model(max_retries=2)
    with pytest.raises(ModelError) as caught:
        run(model, ask())
    assert isinstance(caught.value, kind)
    assert caught.value.retryable == retryable
    asked_for_models = isinstance(fault, httpx.ConnectError)
    assert server.requests == requests + asked_for_models
    message = str(caught.value)
    assert "http://server.test/v1" in message
    if isinstance(fault, httpx.Response) and fault.status_code in (401, 404):
        assert "OPENAI_API_KEY" in message
    for text in (message, repr(model), caplog.text):
        assert KEY not in text


def coded(status: int, message: str, **more: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, **more}})


AZURE = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."
JINJA = f"------------\nWhile executing CallExpression at line 19:\nError: Jinja Exception: {ALTERNATE}"


@pytest.mark.parametrize(
    "fault",
    [
        coded(400, AZURE, code="content_filter", param="prompt"),
        coded(400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", code="400"),
        coded(400, "try again with a different prompt", code="invalid_prompt"),
        coded(400, "litellm.BadRequestError: litellm.ContentPolicyViolationError: " + AZURE),
        coded(400, "The request was rejected because it was considered high risk", type="content_filter"),
        coded(400, "Content Exists Risk", code="invalid_request_error"),
        coded(400, "Input data may contain inappropriate content.", code="data_inspection_failed"),
        coded(422, "This content violates our safety policies"),
        coded(403, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"),
        coded(403, "m requires moderation on p. Your input was flagged for violence."),
        coded(413, "Request too large, please reduce your message size"),
        httpx.Response(200, json={"error": {"message": AZURE, "code": "content_filter"}}),
    ],
)
def test_a_refusal_of_this_prompt_says_so_and_is_not_repeated(fault: httpx.Response) -> None:
    server = Server(fault)
    with pytest.raises(RefusedPromptError, match=r"http://server\.test/v1 .*for m: ") as caught:
        run(server.model(), ask())
    assert not caught.value.retryable
    assert server.requests == 1


@pytest.mark.parametrize(
    "fault",
    [
        coded(401, "Your account was flagged because it violates our usage policies"),
        coded(403, "You have no access to this model", code="insufficient_permissions"),
        coded(404, "The model does not exist", code="model_not_found"),
        coded(400, "Unrecognized request argument supplied: top_k", type="invalid_request_error"),
        coded(400, "Invalid schema for response_format 'reply'", code="invalid_json_schema"),
        coded(400, "[{'type': 'missing', 'loc': ('body', 'model'), 'msg': 'Field required'}]"),
    ],
)
def test_what_is_wrong_for_every_request_is_not_the_prompts_fault(fault: httpx.Response) -> None:
    with pytest.raises(ModelError) as caught:
        run(Server(fault).model(), ask())
    assert not isinstance(caught.value, PromptError)


@pytest.mark.parametrize("fault", [coded(400, ALTERNATE), coded(500, JINJA, type="server_error")])
def test_a_template_refuses_a_conversation_only_after_it_has_begun(fault: httpx.Response) -> None:
    opening = (Message(role="system", content="s"), Message(role="user", content="q"))
    later = (*opening, Message(role="assistant", content="a"), Message(role="user", content="b"))
    server = Server(fault)
    with pytest.raises(RefusedPromptError, match="roles must alternate"):
        run(server.model(), ChatRequest(messages=later))
    with pytest.raises(ModelError, match="roles must alternate") as caught:
        run(server.model(), ChatRequest(messages=opening))
    assert not isinstance(caught.value, PromptError), "a template that refuses the opening refuses every attempt"
    assert server.requests == 4, "each is asked once more, with the system's words in the user's turn"


def test_a_reply_that_a_filter_withholds_is_a_refused_prompt_and_paid_for() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    bad, withheld = (
        httpx.Response(200, json={"choices": [{"message": {"content": said}, "finish_reason": why}], "usage": usage})
        for said, why in (("no", "stop"), ("ye", "content_filter"))
    )
    request = ask().model_copy(update={"constraint": Constraint(kind="regex", value="yes")})
    with pytest.raises(RefusedPromptError, match="content filter withheld the reply") as caught:
        run(Server(bad, withheld).model(), request)
    assert caught.value.usage is not None
    assert (caught.value.usage.requests, caught.value.usage.prompt_tokens) == (2, 20)


def test_a_slow_server_times_out_as_a_whole() -> None:
    async def forever(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError

    model = OpenAIChatModel(
        "http://server.test/v1",
        "m",
        timeout_s=0.05,
        max_retries=0,
        structured="none",
        transport=httpx.MockTransport(forever),
    )
    with pytest.raises(ModelTimeoutError, match=r"0\.05 s"):
        run(model, ask())


def test_a_closed_port_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ModelError, match=f"nothing answers at http://127.0.0.1:{port}/v1 .*start the server"):
        run(OpenAIChatModel(f"http://127.0.0.1:{port}/v1", "m"), ask())


@pytest.mark.parametrize("base_url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://[::1/v1"])
def test_a_wrong_address_is_refused_at_once(base_url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        OpenAIChatModel(base_url, "m")


def test_passwords_in_the_address_are_not_shown() -> None:
    assert "secret" not in repr(OpenAIChatModel("http://user:secret@server.test/v1", "m"))
