"""The OpenAI-compatible adapter against faults of the server and of the network."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import httpx
import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Message
from agentopt_local.errors import (
    ConfigError,
    ContextOverflowError,
    ModelError,
    ModelOverloadedError,
    ModelTimeoutError,
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

    def __call__(self, _: httpx.Request) -> httpx.Response:
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
        (httpx.Response(200, json={"error": {"message": "upstream died"}}), ModelError, False, 1),
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
    assert server.requests == requests
    message = str(caught.value)
    assert "http://server.test/v1" in message
    if isinstance(fault, httpx.Response) and fault.status_code in (401, 404):
        assert "OPENAI_API_KEY" in message
    for text in (message, repr(model), caplog.text):
        assert KEY not in text


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
