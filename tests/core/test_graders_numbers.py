"""Numbers in any notation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt_local.graders.numbers import numeric


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("72", "72"),
        ("72.0", "72"),
        (" 72. ", "72"),
        ("+72", "72"),
        ("1,234,567.50", "1234567.5"),
        ("$1,234", "1234"),
        ("-$5", "-5"),
        ("−5", "-5"),
        ("50%", "50"),
        ("50 \\%", "50"),
        ("3/4", "0.75"),
        ("6 / 8", "3/4"),
        ("1 3/4", "1.75"),
        ("-1 3/4", "-1.75"),
        ("1½", "1.5"),
        ("\\frac{3}{4}", "0.75"),
        ("-\\dfrac{3}{4}", "-3/4"),
        ("1\\frac{3}{4}", "7/4"),
        ("$\\frac{3}{4}$", "3/4"),
        ("\\(12\\)", "12"),
        ("1e3", "1000"),
        ("2.5E-3", "0.0025"),
        (".5", "0.5"),
        ("0.3333333", "1/3"),
        ("71.99999999999", "72"),
        ("18 dollars", "18 dollars"),
        ("18", "18 Dollars."),
        ("0", "0.0"),
        ("no number", "No number."),
    ],
)
def test_numeric_takes_equal_numbers(answer: str, expected: str) -> None:
    assert numeric(answer, expected).correct


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("73", "72"),
        ("-72", "72"),
        ("0.333", "1/3"),
        ("1234568", "1234567"),
        ("1234567.5", "1234567"),
        ("12,34", "1234"),
        ("1,2345", "12345"),
        ("72 or 73", "72"),
        ("2 million", "2"),
        ("18 euros", "18 dollars"),
        ("the answer is 72", "72"),
        ("7²", "72"),
        ("5^2", "5"),
        ("1/0", "0"),
        ("1/2/3", "1/6"),
        ("3.5.2", "3.5"),
        ("50%", "0.5"),
        ("1e999999999", "1"),
        ("9" * 5000, "9"),
        ("inf", "1"),
        ("nan", "1"),
        ("--5", "5"),
        ("0.0000001", "0"),
    ],
)
def test_numeric_refuses_others(answer: str, expected: str) -> None:
    grade = numeric(answer, expected)
    assert grade.reward == 0.0
    assert grade.reason


@given(st.integers(-(10**15), 10**15))
def test_numeric_reads_thousands_separators(number: int) -> None:
    assert numeric(f"{number:,}", str(number)).correct
    assert not numeric(f"{number + 1:,}", str(number)).correct
