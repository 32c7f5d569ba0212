"""The last step: a locked-down process reads one request, executes it, answers, and is killed.

Nothing here defends against the code it executes: the kernel confines that, and the supervisor trusts only well-formed
frames and its own clock. This module makes answers and errors readable. It imports the functions of ``os`` that it
needs after the code has run under their own names, because the code may replace the module's attributes.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import random
import resource
import sys
from functools import partial
from os import _exit, close, read, write
from types import ModuleType
from typing import Any, NoReturn

from . import execute, frames
from .launch_settings import Settings
from .lockdown import set_limit
from .values import ValueTooLarge, to_json_text


def child_main(request_pipe: int, answers: int, settings: Settings, scratch: str | None) -> NoReturn:
    """Serve one request and exit. Called after the lock-down."""
    os.environ["HOME"] = os.environ["TMPDIR"] = scratch or "/nonexistent"
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _open_output(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _open_output(2)  # type: ignore[misc]
    _warm_up(settings)
    _write(answers, frames.pack(frames.READY))
    token, request = _read_request(request_pipe)
    close(request_pipe)
    set_limit(resource.RLIMIT_CPU, int(request["cpu_s"]))
    if request["batch"]:
        _serve_batch(request, token, answers, settings)
    else:
        answer = _answer(request, request["arguments"], settings)
        for stream in (sys.__stdout__, sys.__stderr__, sys.stdout, sys.stderr):
            execute.guarded(partial(_flush, stream), None)
        _write(answers, frames.pack(frames.ANSWER, token + answer))
    _exit(0)


def _open_output(descriptor: int) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def _warm_up(settings: Settings) -> None:
    """Use what every call uses, so that those pages are copied before the request arrives."""
    request = json.loads('{"functions": "def warm(a):\\n    return [a]\\n", "name": "warm", "seed": 0, "a": 1.5}')
    frames.FrameReader(1000).feed(frames.pack(frames.ANSWER, _answer(request, {"a": request["a"]}, settings)))
    execute.forget()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[write(descriptor, view) :]


def _read_request(descriptor: int) -> tuple[bytes, dict[str, Any]]:
    """The token that starts this call's answers, and the request."""
    reader = frames.FrameReader(frames.MAX_REQUEST_BYTES + 4096)
    while True:
        data = read(descriptor, 1 << 18)
        if not data:
            _exit(0)
        for _, body in reader.feed(data):
            return body[: frames.TOKEN_BYTES], json.loads(body[frames.TOKEN_BYTES :])


def _seed(seed: int) -> None:
    """Seed the global generators of ``random`` and, if loaded, of numpy and sympy."""
    random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(seed % 2**32)
    sympy_random = sys.modules.get("sympy.core.random")
    if sympy_random is not None:
        sympy_random.rng.seed(seed)


def _flush(stream: Any) -> None:
    stream.flush()


def _serve_batch(request: dict[str, Any], token: bytes, answers: int, settings: Settings) -> None:
    """Answer one set of arguments after another; output is captured here and sent with each answer."""
    for arguments in request["arguments"]:
        captured = [io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True) for _ in "ab"]
        sys.stdout, sys.stderr = captured
        text = _answer(request, arguments, settings)
        fields = {}
        for name, stream in zip(("stdout", "stderr"), captured, strict=True):
            fields[name] = _captured_text(stream, settings.output_bytes)
        extra = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
        _write(answers, frames.pack(frames.ANSWER, token + text[:-1] + b", " + extra[1:]))


def _captured_text(stream: io.TextIOWrapper, limit: int) -> str:
    from .capture import CappedOutput

    output = CappedOutput(limit)
    with contextlib.suppress(ValueError):
        output.add(stream.buffer.getvalue())  # type: ignore[attr-defined]
    return output.text()


def _answer(request: dict[str, Any], arguments: dict[str, Any], settings: Settings) -> bytes:
    """Execute once. Returns the answer, a JSON object that is not empty."""
    # Released when memory runs out, so that the report fits. Never touched, so it takes addresses but no pages.
    reserve = mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    module = execute.new_module()
    try:
        _seed(request["seed"])
        if request["name"] is None:
            execute.run_block(request["code"], request["functions"], module)
            return b'{"status": "ok", "value": null}'
        value = execute.call_function(request["functions"], request["name"], arguments, module)
        return b'{"status": "ok", "value": ' + to_json_text(value, settings.result_bytes) + b"}"
    except ValueTooLarge as error:
        status, text = "result_too_large", str(error)
    except MemoryError as error:
        reserve.close()
        status, text = "memory", _describe_memory(error, module)
    except BaseException as error:  # noqa: BLE001 - the answer is whatever untrusted code raises
        status, text = "exception", execute.describe(error)
    fields = {"status": status, "error": text}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")


def _describe_memory(error: MemoryError, module: ModuleType) -> str:
    try:
        return execute.describe(error)
    except MemoryError:
        error.__traceback__ = None
        module.__dict__.clear()
        return "MemoryError"
