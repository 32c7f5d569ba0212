"""Text that models, files and strangers' run folders decide about, as it may be shown."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Control characters but line breaks and tabs, marks of direction, invisible tags, and halves of surrogate pairs."""
_ESCAPES = re.compile(
    r"\\(?:(u(?:00[01][0-9a-f]|007f|00[89][0-9a-f]|061c|200[ef]|202[a-e]|206[6-9a-f]|fff[9ab]|db40\\udc[0-7][0-9a-f])"
    r"|[bf])|.)"
)
"""The same characters as ASCII JSON writes them; any other escape is matched whole and kept."""
MOST_SHOWN = 80
"""Characters of a value that an error quotes."""


def printable(text: str) -> str:
    """``text`` without what could control a terminal: escapes, returns to the line's start, changes of direction.

    Models, files and strangers' run folders decide about most of what is shown.
    """
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def printable_json(value: Any) -> str:
    """``value`` as compact ASCII JSON whose texts are printable; numbers that JSON does not have become text."""
    try:
        text = _dumps(value)
    except ValueError:
        text = _dumps(_finite(value))
    return _ESCAPES.sub(lambda each: "\\ufffd" if each[1] else each[0], text.replace("\x7f", "\\ufffd"))


def escaped_json(value: Any) -> str:
    """``value`` as JSON in which what :func:`printable` would replace is an escape, so that nothing is lost."""
    return _CONTROLS.sub(_escape, json.dumps(value, ensure_ascii=False))


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value if not isinstance(value, float) or value - value == 0 else str(value)


def quoted(value: Any, most: int = MOST_SHOWN) -> str:
    """``value`` as errors quote it: JSON, cut to ``most`` characters. Never raises."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a nesting without end
        text = f"a very large {'number' if isinstance(value, int) else 'value'}"
    return short(text, most)


def short(text: str, most: int = MOST_SHOWN) -> str:
    """``text`` cut to ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


class PrintableFormatter(logging.Formatter):
    """Formats messages of a log so that showing the log cannot control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
