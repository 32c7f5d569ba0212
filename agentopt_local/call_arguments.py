"""The arguments of a call, however a model or a server wrote them."""

from __future__ import annotations

import json
import re
from typing import Any

from agentopt_local.json_text import NotJsonError, check_json, read_json

_NOTHING = frozenset(("", "null", "none", "undefined", "n/a"))
_LEVELS = 4
"""How often arguments may be encoded as text in text."""
_FENCE = re.compile(r"\s*```\w*")
_BETWEEN = re.compile(r"[\s;,]*+")
_AFTER = re.compile(r"(?:[\s;}`]|</?[^<>\s]{1,40}>)*+")
"""What may follow arguments: the marks that end a call, or a brace too many."""
_PYTHON = re.compile(
    r"\"(?:[^\"\\]|\\.)*+\"|'(?P<text>(?:[^'\\]|\\.)*+)'|\b(?:True|False|None)\b|,(?=\s*[}\]])", re.DOTALL
)
_AS_JSON = {"True": "true", "False": "false", "None": "null", ",": ""}


def read_arguments(given: Any) -> list[dict[str, Any]]:
    """The arguments in ``given``, which is JSON or text; empty if it cannot be read.

    Null, nothing and an empty list are no arguments: ``[{}]``. Text may be JSON encoded several times, in a fence,
    followed by the marks that end a call, or a dict as Python writes it. Several objects one after the other, as some
    servers join them, are the arguments of several calls; one that is repeated, or empty beside others, is not another.
    """
    for _ in range(_LEVELS):
        if given in (None, []) or (isinstance(given, str) and given.strip().lower() in _NOTHING):
            return [{}]
        if isinstance(given, str):
            values = _values(given)
        elif isinstance(given, list) and len(given) == 1:
            values = given
        else:
            return _usable([given])
        if len(values) != 1:
            return _usable(values)
        given = values[0]
    return []


def _usable(values: list[Any]) -> list[dict[str, Any]]:
    """``values`` without repetitions, and without empty ones beside others; empty unless all are usable objects."""
    try:
        check_json(values)
    except NotJsonError:
        return []
    if not values or not all(isinstance(value, dict) for value in values):
        return []
    distinct = {json.dumps(value, sort_keys=True): value for value in values}
    return [value for value in distinct.values() if value] or [{}]


def _values(text: str) -> list[Any]:
    """The JSON values that ``text`` consists of; empty if it holds anything else."""
    fence = _FENCE.match(text)
    text = text[fence.end() :] if fence else text
    values: list[Any] = []
    at = 0
    try:
        while at < len(text):
            value, at = read_json(text, at)
            values.append(value)
            after = _AFTER.fullmatch(text, at)
            between = _BETWEEN.match(text, at)
            at = len(text) if after or between is None else between.end()
    except NotJsonError:
        value = None if values else read_python(text)
        return [] if value is None else [value]
    return values


def read_python(text: str) -> Any:
    """A dict as Python writes it, or JSON with a comma too many; None if ``text`` is neither."""
    text = _PYTHON.sub(_as_json, text)
    try:
        value, end = read_json(text)
    except NotJsonError:
        return None
    return value if isinstance(value, dict) and _AFTER.fullmatch(text, end) else None


def _as_json(token: re.Match[str]) -> str:
    if token["text"] is None:
        return _AS_JSON.get(token[0], token[0])
    inside = re.sub(r"\\(.)|\"", lambda part: '\\"' if part[0] == '"' else part[0], token["text"], flags=re.DOTALL)
    return f'"{inside}"'


def typed(value: Any, schema: Any) -> Any:
    """``value`` with what ``schema`` wants in place of the text that a form without types leaves."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        return {key: typed(each, named.get(key, others)) for key, each in value.items()}
    if isinstance(value, list):
        return [typed(each, schema.get("items")) for each in value]
    return _typed_text(value, _kinds(schema)) if isinstance(value, str) else value


def _typed_text(text: str, kinds: set[str]) -> Any:
    word = text.strip().lower()
    if word in ("null", "none") and "null" in kinds:
        return None
    if not kinds or "string" in kinds:
        return text
    try:
        found, end = read_json(word if word in ("true", "false") else text)
    except NotJsonError:
        found, end = read_python(text), len(text)
    return text if found is None or text[end:].strip() else found


def _kinds(schema: dict[str, Any]) -> set[str]:
    """The JSON types that ``schema`` allows, as far as it says; a string if it lists one."""
    kind = schema.get("type", ())
    kinds = {kind} if isinstance(kind, str) else {each for each in kind if isinstance(each, str)}
    for option in schema.get("anyOf", ()):
        kinds |= _kinds(option) if isinstance(option, dict) else set()
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return kinds | {names.get(type(each), "object") for each in choices}
