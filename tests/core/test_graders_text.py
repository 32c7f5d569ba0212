"""Graders that compare texts."""

import pytest

from agentopt_local.graders.text import exact, normalized


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [(" a b ", "a b", True), ("A b", "a b", False), ("a  b", "a b", False), ("a b.", "a b", False)],
)
def test_exact(answer: str, expected: str, right: bool) -> None:
    assert exact(answer, expected).correct is right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("  The  CAT.", "the cat", True),
        ("the\ncat", "The cat.", True),
        ("ｃａｔ", "cat", True),
        ("e\u0301", "é", True),
        ("Straße", "STRASSE", True),
        ("x²", "x2", False),
        ("cat!", "cat", False),
        ("a cat", "cat", False),
        (".", ".", True),
    ],
)
def test_normalized(answer: str, expected: str, right: bool) -> None:
    assert normalized(answer, expected).correct is right
