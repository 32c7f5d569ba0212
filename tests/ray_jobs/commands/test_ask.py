"""``ask`` and ``chat``, with an injected scripted model, and from the command line with a server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import ContextOverflowError, RefusedPromptError
from agentopt_local.exporting.learned import read_learned
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.plain_text import printable
from ray_jobs.commands.ask import ask, chat
from ray_jobs.runs import read_config

ROOT = str(Path(__file__).resolve().parents[3])


def acts(request: ChatRequest) -> str:
    """Calls ``reverse`` where there is one, runs code where not; answers with what came back."""
    last = request.messages[-1]
    if last.role == "tool":
        return f"<answer>{last.content}</answer>"
    if last.content.startswith("Output of the code:\n"):
        return f"<answer>{last.content.partition(chr(10))[2]}</answer>"
    word = last.content.split()[-1]
    if any(tool.name == "reverse" for tool in request.tools):
        return f'I reverse it.\n<tool_call>{{"name": "reverse", "arguments": {{"word": "{word}"}}}}</tool_call>'
    return f"```python\nprint({word!r}.upper())\n```"


def asked(run: Path, question: str, model: ScriptedChatModel, functions: FunctionSet | None = None) -> int:
    functions = read_learned(run).functions if functions is None else functions
    return asyncio.run(ask(read_config(run), functions, question, model=model))


def chatted(run: Path, model: ScriptedChatModel, *lines: str) -> int:
    given = iter([*lines, None])

    async def read() -> str | None:
        return next(given)

    return asyncio.run(chat(read_config(run), read_learned(run).functions, read, model=model))


# With the scripted model


def test_the_answer_is_alone_on_stdout_and_the_turns_are_shown(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert asked(run, "Please reverse: banana", ScriptedChatModel(acts)) == 0
    out, err = capfd.readouterr()
    assert out == "ananab\n"
    lines = err.splitlines()
    assert lines[:3] == ["I reverse it.", "call reverse(word='banana')", "  ananab"]
    assert lines[3].startswith("(2 turns, 1 calls, ")


def test_turns_are_shown_as_they_happen(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """When the model is asked for its second turn, the first and its result stand there already."""
    seen = []

    def look(request: ChatRequest) -> str:
        seen.append(capfd.readouterr().err)
        return acts(request)

    asked(run, "reverse: ab", ScriptedChatModel(look))
    assert seen == ["", "I reverse it.\ncall reverse(word='ab')\n  ba\n"]


def test_without_functions_it_is_the_untrained_agent(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = ScriptedChatModel(acts)
    assert asked(run, "reverse: banana", model, FunctionSet()) == 0
    out, err = capfd.readouterr()
    assert out == "BANANA\n"
    assert "print('banana'.upper())" in err
    assert "  Output of the code:\n  BANANA" in err
    assert model.requests[0].tools == ()


def test_no_answer_is_a_failure_that_says_why(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    again = '<tool_call>{"name": "reverse", "arguments": {"word": "ab"}}</tool_call>'
    assert asked(run, "x", ScriptedChatModel(lambda request: again)) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "no answer within agent.max_turns = 6 turns" in err
    assert err.count("  ba\n") == 6, "the last result is shown too"


def test_an_error_of_a_function_is_shown(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = ['<tool_call>{"name": "reverse", "arguments": {"word": 3}}</tool_call>', "<answer>sorry</answer>"]
    assert asked(run, "x", ScriptedChatModel(script)) == 0
    assert "Error: reverse: argument word: 3 is not of type 'string'" in capfd.readouterr().err


def test_control_characters_do_not_reach_the_terminal(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = ["\x1b[2Jevil \x07```python\nprint(1)\n```", "<answer>\x1b]0;title\x07x</answer>"]
    asked(run, "x", ScriptedChatModel(script), FunctionSet())
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert out == "�]0;title�x\n"
    assert printable("a\tb\nc\u202ed") == "a\tb\nc�d"


def test_a_thought_is_marked_and_shortened(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    thought = "Hm,\n\n\x1b[2J <answer>no</answer> " + "so " * 500
    usage = Usage(requests=1, prompt_tokens=3, completion_tokens=9, thought_tokens=7)
    message = Message(role="assistant", content="<answer>yes</answer>", thought=thought)
    assert asked(run, "x", ScriptedChatModel([ChatReply(message=message, usage=usage)])) == 0
    out, err = capfd.readouterr()
    assert out == "yes\n"
    first, second = err.splitlines()
    assert first.startswith("(thought) Hm, �[2J <answer>no</answer> so so")
    assert first.endswith(" …")
    assert len(first) < 250
    assert "3 + 9 tokens (7 in thoughts)" in second


def test_a_chat_remembers_and_forgets(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = ScriptedChatModel(acts)
    assert chatted(run, model, "reverse: abc", "", "reverse: xyz", "/clear", "reverse: last") == 0
    assert capfd.readouterr().out == "cba\nzyx\ntsal\n"
    first, _, second, _, third, _ = model.requests
    assert [message.role for message in first.messages] == ["system", "user"]
    assert second.messages[:2] == first.messages
    assert [message.role for message in second.messages[2:]] == ["assistant", "tool", "assistant", "user"]
    assert second.messages[-1].content == "reverse: xyz"
    assert [message.content for message in third.messages[1:]] == ["reverse: last"]
    assert len({request.conversation for request in model.requests}) == 1, "the engine's prefix cache is kept"


def test_an_unanswered_question_leaves_no_trace(run: Path) -> None:
    def script(request: ChatRequest) -> str:
        return "hm" if any(message.content == "puzzle" for message in request.messages) else acts(request)

    model = ScriptedChatModel(script)
    chatted(run, model, "puzzle", "reverse: ab")
    assert all(message.content != "puzzle" for message in model.requests[-1].messages)


def test_a_full_context_starts_the_conversation_afresh(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def script(request: ChatRequest) -> Any:
        return ContextOverflowError("too long") if len(request.messages) > 5 else acts(request)

    chatted(run, ScriptedChatModel(script), "reverse: abc", "reverse: xyz")
    out, err = capfd.readouterr()
    assert out == "cba\nzyx\n"
    assert "starting afresh" in err


def test_a_refused_question_is_answered_with_the_reason(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = ['<tool_call>{"name": "reverse", "arguments": {"word": "ab"}}</tool_call>', RefusedPromptError("flagged")]
    assert asked(run, "x", ScriptedChatModel(script)) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "no answer: the prompt was refused: flagged" in err
    assert err.count("  ba\n") == 1, "the last result was shown with the request that was refused"


# Through the command, with a server on loopback


class Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose model is the script above; ``wait`` makes it think for long."""

    thinks = threading.Event()

    def do_GET(self) -> None:
        self._send({"data": [{"id": "m", "owned_by": "me"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = body["messages"][-1]
        if last["content"].endswith("wait"):
            self.thinks.set()
            time.sleep(60)
            return
        message: dict[str, Any] = {"role": "assistant", "content": f"<answer>{last['content']}</answer>"}
        if last["role"] == "user":
            arguments = json.dumps({"word": last["content"].split()[-1]})
            call = {"id": "1", "type": "function", "function": {"name": "reverse", "arguments": arguments}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        self._send({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}})

    def _send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "ray_jobs.cli", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT, "TERM": "dumb"}


def test_ask_over_an_endpoint(run: Path, endpoint: str) -> None:
    """The address may stand before the question."""
    words = command("ask", str(run), "--model.base_url", endpoint, "--model.name", "m", "reverse drawer")
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300, env=environment())
    assert (done.returncode, done.stdout) == (0, "reward\n"), done.stderr
    assert "call reverse(word='drawer')" in done.stderr


def test_a_piped_chat_ends_with_its_input(run: Path, endpoint: str) -> None:
    words = command("chat", str(run), f"--model.base_url={endpoint}")
    given = "reverse abc\nreverse evil\n"
    done = subprocess.run(
        words, check=False, input=given, capture_output=True, text=True, timeout=300, env=environment()
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "cba\nlive\n"), done.stderr
    assert "Traceback" not in done.stderr


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, words: list[str], stdout: Any = None) -> None:
        """``stdout``: where standard output goes instead."""
        ours, theirs = pty.openpty()
        self.fd = ours
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=stdout or theirs, stderr=theirs, env=environment(), start_new_session=True
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 240
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if not select.select([self.fd], [], [], 1.0)[0]:
                continue
            try:
                self.seen += os.read(self.fd, 4096).decode()
            except OSError:  # the other end was closed
                assert text in self.seen, self.seen

    def say(self, text: str) -> None:
        self.seen = ""
        os.write(self.fd, text.encode())

    def press(self, key: str) -> None:
        """Press until it ends: what comes before the prompt has taken the terminal over is no key yet."""
        for _ in range(240):
            self.say(key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.5)
                break

    def end(self) -> int:
        code = self.process.wait(timeout=120)
        os.close(self.fd)
        return code


@pytest.mark.parametrize("how", ["Ctrl-D", "Ctrl-C", "SIGINT", "SIGTERM"])
def test_a_chat_on_a_terminal_ends_cleanly(how: str, run: Path, endpoint: str) -> None:
    terminal = Terminal(command("chat", str(run), "--model.base_url", endpoint))
    try:
        terminal.until("> ")
        if how == "Ctrl-C":  # first while an answer is under way, which is stopped and no more
            terminal.say("wait\n")
            assert Endpoint.thinks.wait(240)
            terminal.process.send_signal(signal.SIGINT)
            terminal.until("stopped")
            terminal.until("> ")
            terminal.say("reverse part\n")
            terminal.until("trap")
            terminal.until("> ")
        if how.startswith("Ctrl"):
            terminal.press("\x04" if how == "Ctrl-D" else "\x03")
        else:
            terminal.process.send_signal(signal.Signals[how])
        assert terminal.end() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
    assert "Traceback" not in terminal.seen


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_redirected_chat_writes_its_answers_alone(
    term: str, run: Path, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "environment", lambda: {**os.environ, "PYTHONPATH": ROOT, "TERM": term})
    out = tmp_path / "answers.txt"
    with out.open("wb") as file:
        terminal = Terminal(command("chat", str(run), "--model.base_url", endpoint), stdout=file)
    try:
        terminal.until(">")
        time.sleep(1.0)  # until the prompt has taken the terminal over
        terminal.say("reverse stressed\r")
        deadline = time.monotonic() + 120
        while not out.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        terminal.press("\x04")
        assert terminal.end() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
    assert out.read_text() == "desserts\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_chat_that_waits_for_a_pipe_can_be_ended(number: signal.Signals, run: Path, endpoint: str) -> None:
    words = command("chat", str(run), f"--model.base_url={endpoint}")
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            assert process.stderr is not None
            while "ends it" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(number)
            assert process.wait(timeout=120) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
