"""Rollouts, functions and failed updates in words: what is told, what is never told, and in which order."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agentopt_local.acceptance import judge
from agentopt_local.evidence import CHARS_PER_TOKEN, Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.graders.gaia import gaia, gaia_lenient
from agentopt_local.graders.gsm8k import gsm8k
from agentopt_local.graders.math import math, math_exact
from agentopt_local.graders.numbers import numeric
from agentopt_local.graders.tabmwp import tabmwp, tabmwp_lenient
from agentopt_local.graders.text import exact, normalized
from agentopt_local.grading import Grade, as_grade, no_answer
from agentopt_local.problem import Problem
from agentopt_local.showing import failures_text, functions_text, remark, transcript_text
from agentopt_local.steps import Tried, after_step, step_row
from agentopt_local.train_state import FailedUpdate, TrainState
from agentopt_local.trajectory import PYTHON, Step, ToolRun
from agentopt_local.update import Update
from tests.tools.drafting import SHOUT, WRONG, attempt, word_problem

PROBLEM = Problem(id="p", question="Shout: sun", answer="SUN", kind="shout")
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]
ROLLOUTS = [
    *(attempt(word_problem(word)) for word in WORDS),
    *(attempt(word_problem(word, "other")) for word in ("india", "juliett", "kilo", "lima")),
]
EVIDENCE = ROLLOUTS[:1]


def running(problem: Problem, *runs: ToolRun, right: bool = False) -> Evidence:
    found = attempt(problem, answer=problem.answer if right else "dunno")
    steps = (found.trajectory.steps[0].model_copy(update={"executed": runs}),)
    return Evidence(problem=problem, trajectory=found.trajectory.model_copy(update={"steps": steps}))


def graded(grade: Grade, answer: str | None = "sun") -> Evidence:
    found = attempt(PROBLEM, answer=answer)
    return Evidence(problem=PROBLEM, trajectory=found.trajectory.model_copy(update={"grade": grade}))


# The grader's reason


@pytest.mark.parametrize(
    "grade",
    [
        exact('it\'s "4"', "5"),
        normalized("a; b (c), expected 'd'", "e"),
        numeric("3", "4"),
        math("3", "4"),
        math_exact("3", "4"),
        gsm8k("it is 3", "4"),
        tabmwp("3", "4"),
        tabmwp_lenient("3.5", "4"),
        Grade(reward=0.0, reason="wrong"),
        Grade(reward=0.0, reason=""),
        no_answer(None),
    ],
)
def test_a_reason_that_says_no_more_than_wrong_is_left_out(grade: Grade) -> None:
    assert not grade.correct
    assert remark(grade) == ""
    assert "Reason:" not in transcript_text(1, graded(grade), 2000)


@pytest.mark.parametrize(
    ("grade", "said"),
    [
        (numeric("a lot", "4"), "'a lot' is not a number"),
        (math("\\frac{1", "4"), "the answer is not understood: "),
        (gaia("1, 2, 3", "1, 2"), "answered 3 elements, '1, 2, 3'; expected 2, '1, 2'"),
        (gaia("1, 3", "1, 2"), "element 2 of the answer is '3'; expected '2' in '1, 2'"),
        (gaia_lenient("x", "4"), "compared "),
        (as_grade("mine", 0.5, PROBLEM, "sun"), "'sun' has reward 0.5"),
        (as_grade("mine", (0.0, "the unit is missing"), PROBLEM, "sun"), "the unit is missing"),
        (Grade(reward=0.4, reason="answered 'sun'; expected 'SUN' (partial credit 0.4)"), "partial credit 0.4"),
        (Grade(reward=0.0, reason="no answer was given: the filter refused it"), "the filter refused it"),
    ],
)
def test_what_a_reason_says_beyond_that_is_shown(grade: Grade, said: str) -> None:
    assert remark(grade).startswith(said)
    assert f"\nReason: {said}" in transcript_text(1, graded(grade), 2000)


def test_a_reason_takes_its_share_of_the_room_and_is_read_in_linear_time() -> None:
    long = Grade(reward=0.0, reason="expected 'answered " * 100_000)
    assert len(transcript_text(1, graded(long), 900)) <= 900
    right = graded(Grade(reward=1.0, reason="correct: after rounding"), answer="SUN")
    assert "Reason" not in transcript_text(1, right, 900)


# How functions fared


def test_direct_calls_are_told_apart_from_use_by_code() -> None:
    failing = ToolRun(name="shout", arguments={}, ok=False, result="Error: KeyError: 'x'\nline 3: y")
    called = ToolRun(name="shout", arguments={"word": "a"}, ok=True, result="A")
    coded = ToolRun(name=PYTHON, arguments={"code": "print(shout('a'))"}, ok=True, result="A")
    rare = failing.model_copy(update={"result": "Error: TypeError: z"})
    words = [word_problem(word) for word in WORDS]
    rollouts = [
        running(words[0], called, right=True),
        running(words[1], failing, failing, coded),
        running(words[2], rare),
        *(running(each, coded, right=True) for each in words[3:6]),
        running(words[6], coded),
    ]
    told = functions_text(FunctionSet.of(SHOUT), rollouts, 1000).partition("\n")[0]
    assert told == (
        "`shout(word: str) -> str`: called directly in 3 rollouts, 1 solved; used by code in 4 more, 3 solved; "
        "3 of 4 calls failed, most often: KeyError: 'x'."
    )
    told = functions_text(FunctionSet.of(SHOUT), rollouts[3:], 1000)
    assert ": never called directly; used by code in 4, 3 solved." in told
    assert ": not used in any rollout." in functions_text(FunctionSet.of(SHOUT), ROLLOUTS, 1000)


# Updates that did not help


def failure(step: int, *sources: str, **changes: Any) -> FailedUpdate:
    functions = FunctionSet.of(*sources)
    values = {"accuracy": 0.5, "accuracy_before": 0.5, "shown": ("shout-bravo",), **changes}
    actions = tuple(f"add_function {name}" for name in functions.names) or ("remove_function old",)
    return FailedUpdate(step=step, actions=actions, functions=functions, **values)


def named(name: str, source: str = WRONG) -> str:
    return source.replace("def shout", f"def {name}")


def told(*failures: FailedUpdate, tokens: int = 2000) -> str:
    return failures_text(failures, tokens, ROLLOUTS, EVIDENCE)


def test_a_failed_update_is_shown_with_its_code_and_the_problems_that_it_fixed_and_broke() -> None:
    broke = ("shout-charlie", "shout-delta", "shout-echo", "long gone")
    text = told(failure(1, named("yell"), accuracy=0.25, fixed=("shout-bravo",), broke=broke))
    assert (
        "- add_function yell: accuracy went from 0.50 to 0.25, so it was undone. It fixed 1 problem: 'Shout: bravo'. "
        f"It broke 4 problems, such as 'Shout: charlie', 'Shout: delta'.\n```python\n{named('yell')}```" in text
    )
    assert "It broke 1 problem.\n" in told(failure(1, broke=("long gone",))), "its question is not known any more"


def test_no_answer_is_told_of_a_problem_that_the_author_is_not_shown() -> None:
    ids = tuple(each.problem.id for each in ROLLOUTS)
    table = (
        'def table(word: str) -> str:\n    """Look it up."""\n'
        '    return {"bravo": "BRAVO", "charlie": "CHARLIE", "delta": "DELTA"}.get(word, word)\n'
    )
    learned = table.replace('{"bravo": "BRAVO", "charlie": "CHARLIE", "delta": "DELTA"}.get(word, word)', "word")
    spoken = learned.replace("Look it up.", "Such as BRAVO, CHARLIE or DELTA.")
    shown = tuple(f"shout-{word}" for word in ("bravo", "charlie", "delta"))
    for source in (table, spoken, SHOUT):
        text = told(failure(1, source, fixed=ids, broke=ids, shown=shown))
        assert not any(each.problem.answer in text for each in ROLLOUTS)
        assert ("```python" in text) == (source == SHOUT)
        assert "so it was undone" in text
    same_author = [each for each in ROLLOUTS if each.problem.id in shown]
    assert "CHARLIE" in failures_text([failure(1, table, shown=shown)], 2000, ROLLOUTS, same_author), "known to it"


def test_updates_for_the_kind_at_hand_come_first_and_with_their_code() -> None:
    other = failure(3, named("other_kind"), accuracy=0.0, shown=("other-kilo",))
    mine = [failure(1, named("bad"), accuracy=0.2), failure(2, named("better"), accuracy=0.4)]
    text = told(*mine, other)
    assert re.findall(r"^- add_function (\w+)", text, re.MULTILINE) == ["bad", "better", "other_kind"]
    assert re.findall(r"def (\w+)", text) == ["bad", "better"]
    unknown = failure(4, named("unknown"), shown=())
    assert "def unknown" in told(unknown), "from a state of an older version"


def test_code_is_cut_whole_and_told_once() -> None:
    long = named("long", WRONG.replace("return", f"note = {'x' * 300!r}\n    return"))
    short, again = failure(2, named("short")), failure(3, named("short"))
    text = told(failure(1, long), short, again, tokens=180)
    assert len(text) <= 180 * CHARS_PER_TOKEN + 40
    assert "def long" not in text
    assert "xxx" not in text
    assert text.count("def short") == 1
    assert text.count("- add_function short") == 2
    assert "add_function long" in text, "its name is told where its code has no room"
    assert "xxx" in told(failure(1, long))
    assert told(failure(1, long), short, tokens=0) == ""


def test_a_removal_and_an_added_function_that_is_gone_again_have_no_code() -> None:
    assert "```" not in told(failure(1))
    gone = FailedUpdate(
        step=1, actions=("add_function gone",), functions=FunctionSet(), accuracy=0.1, accuracy_before=0.2
    )
    assert "- add_function gone" in told(gone)
    assert "```" not in told(gone)


def test_a_step_remembers_what_a_failed_update_fixed_and_broke() -> None:
    def rolled(*right: int) -> list[Any]:
        problems = [word_problem(word) for word in WORDS[:4]]
        return [
            attempt(each, answer=each.answer if index in right else "dunno").trajectory
            for index, each in enumerate(problems)
        ]

    before, after = rolled(0, 1), rolled(1, 2)
    update = Update(functions=FunctionSet.of(WRONG), shown=(("shout-delta", "shout-alpha"),))
    judgement = judge("unseen", [1, 1, 0, 0], [0, 1, 1, 0])
    best = Tried(0, update, after, judgement)
    row = step_row(TrainState(), "rolled_back", [best], updates=[update], before=before, seconds=1.0)
    (failed,) = after_step(TrainState(), "rolled_back", best, row).failures
    assert (failed.fixed, failed.broke) == (("shout-charlie",), ("shout-alpha",))
    assert failed.shown == ("shout-alpha", "shout-delta")
    old = json.loads(failed.model_dump_json(exclude={"fixed", "broke", "shown"}))
    assert FailedUpdate.model_validate(old).fixed == ()


def test_a_step_that_has_no_answer_says_so_once() -> None:
    step = Step(message=attempt(PROBLEM).trajectory.steps[0].message)
    found = graded(Grade(reward=0.0, reason="no answer was given"), answer=None)
    trajectory = found.trajectory.model_copy(update={"steps": (step,)})
    text = transcript_text(1, Evidence(problem=PROBLEM, trajectory=trajectory), 900)
    assert "The agent answered: nothing (wrong)" in text
    assert "Reason" not in text
