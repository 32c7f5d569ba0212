"""One function for everything that is printed (DEFECTS 11)."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest

from agentopt_local.plain_text import PrintableFormatter, escaped_json, printable, printable_json, quoted

CONTROLS = {
    "escape": "\x1b[2J",
    "title": "\x1b]0;x\x07",
    "8-bit escape": "\x9b2J",
    "8-bit string": "\x90x\x9c",
    "return": "x\ry",
    "backspace": "x\b\by",
    "delete": "x\x7f",
    "form feed": "\f",
    "vertical tab": "\v",
    "null": "\0",
    "shift out": "\x0e",
    "override": "\u202e",
    "isolate": "\u2066",
    "mark": "\u200f",
    "Arabic mark": "\u061c",
    "old shaping": "\u206a",
    "annotation": "\ufff9",
    "tag": "\U000e0041",
    "half a pair": "\ud800",
}
KEPT = [
    "a\tb\n",
    "é ü ß",
    "日本語",
    "שלום",
    "😀",
    "👨\u200d👩\u200d👧",
    "a\u0301",
    "−½",
    "\\x1b",
    "\\u001b",
    "\u2028",
    "\xa0",
]


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_become_marks(name: str) -> None:
    text = CONTROLS[name]
    shown = printable(f"a{text}b")
    assert "\ufffd" in shown
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\x90", "\r", "\b", "\x7f", "\f", "\v", "\0", "\x0e"}
    if name not in ("half a pair", "return"):  # which do nothing on a page
        assert json.loads(printable_json([text])) == [printable(text)]


@pytest.mark.parametrize("text", KEPT)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert json.loads(printable_json({text: [text]})) == {text: [text]}


def test_line_ends_of_windows_are_line_ends() -> None:
    assert printable("a\r\nb") == "a\nb"


def test_json_with_escapes_shows_no_control_and_loses_nothing() -> None:
    value = {"\x1b[2J": ["\x9b", "\x7f", "\u202e", "\ud800", "\U000e0041", "é\t\n√"]}
    text = escaped_json(value)
    assert text == printable(text)
    assert "é" in text and "√" in text
    assert json.loads(text) == value


def test_numbers_that_json_does_not_have_become_text() -> None:
    assert json.loads(printable_json({"a": [math.inf, 1.5], "b": (-math.inf,)})) == {"a": ["inf", 1.5], "b": ["-inf"]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(1, "1"),
        ("x" * 100, '"' + "x" * 78 + "…"),
        pytest.param(10**5000, "a very large number", id="large"),
        ({"a": {1}}, '{"a": "{1}"}'),
    ],
)
def test_values_in_errors_are_short(value: Any, shown: str) -> None:
    assert quoted(value) == shown


def test_a_nesting_without_end_is_quoted() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert quoted(value) == "a very large value"
    while value:  # freed level by level
        value = value[0]


def test_a_log_line_is_printable() -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "said %s", ("\x1b[2J",), None)
    assert PrintableFormatter("%(message)s").format(record) == "said \ufffd[2J"
