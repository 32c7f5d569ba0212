"""Grades, and what happens when a user's grader is broken."""

from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.problem import Problem

PROBLEM = Problem(id="sum-1", question="1 + 1?", answer="2")


def test_correct_means_reward_one_up_to_rounding() -> None:
    assert Grade(reward=1.0, reason="").correct
    assert Grade(reward=1.0 - 1e-12, reason="").correct
    assert not Grade(reward=0.9999, reason="").correct
    for reward in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="reward"):
            Grade(reward=reward, reason="")


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
    ("result", "reward", "reason"),
    [((0.5, "half of it"), 0.5, "half of it"), ((True, "fine"), 1.0, "fine"), ((0, ""), 0.0, "")],
)
def test_a_grader_may_return_a_reward_with_its_reason(result: Any, reward: float, reason: str) -> None:
    grade = apply_grader("my:judge", lambda answer, expected: result, PROBLEM, "3")
    assert (grade.reward, grade.reason) == (reward, reason)


@pytest.mark.parametrize("result", [(0.5,), (0.5, None), (0.5, 3), (1.5, "x"), ("1", "x"), (0.5, "x", "y"), [0.5, "x"]])
def test_a_pair_of_anything_else_is_the_users_mistake(result: Any) -> None:
    with pytest.raises(ConfigError, match=r"my:judge.*sum-1.*a pair \(float, reason\)"):
        apply_grader("my:judge", lambda answer, expected: result, PROBLEM, "3")


def test_a_grader_with_a_third_parameter_gets_the_row() -> None:
    problem = PROBLEM.model_copy(update={"metadata": {"level": 3}, "kind": "sums"})
    whole = {"id": "sum-1", "kind": "sums", "question": "1 + 1?", "answer": "2", "level": 3}
    for grader in (
        lambda answer, expected, row: row == whole,
        lambda answer, expected, anything: anything == whole,
        lambda answer, expected, row=None: row == whole,
        lambda answer, expected, limit=1: limit == 1,
        lambda answer, expected, *rest: rest == (),
    ):
        assert apply_grader("my:judge", grader, problem, "3").correct
    assert apply_grader("my:judge", lambda answer, expected, row: row == {"x": 1}, problem, "3", row={"x": 1}).correct


def test_a_grader_cannot_change_the_row() -> None:
    row = {"x": 1}
    apply_grader("my:judge", lambda answer, expected, row: row.pop("x") == 1, PROBLEM, "3", row=row)
    assert row == {"x": 1}


@pytest.mark.parametrize("grader", [lambda answer: True, lambda a, e, row, more: True, lambda a, e, *, key: True])
def test_a_grader_that_cannot_be_called_is_told(grader: Any) -> None:
    with pytest.raises(ConfigError, match=r"my:judge.*cannot be called with \(answer, expected\)"):
        apply_grader("my:judge", grader, PROBLEM, "3")
