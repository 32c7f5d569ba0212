"""An OpenAI-compatible server on loopback with a switch for each way in which real ones differ or fail."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Brain = Callable[[Body], "str | dict[str, Any]"]
"""What the model says to a request: text, or a message's fields."""
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}


class Answer:
    """What is sent back; ``data`` may be pieces that are sent one after the other, ``pause_s`` apart."""

    def __init__(self, status: int, data: Any, *, pause_s: float = 0.0, **headers: str) -> None:
        self.status = status
        self.data = data
        self.pause_s = pause_s
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def refused(status: int, message: str, **more: Any) -> Answer:
    """An error as OpenAI sends it."""
    return Answer(status, {"error": {"message": message, **more}})


def completed(said: str | dict[str, Any], usage: Any = USAGE, **choice: Any) -> Answer:
    """A chat completion. ``usage``: None for none."""
    message = {"role": "assistant", "content": said} if isinstance(said, str) else {"role": "assistant", **said}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}], "usage": usage}
    return Answer(200, {key: value for key, value in body.items() if value is not None})


def bomb(size: int) -> bytes:
    """``size`` bytes of blanks, compressed to a thousandth."""
    return gzip.compress(b" " * size, 9)


class FakeEndpoint(ThreadingHTTPServer):
    """Answers with ``brain``. ``switch`` may answer in its place, given the request and how many came before it."""

    daemon_threads = True

    def __init__(self, brain: Brain = lambda body: "hi", switch: Switch | None = None) -> None:
        self.brain = brain
        self.switch: Switch = switch or (lambda server, body, n: None)
        self.models: Answer = Answer(404, {})
        """The answer to GET."""
        self.bodies: list[Body] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> FakeEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        """Its address with ``/v1``."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up on purpose."""

    def say(self, body: Body, usage: Any = USAGE, **choice: Any) -> Answer:
        """What the brain says to ``body``."""
        return completed(self.brain(body), usage, **choice)


Switch = Callable[[FakeEndpoint, Body, int], "Answer | None"]


class _Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.reply(self.server.models)

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.paths.append(self.path)
        server.headers.append(dict(self.headers.items()))
        server.bodies.append(body)
        self.reply(server.switch(server, body, len(server.bodies) - 1) or server.say(body))

    def reply(self, answer: Answer) -> None:
        pieces = [answer.data] if isinstance(answer.data, bytes | dict | list | str) else answer.data
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for piece in pieces:
            data = piece if isinstance(piece, bytes) else json.dumps(piece).encode()
            self.wfile.write(data)
            self.wfile.flush()
            time.sleep(answer.pause_s)


def one_in(every: int, answer: Callable[[FakeEndpoint, Body], Answer]) -> Switch:
    """Gives ``answer`` to every ``every``-th request, the first one among them."""
    return lambda server, body, n: answer(server, body) if n % every == 0 else None


def dripping() -> Iterator[bytes]:
    """A body without an end."""
    return itertools.repeat(b" ")


def roles(body: Body) -> list[str]:
    """The roles of a request's messages."""
    return [row["role"] for row in body["messages"]]


def refusing(refuse: Callable[[Body], Answer | None]) -> Switch:
    """Refuses what ``refuse`` refuses."""
    return lambda server, body, n: refuse(body)


def without(field: str, words: str, status: int = 400, **more: Any) -> Switch:
    """Refuses requests that hold ``field``."""
    return refusing(lambda body: refused(status, words, **more) if field in body else None)


def strict_template(body: Body) -> Answer | None:
    """Refuses what Gemma's chat template refuses: a system turn, and roles that do not alternate. C1."""
    said = roles(body)
    if said[0] == "system":
        return refused(400, "System role not supported")
    if any(role != ("user", "assistant")[at % 2] for at, role in enumerate(said)):
        return refused(400, "Conversation roles must alternate user/assistant/user/assistant/...")
    return None


def turns_in_a_row(body: Body) -> Answer | None:
    """Refuses two user turns in a row, and one after a result, as Mistral does. C1."""
    said = roles(body)
    pairs = list(itertools.pairwise(said))
    if ("tool", "user") in pairs:
        return refused(
            400, "Unexpected role 'user' after role 'tool'", type="invalid_request_message_order", code="3230"
        )
    if ("user", "user") in pairs:
        return refused(400, 'messages: roles must alternate, but found multiple "user" roles in a row')
    return None


def both_given(body: Body) -> Answer | None:
    """Refuses temperature and top_p together. E7."""
    if {"temperature", "top_p"} <= set(body):
        return refused(400, "`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    return None


LATER = {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "slow down"}}}
OLD_CALL = "function_call"


def old_calls(server: FakeEndpoint, body: Body, n: int) -> Answer:
    """Calls in the form that came before ``tool_calls``. E5."""
    said = server.brain(body)
    if isinstance(said, dict) and said.get("tool_calls"):
        return completed({"content": None, OLD_CALL: said["tool_calls"][0]["function"]}, finish_reason=OLD_CALL)
    return completed(said)


def bounded(field: str, least: float, most: float, words: str, **more: Any) -> Switch:
    """Refuses a ``field`` of less than ``least`` or more than ``most``."""
    return refusing(lambda body: None if least <= body.get(field, least) <= most else refused(400, words, **more))


NO_SCHEMAS = {
    "conversion": (400, "JSON schema conversion failed: unresolved reference"),
    "model": (400, "Structured outputs are not supported for this model"),
    "type": (400, "This response_format type is unavailable now"),
    "nameless": (400, "Bad Request"),
    "not found": (404, "No endpoints found that support structured outputs"),
    "parameters": (404, "No endpoints found that can handle the requested parameters."),
    "grammar": (500, "failed to parse grammar"),
}
"""How servers refuse a JSON schema. E9."""
PASSING: dict[str, Switch] = {
    "E4 429 in 200": one_in(3, lambda server, body: Answer(200, LATER)),
    "E4 502 in 200": one_in(3, lambda server, body: Answer(200, {"error": {"code": 502, "message": "bad gateway"}})),
    "E4 text in 200": one_in(3, lambda server, body: Answer(200, {"error": "upstream died"})),
    "E5 error": one_in(3, lambda server, body: completed("half an ans", finish_reason="error")),
    "E5 error in choice": one_in(
        3, lambda server, body: completed("<ans", finish_reason="error", error={"code": 502, "message": "x"})
    ),
    "E5 abort": one_in(3, lambda server, body: completed("", finish_reason="abort")),
    "E5 resource": one_in(3, lambda server, body: completed("<answer>", finish_reason="insufficient_system_resource")),
    "E5 bare 429": one_in(3, lambda server, body: Answer(200, {"message": "Try again in 6 s", "statusCode": 429})),
    "E5 no choices": one_in(3, lambda server, body: Answer(200, {"choices": [], "usage": USAGE})),
    "E5 null choices": one_in(3, lambda server, body: Answer(200, {"choices": None})),
    "E5 no message": one_in(3, lambda server, body: Answer(200, {"choices": [{"finish_reason": "stop"}]})),
    "no JSON": one_in(3, lambda server, body: Answer(200, b"<!doctype html><html></html>")),
    "a list": one_in(3, lambda server, body: Answer(200, [1])),
    "null": one_in(3, lambda server, body: Answer(200, b"null")),
    "overloaded": one_in(3, lambda server, body: Answer(529, {"type": "error", "error": {"type": "overloaded_error"}})),
    "D13 garbage wait": one_in(3, lambda server, body: Answer(429, {"error": {}}, Retry_After="soon\t-1e999")),
    "D8 unasked encoding": one_in(3, lambda server, body: Answer(200, b"xx", Content_Encoding="br")),
    "D8 broken gzip": one_in(3, lambda server, body: Answer(200, b"\x1f\x8b\x08xx", Content_Encoding="gzip")),
    "D8 cut gzip": one_in(
        3, lambda server, body: Answer(200, gzip.compress(b'{"choices": []}')[:-9], Content_Encoding="gzip")
    ),
    "D8 bomb": one_in(3, lambda server, body: Answer(200, bomb(32 << 20), Content_Encoding="gzip")),
    "D8 error bomb": one_in(3, lambda server, body: Answer(503, bomb(32 << 20), Content_Encoding="gzip")),
}
"""What passes: the request is made again, and nothing that was broken off counts as a reply."""
LEARNED: dict[str, Switch] = {
    "E5 old calls": old_calls,
    "E6 no tools": without("tools", "registry.local/library/m:latest does not support tools"),
    "E6 no endpoint": without("tools", "No endpoints found that support tool use.", 404),
    "E6 jinja": without("tools", "tools param requires --jinja flag", 500),
    "E7": refusing(both_given),
    **{f"E9 {name}": without("response_format", words, status) for name, (status, words) in NO_SCHEMAS.items()},
    "E9 raw": without(
        "response_format",
        "Provider returned error",
        metadata={"raw": '{"error": "invalid schema for response_format"}'},
    ),
    "C1 alternate": refusing(strict_template),
    "C1 in a row": refusing(turns_in_a_row),
    "C1 successive": refusing(
        lambda body: turns_in_a_row(body) and refused(400, "m does not support successive user or assistant messages")
    ),
    "limit": without("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    "no temperature": without("temperature", "Unsupported value: 'temperature' does not support 0 with this model."),
    "no seed": refusing(
        lambda body: (
            Answer(422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]})
            if "seed" in body
            else None
        )
    ),
    "positive": refusing(
        lambda body: (
            Answer(422, {"error": "Input validation error: `temperature` must be strictly positive"})
            if body.get("temperature") == 0
            else None
        )
    ),
    "E1 no usage": lambda server, body, n: server.say(body, None),
}
"""What is refused until it is said in another way, which is remembered."""
