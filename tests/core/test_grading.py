"""Graders: what counts as right, and what a broken grader of the user's does."""

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt_local.errors import ConfigError
from agentopt_local.graders.catalog import BUILT_IN, load_grader
from agentopt_local.graders.numbers import numeric
from agentopt_local.graders.text import exact, normalized
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.problem import Problem

PROBLEM = Problem(id="sum-1", question="1 + 1?", answer="2")


@pytest.fixture
def graders() -> Iterator[Any]:
    """An importable module for graders of the user's."""
    module = types.ModuleType("graders_of_the_user")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


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


@given(st.text(max_size=60), st.text(max_size=60))
def test_graders_never_raise_and_take_what_is_expected(answer: str, expected: str) -> None:
    for grader in BUILT_IN.values():
        assert 0.0 <= grader(answer, expected).reward <= 1.0
        assert grader(expected, expected).correct is bool(expected.strip())


@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize("answer", [None, "", "  \n"])
def test_no_answer_is_wrong_even_if_nothing_is_expected(name: str, answer: str | None) -> None:
    grade = apply_grader(name, load_grader(name), Problem(id="p", question="q", answer=answer or ""), answer)
    assert (grade.reward, grade.reason) == (0.0, "no answer was given")


def test_correct_means_reward_one_up_to_rounding() -> None:
    assert Grade(reward=1.0, reason="").correct
    assert Grade(reward=1.0 - 1e-12, reason="").correct
    assert not Grade(reward=0.9999, reason="").correct
    for reward in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="reward"):
            Grade(reward=reward, reason="")


@pytest.mark.parametrize(
    ("result", "reward"),
    [(True, 1.0), (False, 0.0), (0.25, 0.25), (1, 1.0), (Grade(reward=0.5, reason="half"), 0.5)],
)
def test_a_grader_may_return_a_bool_a_float_or_a_grade(graders: Any, result: Any, reward: float) -> None:
    graders.judge = lambda answer, expected: result
    name = "graders_of_the_user:judge"
    assert apply_grader(name, load_grader(name), PROBLEM, "3").reward == reward


async def _coroutine(answer: str, expected: str) -> bool:
    return True


@pytest.mark.parametrize("result", [None, "1", 1.5, -1, float("nan"), [1], {"reward": 1}])
def test_any_other_result_is_the_users_mistake(result: Any) -> None:
    with pytest.raises(ConfigError, match=r"my:judge.*sum-1.*must return"):
        apply_grader("my:judge", lambda answer, expected: result, PROBLEM, "3")


def test_an_async_grader_is_refused_without_a_warning() -> None:
    with pytest.raises(ConfigError, match="must return a bool"):
        apply_grader("my:judge", _coroutine, PROBLEM, "3")


def test_a_grader_that_raises_stops_the_run_with_its_name_problem_and_error() -> None:
    def judge(answer: str, expected: str) -> bool:
        return int(answer) == int(expected)

    with pytest.raises(ConfigError) as error:
        apply_grader("my:judge", judge, PROBLEM, "three")
    for piece in ("my:judge", "sum-1", "ValueError", "'three'"):
        assert piece in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numerc", "did you mean 'numeric'"),
        ("zzz", "Use one of: exact, normalized, numeric"),
        ("no_such_module_here:judge", r"no_such_module_here.*cannot be imported.*PYTHONPATH"),
        ("graders_of_the_user:jugde", "did you mean 'judge'"),
        ("graders_of_the_user:number", "'number' is a int, not a function"),
        (":judge", "module:function"),
        ("graders_of_the_user:", "module:function"),
    ],
)
def test_a_wrong_name_says_what_is_right(graders: Any, name: str, message: str) -> None:
    graders.judge, graders.number = exact, 3
    with pytest.raises(ConfigError, match=message):
        load_grader(name)
