"""A server's error, read into one form whatever its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentopt_local.models.waiting import asked_wait_s, seconds_in
from agentopt_local.record import Record

READ = 1 << 16
"""Characters of an error that are read."""
SHOWN = 500
"""Characters of an error's words that are shown."""
_DEPTH = 12
_PARTS = 200
_WORDS = ("message", "msg", "error_msg", "status_msg", "detail", "error_description", "error", "title", "raw", "reason")
_CODES = ("code", "type", "error_type", "status", "status_code", "statusCode", "reason", "error_code")
_FIELDS = ("param", "loc", "field")
_INSIDE = (
    *("error", "errors", "detail", "details", "message", "metadata"),
    *("innererror", "raw", "cause", "response", "base_resp"),
)
# What a validator quotes of the request ("input") is not read: it may be anything.

_BY_CODE = (
    (429, re.compile(r"rate.?limit|resource.?exhausted|throttl|too.?many.?requests|quota")),
    (503, re.compile(r"overload|unavailable|capacity")),
    (504, re.compile(r"time.?out|deadline")),
    (500, re.compile(r"server.?error|internal|api_error|engine")),
    (401, re.compile(r"authenticat|unauthorized|invalid_api_key")),
    (403, re.compile(r"permission|forbidden")),
    (404, re.compile(r"not.?found")),
    (400, re.compile(r"invalid|bad.?request|unsupported|validation|precondition|context|content|badrequest")),
)
"""The status that codes stand for, where an error comes with status 200."""


class Refusal(Record):
    """A server's error."""

    status: int
    """Of HTTP; where that is 200, the one that the error states or its codes stand for."""
    words: str
    """Its messages, redacted."""
    codes: str = ""
    """Its codes and types, in lower case."""
    fields: tuple[str, ...] = ()
    """The fields of the request that it names."""
    wait_s: float | None = None
    """How many seconds it asks to wait."""
    sampled: str | None = None
    """What the model wrote, where the server rejects that."""

    @property
    def said(self) -> str:
        """All that it says, in lower case, for a reader that looks for words."""
        return " | ".join([self.words, self.codes, *self.fields])[:READ].lower()

    @property
    def shown(self) -> str:
        """Its words and the fields that it names, for a message."""
        parts = [self.words, *(each for each in self.fields if each not in self.words)]
        return " ".join(" | ".join(parts).split())[:SHOWN] or f"status {self.status}, without a word"


def read_refusal(status: int, text: str, headers: Mapping[str, str], redact: Callable[[str], str]) -> Refusal:
    """The error in an answer with ``status`` and body ``text``. ``redact`` masks what must not be kept."""
    value = _json(text[:READ])
    if value is None:
        words = " ".join(re.sub(r"<(?:style|script)\b[^<>]*>[^<]*|<[^<>]*>", " ", text[:READ]).split())
        found = _Found([words] if words else [], [], [], None, None)
    else:
        found = _Found([], [], [], None, None)
        _walk(value, found, 0)
        if not (found.words or found.codes):
            found.words.append(text[:READ])
    codes = " ".join(found.codes).lower()
    wait_s = asked_wait_s(headers)
    return Refusal(
        status=_status(status, found.codes, codes),
        words=redact(" | ".join(dict.fromkeys(found.words + _telling(found.codes)))),
        codes=redact(codes),
        fields=tuple(redact(each) for each in dict.fromkeys(found.fields)),
        wait_s=found.wait_s if wait_s is None else wait_s,
        sampled=None if found.sampled is None else redact(found.sampled),
    )


class _Found:
    """What a walk through an error has met."""

    def __init__(
        self, words: list[str], codes: list[str], fields: list[str], wait_s: float | None, sampled: str | None
    ) -> None:
        self.words, self.codes, self.fields, self.wait_s, self.sampled = words, codes, fields, wait_s, sampled


def _walk(value: Any, found: _Found, depth: int) -> None:
    if depth > _DEPTH or len(found.words) + len(found.codes) > _PARTS:
        return
    if isinstance(value, dict):
        for name in _WORDS:
            if isinstance(value.get(name), str):
                _walk(value[name], found, depth + 1)
        _note(value, found)
        for name in _INSIDE:
            if isinstance(value.get(name), dict | list):
                _walk(value[name], found, depth + 1)
    elif isinstance(value, list):
        for each in value[:_PARTS]:
            _walk(each, found, depth + 1)
    elif isinstance(value, str):
        inner = _json(value) if value.lstrip()[:1] in ("{", "[") else None
        if isinstance(inner, dict | list) and inner:
            _walk(inner, found, depth + 1)
        elif value.strip():
            found.words.append(value.strip())


def _note(value: dict[str, Any], found: _Found) -> None:
    """Note the codes, fields and times of one level."""
    found.codes += [str(value[name])[:200] for name in _CODES if isinstance(value.get(name), str | int)]
    for name in _FIELDS:
        each = value.get(name)
        if isinstance(each, str | list) and each:
            found.fields.append(each if isinstance(each, str) else ".".join(map(str, each[:20])))
    if isinstance(value.get("failed_generation"), str):
        found.sampled = value["failed_generation"]
    if found.wait_s is None:
        found.wait_s = seconds_in(value.get("retryDelay"))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _telling(codes: Sequence[str]) -> list[str]:
    """The codes that a reader learns something from."""
    return [code for code in codes if re.search("[a-z]_[a-z]", code, re.I) and not code.lower().endswith("error")]


def _status(status: int, each: Sequence[str], codes: str) -> int:
    if status != 200:
        return status
    given = [int(code) for code in each if re.fullmatch("[45][0-9][0-9]", code)]
    if given:
        return given[0]
    return next((meant for meant, pattern in _BY_CODE if pattern.search(codes)), 502)
