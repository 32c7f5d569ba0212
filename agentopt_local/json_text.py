"""JSON that a model, a server or a stranger wrote: read in linear time, and only what can be kept, sent and shown."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from agentopt_local.json_escapes import repaired

MAX_DEPTH = 100
"""Deepest nesting of lists and objects. Records are written to disk with at most 255 levels, and each room that a value
passes (a request, a call in the sandbox, a row, a report) adds some of its own."""
MAX_KEPT_DEPTH = 300
"""Deepest nesting in a file of a run: rows hold values of ``MAX_DEPTH``, and older versions wrote up to 255 levels."""
_WINDOW = 4096
"""Characters that are read at first: a failure costs time for all of the text that the decoder was given."""
_TORN = 16
"""An error this near to a window's end may come from the cut: longer than every literal and escape of JSON."""
_SPACE = re.compile(r"\s*")


class NotJsonError(ValueError):
    """There is no JSON value, or none that can be kept. The message says why, for a model to act on."""

    reached: int = 0
    """The offset up to which the text was read."""


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# strict=False allows raw line breaks inside strings, as models write code in arguments.
_EXACT = json.JSONDecoder(strict=False, parse_constant=_reject_constant)
_STRING = re.compile(r'((?:[^"\\]++|\\.)*+)"', re.DOTALL)


def _read_string(text: str, at: int, strict: bool) -> tuple[str, int]:
    found = _STRING.match(text, at)
    if found is None:
        raise json.JSONDecodeError("Unterminated string starting at", text, at - 1)
    inside = found[1]
    if "\\" not in inside:
        return inside, found.end()
    return scanstring(repaired(inside) + '"', 0, strict)[0], found.end()


def _decoder_of_models() -> json.JSONDecoder:
    """A decoder that leaves the backslashes of LaTeX, of paths and of patterns alone."""
    decoder: Any = json.JSONDecoder(strict=False, parse_constant=_reject_constant)
    decoder.parse_string = _read_string
    decoder.scan_once = py_make_scanner(decoder)  # the one in C reads strings by itself
    return decoder  # type: ignore[no-any-return]


_LENIENT = _decoder_of_models()


def read_json(text: str, at: int = 0, *, exact: bool = False) -> tuple[Any, int]:
    """The JSON value that starts at ``at``, perhaps after white space, and the offset of its end.

    A model wrote the text: backslashes that it did not double are read by the rule of
    :mod:`~agentopt_local.json_escapes`. ``exact``: a program wrote it, so an escape is an escape.
    Raises NotJsonError if there is none, or it does not pass :func:`check_json`.
    """
    spaces = _SPACE.match(text, at)
    start = spaces.end() if spaces else at
    size = _WINDOW
    while True:
        window = text[start : start + size]
        cut = start + size < len(text)
        reached = start + len(window)
        try:
            decoder = _EXACT if exact or "\\" not in window else _LENIENT
            value, end = decoder.raw_decode(window)
            if not (cut and end == size):  # a number may go on beyond the window
                check_json(value)
                return value, start + end
        except json.JSONDecodeError as error:
            torn = error.pos > size - _TORN or error.msg.startswith("Unterminated string")
            if not (cut and torn):
                reached = reached if torn else start + error.pos
                raise _fault(f"{error.msg} at character {start + error.pos}", reached) from None
        except RecursionError:
            raise _fault(f"it is nested more than {MAX_DEPTH} levels deep", reached) from None
        except ValueError as error:
            raise _fault(str(error), reached) from None
        size *= 8


def only_object(text: str) -> Any:
    """The JSON object in a reply, perhaps with prose around it. Raises NotJsonError if there is not exactly one."""
    value, end = read_json(text, max(0, text.find("{")))
    if text.find("}", end) >= 0:
        raise _fault(f"only one object is wanted, and more follows at character {end}")
    return value


def read_file(data: bytes) -> Any:
    """The JSON value that a file or a line of a file is. Raises NotJsonError, also for what :func:`check_json` does."""
    value = _whole(data, MAX_DEPTH, parse_constant=_reject_constant)
    check_json(value)
    return value


def read_kept(data: bytes) -> Any:
    """The JSON value that a file of a run, or a row of it, is. Raises NotJsonError.

    Numbers that are not finite and halves of surrogate pairs pass, because older versions wrote them among the values
    of calls; no field of a record takes such a number.
    """
    return _whole(data, MAX_KEPT_DEPTH)


def _whole(data: bytes, depth: int, **options: Any) -> Any:
    try:
        value = json.loads(data.decode("utf-8"), **options)
    except UnicodeDecodeError as error:
        raise _fault(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except RecursionError:
        raise _fault(f"it is nested more than {depth} levels deep") from None
    except ValueError as error:
        raise _fault(str(error)) from None
    if data.count(b"[") + data.count(b"{") > depth:
        _check_depth(value, depth)
    return value


def _check_depth(value: Any, depth: int) -> None:
    level = [value]
    for _ in range(depth + 1):
        level = [item for each in level if isinstance(each, list | dict) for item in _items(each)]
        if not level:
            return
    raise _fault(f"it is nested more than {depth} levels deep")


def check_json(value: Any) -> None:
    """Raise NotJsonError for a value that JSON cannot express, or that something later would refuse.

    That is: a nesting deeper than ``MAX_DEPTH``, a number that is infinite or has thousands of digits, and text with a
    lone surrogate, which can be neither tokenized nor sent.
    """
    _check_depth(value, MAX_DEPTH)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise _fault("it holds half of a surrogate pair, such as \\ud800; write whole characters") from None
    except (ValueError, TypeError) as error:
        raise _fault(str(error)) from None


def _items(value: list[Any] | dict[str, Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _fault(message: str, reached: int = 0) -> NotJsonError:
    error = NotJsonError(message)
    error.reached = reached
    return error
