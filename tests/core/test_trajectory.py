"""Attempts, the rollouts that they become when graded, and their rows on disk."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from agentopt_local.chat import Message, Usage
from agentopt_local.grading import Grade
from agentopt_local.trajectory import Attempt, Step, ToolRun, Trajectory, function_use

RIGHT, WRONG = Grade(reward=1.0, reason="correct"), Grade(reward=0.5, reason="half")


def attempt(*runs: ToolRun) -> Attempt:
    return Attempt(
        problem_id="p", functions="f", seed=3, steps=(Step(message=Message(role="assistant"), executed=runs),),
        answer="1", stop_reason="answer", usage=Usage(requests=1), wall_s=0.5, context_tokens=9,
    )  # fmt: skip


def call(name: str, ok: bool = True) -> ToolRun:
    return ToolRun(name=name, arguments={}, ok=ok, result="x")


def test_a_graded_attempt_is_a_rollout_with_the_same_fields() -> None:
    tried = attempt(call("one"))
    rollout = tried.graded(RIGHT)
    assert type(rollout) is Trajectory
    assert rollout.model_dump(exclude={"grade", "copied"}) == tried.model_dump()
    assert (rollout.grade, rollout.correct) == (RIGHT, True)
    assert not rollout.graded(WRONG).correct, "partial credit is not a solved problem"


def test_the_keys_on_disk() -> None:
    row = attempt().graded(WRONG).model_dump(mode="json")
    assert list(row) == [
        "problem_id", "functions", "view", "seed", "steps", "answer", "stop_reason", "usage", "wall_s",
        "context_tokens", "error", "offered", "grade", "copied",
    ]  # fmt: skip
    assert set(row["steps"][0]) == {"message", "executed", "observations"}


def test_a_row_from_before_there_were_refused_prompts_is_read() -> None:
    rollout = attempt(call("one")).graded(RIGHT)
    row = json.loads(rollout.model_dump_json())
    del row["error"]
    assert Trajectory.model_validate(row) == rollout


@pytest.mark.parametrize("missing", [True, False])
def test_a_row_without_a_grade_is_not_a_rollout(missing: bool) -> None:
    row = json.loads(attempt().graded(RIGHT).model_dump_json())
    row["grade"] = None
    if missing:
        del row["grade"]
    with pytest.raises(ValidationError, match="grade"):
        Trajectory.model_validate(row)


def test_how_a_function_was_used() -> None:
    code = ToolRun(name="python", arguments={"code": "print(one())"}, ok=False, result="")
    rollouts = [
        attempt(call("one"), call("one", ok=False)).graded(RIGHT), attempt(code).graded(WRONG),
        attempt(call("two")).graded(RIGHT),
    ]  # fmt: skip
    assert function_use("one", rollouts) == {"calls": 2, "ok": 1, "problems": 2, "only_in_code": 1, "solved": 1}
    assert attempt(code).used("one")
    assert not attempt(code).used("one", without_error=True)


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("print(one(2))", True),
        ("x = one (2)\nprint(x == 2)", True),
        ("def one(a):\n    return a\nprint(one(2))", False),
        ("one = lambda a: a\nprint(one(2))", False),
        ("def other():\n    return one(2)\nprint(other())", True),
        ("print(one(a=1) == one(b=2))", True),
        ("print(someone(2))", False),
    ],
)
def test_a_function_is_not_credited_for_code_that_defines_its_own(code: str, used: bool) -> None:
    assert attempt(ToolRun(name="python", arguments={"code": code}, ok=True, result="2")).used("one") is used
