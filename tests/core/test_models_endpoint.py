"""The OpenAI-compatible adapter over real sockets, against a server on loopback that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from agentopt_local.actions import header_constraint, parse_header
from agentopt_local.chat import ChatModel, ChatRequest, Message
from agentopt_local.errors import ModelError, ModelOverloadedError, ModelTimeoutError
from agentopt_local.functions import FunctionSet
from agentopt_local.models.openai import OpenAIChatModel

T = TypeVar("T")
KEY = "sk-loopback-secret-4711"
SHOUT = 'def shout(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n'


class FaultyServer:
    """Answers chat completions; ``faults`` says how the first requests go wrong, in the order of their arrival."""

    def __init__(self, *faults: str, say: Callable[[dict[str, Any]], str] = lambda body: "hi") -> None:
        self.faults = list(faults)
        self.say = say
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.asked = asyncio.Event()
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            self.keys.append(fields.get("authorization", ""))
            self.times.append(time.monotonic())
            self.asked.set()
            self.bodies.append(json.loads(body or b"{}"))
            await self.answer(writer, self.faults.pop(0) if self.faults else "")
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.in_flight -= 1
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, fault: str) -> None:
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
        message = {"role": "assistant", "content": self.say(self.bodies[-1])}
        data = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()
        status, headers, short = "200 OK", "", 0
        if fault == "drop":
            writer.transport.abort()
            return
        if fault == "hang":
            await asyncio.sleep(30)
        elif fault.startswith("429"):
            status, data = "429 Too Many Requests", b'{"error": {"message": "slow down"}}'
            headers = f"Retry-After: {fault.split()[1]}\r\n" if " " in fault else ""
        elif fault == "500":
            status, data = "500 Internal Server Error", b"<html>oops</html>"
        elif fault == "broken json":
            data = data[:-20] + b"}" * 20
        elif fault == "truncated":
            short = 100
        elif fault == "slow":
            await asyncio.sleep(0.05)
        size = len(data) + short
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}Connection: close\r\n\r\n".encode())
        writer.write(data)
        await writer.drain()


def use(server: FaultyServer, work: Callable[[ChatModel], Awaitable[T]], **options: Any) -> T:
    """``work`` with a model behind ``server``."""

    async def session() -> T:
        listener = await asyncio.start_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        settings = {"structured": "none", "backoff_s": 0.001, "timeout_s": 5, **options}
        model = OpenAIChatModel(f"http://127.0.0.1:{port}/v1", "m", **settings)
        try:
            return await work(model)
        finally:
            await model.aclose()
            listener.close()

    return asyncio.run(session())


def ask(text: str = "hello", **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **fields)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.mark.parametrize("fault", ["429", "429 0", "429 0.05", "500", "drop", "broken json", "truncated"])
def test_a_passing_fault_is_retried_and_paid_for_once(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    server = FaultyServer(fault, fault)
    reply = use(server, lambda model: model.complete(ask()))
    assert reply.message.content == "hi"
    assert (reply.usage.requests, reply.usage.prompt_tokens, reply.usage.cached_tokens) == (1, 7, 3)
    assert len(server.bodies) == 3
    assert set(server.keys) == {f"bearer {KEY}"}
    assert KEY not in caplog.text


def test_a_server_that_hangs_is_given_up_and_asked_again() -> None:
    server = FaultyServer("hang")
    assert use(server, lambda model: model.complete(ask()), timeout_s=0.3).message.content == "hi"
    with pytest.raises(ModelTimeoutError, match=r"did not answer for m in 0\.2 s"):
        use(FaultyServer("hang", "hang"), lambda model: model.complete(ask()), timeout_s=0.2, max_retries=1)


@pytest.mark.parametrize(("fault", "kind"), [("429", ModelOverloadedError), ("500", ModelOverloadedError)])
def test_a_lasting_fault_ends_after_the_retries(fault: str, kind: type[ModelError]) -> None:
    server = FaultyServer(*[fault] * 9)
    with pytest.raises(kind):
        use(server, lambda model: model.complete(ask()), max_retries=2)
    assert len(server.bodies) == 3


def test_waiting_times_grow_and_differ() -> None:
    server = FaultyServer(*["500"] * 4)
    use(server, lambda model: model.complete(ask()), backoff_s=0.1)
    waits = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    for index, wait in enumerate(waits):
        assert wait >= 0.1 * 2**index / 2
        assert wait < 0.1 * 2**index + 0.5


def test_a_retry_after_is_honoured_by_all_requests() -> None:
    server = FaultyServer("429 1")

    async def many(model: ChatModel) -> list[str]:
        first = asyncio.create_task(model.complete(ask()))
        await server.asked.wait()
        await asyncio.sleep(0.1)  # the refusal has arrived
        others = [model.complete(ask()) for _ in range(5)]
        return [reply.message.content for reply in await asyncio.gather(first, *others)]

    assert use(server, many) == ["hi"] * 6
    assert min(server.times[1:]) - server.times[0] >= 0.95


def test_a_wait_of_hours_is_not_sat_out() -> None:
    server = FaultyServer("429 7200")
    with pytest.raises(ModelOverloadedError, match="slow down"):
        use(server, lambda model: model.complete(ask()))
    assert len(server.bodies) == 1


def test_requests_are_limited_in_number_and_in_pace() -> None:
    async def many(model: ChatModel) -> None:
        await asyncio.gather(*(model.complete(ask()) for _ in range(8)))

    server = FaultyServer(*["slow"] * 8)
    use(server, many, max_concurrency=2)
    assert server.most_in_flight <= 3  # a closing connection counts for a moment
    server = FaultyServer()
    use(server, many, requests_per_minute=600)
    assert server.times[-1] - server.times[0] >= 7 * 0.1 / 2, "a loaded machine may delay the first"


def test_an_action_is_held_to_its_schema_by_response_format_then_checked_and_asked_again() -> None:
    functions = FunctionSet.of(SHOUT)
    said = iter(
        ["Sure! I would add a function.", '{"action": "explode", "name": "x"}', '{"action": "terminate", "name": ""}']
    )
    server = FaultyServer(say=lambda body: next(said))
    request = ask("Choose an action.", constraint=header_constraint(functions))
    reply = use(server, lambda model: model.complete(request), structured="json_schema")
    assert parse_header(reply.message.content, functions).action == "terminate"
    assert reply.usage.requests == 3, "each sample is paid for"
    sent = server.bodies[0]["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["strict"] is True
    schema = sent["json_schema"]["schema"]
    assert schema["properties"]["action"]["enum"] == ["add_function", "revise_function", "remove_function", "terminate"]
    assert "not accepted" in server.bodies[1]["messages"][-1]["content"]
    with_none = header_constraint(FunctionSet()).json_schema or ""
    assert json.loads(with_none)["properties"]["action"]["enum"] == ["add_function", "terminate"]


def test_the_key_is_in_no_log_whatever_goes_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    faults = ["429", "500", "drop", "broken json", "truncated"]
    with pytest.raises(ModelError) as raised:
        use(FaultyServer(*faults), lambda model: model.complete(ask()), max_retries=4)
    assert caplog.text
    assert KEY not in caplog.text + str(raised.value)
