"""Majority votes: the task's grader decides which answers are the same, unless it would tell which are right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentopt_local.chat import Usage
from agentopt_local.errors import ConfigError, SandboxError
from agentopt_local.grading import Grade, as_grade
from agentopt_local.problem import Problem
from agentopt_local.sandbox import open_sandbox
from agentopt_local.tasks.catalog import load_task
from agentopt_local.tasks.row_task import GivenRow, Place, RowsTask
from agentopt_local.trajectory import Trajectory
from agentopt_local.voting import MAX_CLASSES, Ballot, same_text

PROBLEM = Problem(id="p", question="?", answer="12")


class Graded:
    """A task that grades with a function and counts."""

    def __init__(self, right: Callable[[str, str], Any]) -> None:
        self.right = right
        self.gradings = 0

    def problems(self, split: str, n: int) -> tuple[Problem, ...]:
        return (PROBLEM,)[:n]

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> Grade:
        self.gradings += 1
        return as_grade("test", self.right(answer or "", problem.answer), problem, answer or "")


def attempt(answer: str | None, number: int) -> Trajectory:
    return Trajectory(
        problem_id=str(number), functions="f", seed=0, steps=(), answer=answer, stop_reason="answer", usage=Usage(),
        wall_s=0.0, grade=Grade(reward=0.0, reason=""),
    )  # fmt: skip


def elected(task: Any, *answers: str | None, problem: Problem = PROBLEM, sandbox: Any = None) -> str | None:
    votes = [attempt(answer, number) for number, answer in enumerate(answers)]
    return asyncio.run(Ballot(task, sandbox).elect(problem, votes)).answer


def without_brackets(answer: str, expected: str) -> bool:
    return answer.strip("() ") == expected.strip("() ")


def test_answers_that_the_grader_takes_for_equal_are_one_class() -> None:
    task = Graded(without_brackets)
    assert elected(task, "7", "7", "(12)", "12", "( 12 )") == "(12)"
    assert elected(task, "7", "7", "(12)", "13") == "7"
    assert elected(Graded(str.__eq__), "7", "7", "(12)", "12", "( 12 )") == "7", "these have another grader"


def test_the_grader_is_asked_both_ways() -> None:
    """A unit is optional in an answer, not in the expected one."""
    task = Graded(lambda answer, expected: expected.startswith(answer))
    assert elected(task, "3", "5 cm", "5") == "5 cm"
    assert elected(task, "3", "5", "5 cm") == "5"


def test_a_grader_that_does_not_go_by_the_expected_answer_never_tells_what_is_right() -> None:
    """Any multiple of 6 is right, whatever is expected: the grader would unite the right answers and no others."""
    task = Graded(lambda answer, expected: int(answer) % 6 == 0)
    assert elected(task, "7", "7", "12", "18", "24") == "7"
    assert elected(Graded(lambda answer, expected: answer in ("12", expected)), "7", "7", "12", "12.0", " 12 ") == "12"


def test_a_grader_that_cannot_read_an_answer_as_an_expected_one_keeps_it_apart() -> None:
    def strict(answer: str, expected: str) -> bool:
        if not expected.isdigit():
            raise ConfigError("the expected answer must be a number")
        return answer in (expected, f"{expected}.0")

    assert elected(Graded(strict), "x", "x", "5", "5.0", "5") == "5"
    assert elected(Graded(strict), "x", "x", "5", "y") == "x"


def test_texts_are_compared_where_the_grader_cannot() -> None:
    blind = Graded(lambda answer, expected: True)
    assert elected(blind, "3", "1/2", None, "0.5", "3.0", " 0.50") == "1/2"
    assert same_text("A  b") == same_text("a B")
    assert same_text("5 cm") != same_text("5 m")


def test_what_is_not_answered_does_not_vote_and_ties_go_to_the_first() -> None:
    task = Graded(str.__eq__)
    assert elected(task, None, " ", "b", "a", "a", "b") == "b"
    assert elected(task, None, "", "a") == "a"
    assert elected(task, None, " ") is None
    assert task.gradings > 0
    assert elected(Graded(lambda *_: 1 / 0), "4", "4 ", "4") == "4", "one text alone needs no grader"


def test_the_number_of_gradings_is_bounded() -> None:
    task = Graded(str.__eq__)
    elected(task, *(str(number) for number in range(40)))
    assert task.gradings <= 2 + 2 * 40 * MAX_CLASSES


def test_a_broken_sandbox_is_no_vote() -> None:
    def broken(answer: str, expected: str) -> bool:
        raise SandboxError("gone")

    with pytest.raises(SandboxError, match="gone"):
        elected(Graded(broken), "1", "2")


@pytest.mark.parametrize(
    ("grader", "answers", "winner"),
    [
        ("numeric", ("8", "8", "1/2", "0.5", "50%"), "8"),
        ("numeric", ("8", "1/2", "0.5"), "1/2"),
        ("math", ("(1,3)", "(1,2)", "(1, 2)", "\\left(1,2\\right)", "(1,3)"), "(1,2)"),
        ("exact", ("A", "A", "a", "a ", "a"), "a"),
    ],
)
def test_the_graders_of_tasks_decide(grader: str, answers: tuple[str, ...], winner: str) -> None:
    row = {"question": "q", "answer": "4", "split": "test"}
    task = RowsTask("rows", [GivenRow(Place("row", 0), row)], source="rows", stem="row", grader=grader)
    [problem] = task.problems("test", 1)
    assert elected(task, *answers, problem=problem) == winner


def test_scorers_of_reasoning_gym_decide_unless_they_know_the_right_answer() -> None:
    """One compares with its entry's answer, the other checks a derivative, whatever its entry's answer is."""

    async def vote(name: str, answers: Callable[[str], tuple[str, ...]]) -> str | None:
        task = load_task(f"reasoning_gym:{name}")
        [problem] = task.problems("test", 1)
        async with open_sandbox(workers=1, preload=task.preload) as sandbox:
            votes = [attempt(answer, number) for number, answer in enumerate(answers(problem.answer))]
            return (await Ballot(task, sandbox).elect(problem, votes)).answer

    same = asyncio.run(vote("polynomial_multiplication", lambda right: ("9", "9", "x + 1", "1 + x", "x+1")))
    assert same == "x + 1"
    right = asyncio.run(vote("simple_integration", lambda right: ("9", "9", right, f"{right} + 1", f"{right} + 2")))
    assert right == "9", "all of the last three are right, and no two are the same text"
    evil = asyncio.run(vote("polynomial_multiplication", lambda right: ("9", "9", "exec('x')", "x", "x")))
    assert evil == "9"
