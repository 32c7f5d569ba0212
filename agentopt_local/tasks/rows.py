"""Grading rows: ``{"gold": ..., "prediction": ..., ...}`` in, the same with ``correct`` and ``reason`` out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from agentopt_local.errors import ConfigError
from agentopt_local.grading import Grade, quote
from agentopt_local.task import did_you_mean

RowGrader = Callable[[str, str, dict[str, Any]], Grade]
"""Grades ``(prediction, gold, row)``."""

TASKS = ("math", "math_exact", "tabmwp", "gaia", "gsm8k")
LENIENT = ("tabmwp", "gaia")
"""The tasks whose official rule has a lenient variant."""


class RowError(Exception):
    """A row cannot be graded. The message says why."""


def row_grader(task: str, *, lenient: bool = False) -> RowGrader:
    """The grader of ``task``. Raises ConfigError for an unknown one, or for one without a lenient variant."""
    if task not in TASKS:
        raise ConfigError(f"task {task!r} is not known{did_you_mean(task, TASKS)}. Use one of: {', '.join(TASKS)}")
    if lenient and task not in LENIENT:
        raise ConfigError(f"task {task!r} has no lenient variant; only {' and '.join(LENIENT)} have one")
    if task == "tabmwp":
        from agentopt_local.graders.tabmwp import tabmwp, tabmwp_lenient

        rule = tabmwp_lenient if lenient else tabmwp
        return lambda answer, gold, row: rule(answer, gold, unit=_unit(row), choices=_choices(row))
    grade: Callable[[str, str], Grade]
    if task == "gaia":
        from agentopt_local.graders.gaia import gaia, gaia_lenient

        grade = gaia_lenient if lenient else gaia
    elif task == "gsm8k":
        from agentopt_local.graders.gsm8k import gsm8k as grade
    else:
        from agentopt_local.graders import math as graders

        grade = graders.math if task == "math" else graders.math_exact
    return lambda answer, gold, row: grade(answer, gold)


def grade_rows(lines: Iterable[bytes], grade: RowGrader) -> Iterator[tuple[dict[str, Any], bool | None]]:
    """One graded row per line that is not blank, in order, and its verdict; None for a bad row.

    A bad row gets ``error`` and ``line``, beside what it holds, or ``input`` where it is no JSON object.
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
    """A row as a line of JSON in UTF-8."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
        return json.dumps(row).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=lambda name: math.nan)
    except (ValueError, RecursionError) as error:
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


def _unit(row: dict[str, Any]) -> str | None:
    unit = row.get("unit")
    if unit is not None and not isinstance(unit, str):
        raise RowError(f"key 'unit': {quote(repr(unit))} is not text")
    return unit or None


def _choices(row: dict[str, Any]) -> Sequence[str] | None:
    choices = row.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(each, str) for each in choices)):
        raise RowError(f"key 'choices': {quote(repr(choices))} is not a list of texts")
    return choices or None
