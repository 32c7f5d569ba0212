"""What is sent to a worker, and which requests are refused without trying them."""

from __future__ import annotations

import json
import math
from typing import Any

from agentopt_local.sandbox.base import Execution
from agentopt_local.sandbox.zygote.frames import MAX_REQUEST_BYTES


def encode(request: dict[str, Any], timeout_s: float, count: int) -> bytes | Execution:
    """A request of ``count`` executions as JSON, or why it is refused."""
    request["cpu_s"] = min(math.ceil(timeout_s) * count + 1, 10**9)
    try:
        body = json.dumps(request, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return refused(f"the request is not JSON: {error}")
    if len(body) > MAX_REQUEST_BYTES:
        return refused(f"the request is {len(body)} bytes, over the limit of {MAX_REQUEST_BYTES}")
    return body


def refused(text: str) -> Execution:
    """The outcome of a request that is not sent."""
    return Execution(ok=False, status="refused", error=text)


def refuse_text(*texts: Any) -> Execution | None:
    """Why source code is refused, if it is."""
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    return refused(f"source code must be text, not {wrong[0]}") if wrong else None


def refuse_call(source: Any, name: Any, arguments: list[Any]) -> Execution | None:
    """Why a call is refused, if it is."""
    if refusal := refuse_text(source):
        return refusal
    if not isinstance(name, str) or not name.isidentifier():
        return refused(f"{repr(name)[:100]} is not the name of a function")
    if not all(isinstance(single, dict) and all(isinstance(key, str) for key in single) for single in arguments):
        return refused("arguments must be an object: parameter name -> value")
    return None
