"""The OpenAI-compatible adapter over real sockets, against a server on loopback that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agentopt_local.actions import header_constraint, parse_header
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatModel, ChatRequest, Message
from agentopt_local.errors import ModelError, ModelOverloadedError, ModelTimeoutError
from agentopt_local.functions import FunctionSet
from agentopt_local.graders.text import exact
from agentopt_local.grading import Grade
from agentopt_local.models.openai import OpenAIChatModel
from agentopt_local.problem import Problem, Split
from agentopt_local.rollout import GradedAgent, Rollouts
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Trajectory

T = TypeVar("T")
KEY = "sk-loopback-secret-4711"
SHOUT = 'def shout(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n'


class FaultyServer:
    """Answers chat completions; ``faults`` says how the first requests go wrong, in the order of their arrival."""

    def __init__(self, *faults: str, say: Callable[[dict[str, Any]], str] = lambda body: "hi") -> None:
        self.faults = list(faults)
        self.say = say
        self.refuse: Callable[[dict[str, Any]], bytes | None] = lambda body: None
        """The status and the error for a body that is refused, as ``b"400 {...}"``."""
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
            if head.startswith("GET"):  # it lists no models
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
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
        if refused := self.refuse(self.bodies[-1]):
            status, data = f"{refused[:3].decode()} Refused", refused[4:]
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


class Shouting:
    """The task: an answer is right if it is the expected one."""

    name = "shouting"
    preload: tuple[str, ...] = ()
    words = ("sun", "bomb", "moon", "sea")

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        return tuple(Problem(id=word, question=f"Shout: {word}", answer=word.upper()) for word in self.words[:n])

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> Grade:
        return exact(answer or "", problem.answer)


FILTERED = (
    b'400 {"error": {"message": "The response was filtered due to the prompt triggering the content management policy",'
    b'"param": "prompt", "code": "content_filter"}}'
)


def shouts(body: dict[str, Any]) -> str:
    return f"<answer>{body['messages'][1]['content'].split()[-1].upper()}</answer>"


def roll_out(server: FaultyServer, path: Path) -> tuple[Trajectory, ...]:
    """The task's problems once, with the run folder ``path`` as a training would have it."""

    async def work(model: ChatModel) -> tuple[Trajectory, ...]:
        run_dir = RunDir(path)
        no_sandbox: Any = None
        solver = GradedAgent(make_agent(model, no_sandbox, AgentConfig(constrain=False)), Shouting(), no_sandbox)
        try:
            return await Rollouts(solver, run_dir).run(
                FunctionSet(), Shouting().problems("train", 4), seed=0, stage=Stage(part="train")
            )
        finally:
            run_dir.close()

    return use(server, work)


def test_a_refused_prompt_costs_its_rollout_alone_and_a_resume_does_not_ask_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    server = FaultyServer("429 0", say=shouts)
    server.refuse = lambda body: FILTERED if "bomb" in body["messages"][1]["content"] else None
    done = roll_out(server, tmp_path)
    assert [(each.problem_id, each.stop_reason, each.correct) for each in done] == [
        ("sun", "answer", True), ("bomb", "refused", False), ("moon", "answer", True), ("sea", "answer", True),
    ]  # fmt: skip
    assert "answered 400 for m: The response was filtered" in done[1].error
    assert done[1].error in done[1].grade.reason
    assert len(server.bodies) == 5, "the refused prompt is asked once; only what was told to come back is repeated"
    silent = FaultyServer(say=shouts)
    assert roll_out(silent, tmp_path) == done
    assert silent.bodies == []


def test_a_wrong_key_ends_the_run_and_a_resume_asks_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    server = FaultyServer(say=shouts)
    server.refuse = lambda body: b'401 {"error": {"message": "invalid key"}}'
    with pytest.raises(ModelError, match="answered 401 for m: the key in the environment variable OPENAI_API_KEY is"):
        roll_out(server, tmp_path)
    assert not (tmp_path / "rollouts.jsonl").exists() or not (tmp_path / "rollouts.jsonl").read_text()
    assert all(each.correct for each in roll_out(FaultyServer(say=shouts), tmp_path))


def test_the_key_is_in_no_log_whatever_goes_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    faults = ["429", "500", "drop", "broken json", "truncated"]
    with pytest.raises(ModelError) as raised:
        use(FaultyServer(*faults), lambda model: model.complete(ask()), max_retries=4)
    assert caplog.text
    assert KEY not in caplog.text + str(raised.value)
