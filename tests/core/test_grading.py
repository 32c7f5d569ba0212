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
