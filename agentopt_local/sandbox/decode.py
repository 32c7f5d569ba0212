"""Turns a worker's reply into an :class:`Execution`. Only here is the child's answer parsed, within limits."""

from __future__ import annotations

import json
import math
import signal
from typing import Any, NoReturn

from agentopt_local.sandbox.base import Execution, ExecutionStatus, SandboxLimits
from agentopt_local.sandbox.connection import Reply
from agentopt_local.sandbox.zygote.launch_settings import EXIT_FAILED

MAX_DEPTH = 64
_OUTPUTS = ("stdout", "stderr")
MAX_BATCH_BYTES = 8 << 20
"""Bytes of JSON in all answers of one ``call_many``. As Python objects they take up to 25 times as much."""
_CHILD_STATUSES: dict[str, ExecutionStatus] = {
    "ok": "ok",
    "exception": "exception",
    "memory": "memory",
    "result_too_large": "result_too_large",
}
_MARK = 100
"""Characters in which a cut of the output is marked."""
_SIGXCPU, _SIGKILL = 24, 9
_DAMAGED = (
    "the code broke the process that it ran in: it closed or wrote to descriptors that are not its own, or replaced "
    "functions of built-in modules"
)


class Room:
    """How many bytes of answers are left to a ``call_many``; below 0 when one did not fit."""

    def __init__(self, size: int) -> None:
        self.left = size
        text = f"the results of these calls are over {size} bytes of JSON together: return less, or make fewer calls"
        self.refusal = Execution(ok=False, status="result_too_large", error=text)

    def takes(self, reply: Reply) -> bool:
        """Whether a reply fits, with what its code printed. After one that did not, none does."""
        if self.left >= 0 and reply.facts["status"] != "full":
            self.left -= sum(len(part) for part in (reply.answer, *map(reply.facts.get, _OUTPUTS)) if part)
        else:
            self.left = -1
        return self.left >= 0


class AnswerError(ValueError):
    """An answer that our child program would not have written."""


def _refuse_constant(text: str) -> NoReturn:
    raise AnswerError(f"{text} is not JSON")


def _finite(text: str) -> float:
    """A number such as 1e999, which our child program would have written as text, reads as infinity."""
    value = float(text)
    if math.isinf(value):
        raise AnswerError(f"{text[:40]} is beyond the range of numbers")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def parse_answer(answer: bytes) -> dict[str, Any]:
    """The answer as a JSON object of bounded depth, without lone surrogates. Raises :class:`AnswerError`."""
    try:
        text = answer.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:
            clean = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
            value = json.loads(clean)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is not JSON: {error}"[:300]) from None
    if not isinstance(value, dict):
        raise AnswerError("the answer is not an object")
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise AnswerError(f"the answer is nested deeper than {MAX_DEPTH} levels")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        following: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(item.values())
            elif isinstance(item, list):
                following.extend(item)
        if not following:
            return False
        level = following
    return True


def to_execution(reply: Reply, limits: SandboxLimits, timeout_s: float, *, batch: bool) -> Execution:
    """The outcome of a call. Times and the supervisor's status are facts; value and error are the code's own claims."""
    facts = reply.facts
    common: dict[str, Any] = {
        "stdout": facts.get("stdout", ""),
        "stderr": facts.get("stderr", ""),
        "wall_s": facts["wall_s"],
        "cpu_s": facts["cpu_s"],
    }
    status = facts["status"]
    if status != "answered":
        return _unanswered(status, facts, limits, timeout_s, common)
    try:
        answer = parse_answer(reply.answer)
        if batch:
            common |= {name: _output(answer, name, limits.output_bytes) for name in _OUTPUTS}
        child_status = _CHILD_STATUSES.get(_text(answer, "status"))
        if child_status is None:
            raise AnswerError("the answer has an unknown status")
        if child_status == "ok":
            if "value" not in answer:
                raise AnswerError("the answer has no value")
            value = answer["value"]
            if len(reply.answer) > limits.result_bytes and _json_bytes(value) > limits.result_bytes:
                return _unanswered("result_too_large", facts, limits, timeout_s, common)
            return Execution(ok=True, value=value, **common)
        return Execution(ok=False, status=child_status, error=_child_error(child_status, answer, limits), **common)
    except AnswerError as error:
        text = f"{_DAMAGED} ({error})"
        return Execution(ok=False, status="crashed", error=text, **common)


def _json_bytes(value: Any) -> int:
    """The size that the child program limits."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def _text(answer: dict[str, Any], key: str) -> str:
    value = answer.get(key, "")
    if not isinstance(value, str):
        raise AnswerError(f"the answer's {key} is not text")
    return value


def _output(answer: dict[str, Any], key: str, limit: int) -> str:
    text = _text(answer, key)
    if len(text) > limit + _MARK:
        raise AnswerError(f"the answer's {key} is over its limit")
    return text


def _child_error(status: ExecutionStatus, answer: dict[str, Any], limits: SandboxLimits) -> str:
    error = _text(answer, "error")[:4096]
    if status == "memory":
        return f"{error} (the limit is {limits.memory_bytes >> 20} MiB: use less memory)"
    return error or "the code failed without a message"


def _unanswered(
    status: str, facts: dict[str, Any], limits: SandboxLimits, timeout_s: float, common: dict[str, Any]
) -> Execution:
    texts: dict[str, tuple[ExecutionStatus, str]] = {
        "timeout": (
            "timeout",
            f"TimeoutError: no result within {timeout_s:g} s; use a faster method, smaller inputs, loops that end",
        ),
        "output_limit": ("output_limit", "the code printed more than 16 MiB; print less"),
        "result_too_large": (
            "result_too_large",
            f"the result is over the limit of {limits.result_bytes} bytes of JSON: return less",
        ),
        "disk_limit": ("disk_limit", "the code wrote too much to its folder; write less"),
        "cancelled": ("cancelled", "the call was cancelled"),
        "not_ready": ("worker_lost", "no process could be started for the code in time; the call can be repeated"),
    }
    if status in texts:
        kind, text = texts[status]
        return Execution(ok=False, status=kind, error=text, **common)
    code = facts.get("exit")
    if status == "damaged" or code == EXIT_FAILED:
        return Execution(ok=False, status="crashed", error=_DAMAGED, **common)
    if code in (-_SIGXCPU, -_SIGKILL) and facts["cpu_s"] >= timeout_s:
        return Execution(ok=False, status="timeout", error=texts["timeout"][1], **common)
    return Execution(ok=False, status="crashed", error=_describe_end(code), **common)


_SIGNALS: dict[int, str] = {
    4: "an illegal instruction",
    6: "an abort",
    7: "a bus error",
    8: "an arithmetic fault",
    9: "a kill signal, perhaps for lack of memory",
    11: "a segmentation fault, perhaps by too deep recursion",
    24: "its processor time limit",
    31: "a forbidden system call",
}


def _describe_end(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the process ended without a result (exit code {code}); do not exit, return a value"
    return f"the process was ended by {_SIGNALS.get(-code) or _signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return f"the signal {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"
