"""Grading rows: ``{"gold": ..., "prediction": ..., ...}`` in, the same with ``correct`` and ``reason`` out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agentopt_local.grading import Grade, quote
from agentopt_local.json_text import NotJsonError, read_kept
from agentopt_local.plain_text import escaped_json
from agentopt_local.spelling import did_you_mean

RowGrader = Callable[[str, str, dict[str, Any]], Grade]
"""Grades ``(prediction, gold, row)``. Raises :class:`RowError` if a key of the row is wrong."""


class RowError(Exception):
    """A row cannot be graded. The message says why."""


def by_texts(grade: Callable[[str, str], Grade]) -> RowGrader:
    """The grader of rows in which only ``prediction`` and ``gold`` matter."""
    return lambda prediction, gold, row: grade(prediction, gold)


def grade_rows(lines: Iterable[bytes], grade: RowGrader) -> Iterator[tuple[dict[str, Any], bool | None]]:
    """Each line that is not blank as a graded row, in order, with its verdict; None for a bad row.

    A bad row keeps its keys and gets ``error`` and ``line``. If it is not a JSON object, its text is under ``input``.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row: Any = None
        try:
            row = _parsed(line)
            result = grade(_text(row, "prediction"), _text(row, "gold"), row)
        except RowError as error:
            given = row if isinstance(row, dict) else {"input": line.decode("utf-8", "replace").rstrip("\r\n")}
            yield {**given, "error": str(error), "line": number}, None
            continue
        yield {**row, "correct": result.correct, "reason": result.reason}, result.correct


def as_line(row: dict[str, Any]) -> bytes:
    """``row`` as a line of JSON in UTF-8."""
    return escaped_json(row).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = read_kept(line.removeprefix(b"\xef\xbb\xbf"))
    except NotJsonError as error:
        raise RowError(f"not JSON in UTF-8: {str(error)[:200]}") from None
    if not isinstance(row, dict):
        raise RowError("not a JSON object with 'gold' and 'prediction'")
    return row


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise RowError(f"no key {key!r}{did_you_mean(key, row)}")
    value = row[key]
    if value is None and key == "prediction":
        return ""  # an attempt without an answer
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return json.dumps(value)
    if not isinstance(value, str):
        raise RowError(f"key {key!r}: {quote(repr(value))} is neither text nor a number")
    if key == "gold" and not value.strip():
        raise RowError("key 'gold' is empty")
    return value
