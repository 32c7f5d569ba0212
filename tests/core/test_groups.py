"""Which failures are shown together: kinds, and groups within broad kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentopt_local.evidence import Evidence
from agentopt_local.groups import Group, focus_groups, some_of, without_frame
from agentopt_local.problem import Problem
from agentopt_local.reasons import by_kind
from agentopt_local.reporting.data import step_row
from agentopt_local.run.rows import Score, StepRow
from agentopt_local.tasks.catalog import load_task
from agentopt_local.trajectory import PYTHON
from agentopt_local.update import EditOutcome, OptimizerConfig
from tests.tools.drafting import Author, Bench, attempt, bench, header

__all__ = ["bench"]

SHARED = Path(os.environ.get("AGENTOPT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
FRAME = "\nGive the final answer alone, as a number without a unit and without any words around it."
REMAINDERS = [f"Find the remainder when {each} to the tenth power is divided by 5." for each in (7, 3, 8, 12)]
DIVISORS = [f"What is the greatest common divisor of {each} and 18?" for each in (12, 15, 27)]
FARES = [f"A bus ticket costs {each} dollars. How much do three tickets cost?" for each in (2, 4, 9)]
NARROW = (
    "spell_backward", "polynomial_multiplication", "bitwise_arithmetic", "leg_counting", "calendar_arithmetic",
    "letter_counting", "syllogism",
)  # fmt: skip


def failed(question: str, kind: str = "Number Theory", code: str = "", *, narrow: bool = False) -> Evidence:
    """A failure, in which the agent ran ``code``."""
    problem = Problem(id=question[:60], question=question + FRAME, answer="0", kind=kind, narrow=narrow)
    found = attempt(problem, called=PYTHON if code else None)
    if not code:
        return found
    step = found.trajectory.steps[0]
    ran = step.executed[0].model_copy(update={"arguments": {"code": code}})
    steps = (step.model_copy(update={"executed": (ran,)}),)
    return Evidence(problem=problem, trajectory=found.trajectory.model_copy(update={"steps": steps}))


def members(group: Group) -> set[str]:
    return {each.problem.question.removesuffix(FRAME) for each in group.attempts}


MIXED = [failed(each) for each in (DIVISORS[0], FARES[0], *REMAINDERS, *DIVISORS[1:], *FARES[1:], "How old is Ada?")]


def test_what_is_shown_together_is_alike_although_all_questions_have_a_frame() -> None:
    found = focus_groups(MIXED, 3)
    assert [members(each) for each in found] == [set(REMAINDERS), set(DIVISORS), set(FARES), {"How old is Ada?"}]
    assert {each.kind for each in found} == {"Number Theory"}
    names = [each.name for each in found]
    assert names[0].startswith("Number Theory: ")
    assert {"remainder", "divided", "power", "tenth"} >= set(names[0].removeprefix("Number Theory: ").split(", "))
    assert names[-1] == "Number Theory: others"
    assert len(set(names)) == 4
    (whole,) = focus_groups(MIXED)
    assert (len(whole.attempts), whole.name) == (len(MIXED), ""), "no kind is split unless that is wanted"


def test_groups_that_are_too_small_join_the_rest_of_their_kind() -> None:
    found = focus_groups(MIXED, 4)
    assert [members(each) for each in found] == [set(REMAINDERS), {*DIVISORS, *FARES, "How old is Ada?"}]
    assert found[-1].name == "Number Theory: others", "however large it is"
    ((kind, name, everything),) = focus_groups(MIXED, 8)
    assert (kind, name, len(everything)) == ("Number Theory", "", len(MIXED))


def test_programs_tell_apart_what_is_asked_in_the_same_words() -> None:
    gcd = [failed(f"Solve {each}.", code=f"import math\nprint(math.gcd({each}, 8))") for each in (4, 6, 12)]
    day = "import datetime\nprint(datetime.date(2024, 1, {}))"
    dates = [failed(f"Solve {each}.", code=day.format(each)) for each in (1, 2, 3)]
    found = focus_groups([gcd[0], dates[0], dates[1], gcd[1], gcd[2], dates[2]], 3)
    assert [{each.problem.id for each in group.attempts} for group in found] == [
        {each.problem.id for each in gcd},
        {each.problem.id for each in dates},
    ]


def test_every_kind_gets_its_first_group_before_a_kind_gets_its_second() -> None:
    few = [failed(each, kind="few") for each in ("Name a colour.", "Name a city.")]
    found = focus_groups([*few, *MIXED], 3)
    assert [each.kind for each in found] == ["Number Theory", "few", *["Number Theory"] * 3]


def test_a_narrow_kind_and_a_large_one_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = [failed(each, narrow=True) for each in (*REMAINDERS, *DIVISORS, *FARES)]
    assert [(len(each.attempts), each.name) for each in focus_groups(narrow, 3)] == [(10, "")]
    monkeypatch.setattr("agentopt_local.groups.MOST", 10)
    assert len(focus_groups(MIXED, 3)) == 1


def test_every_kind_of_reasoning_gym_stays_one_group() -> None:
    problems = load_task(f"reasoning_gym:{','.join(NARROW)}", seed=3).problems("train", 20 * len(NARROW))
    found = focus_groups([attempt(each) for each in problems], OptimizerConfig().n_evidence)
    assert {each.kind: (each.name, len(each.attempts)) for each in found} == dict.fromkeys(NARROW, ("", 20))
    assert len(found) == len(NARROW)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data in {SHARED}; AGENTOPT_SHARED_DATA names its folder")
def test_number_theory_is_split_by_what_is_asked() -> None:
    problems = load_task(f"math:{SHARED}/math?type=Number Theory", seed=1).problems("train", 40)
    found = focus_groups([attempt(each) for each in problems], 3)
    assert sum(len(each.attempts) for each in found) == 40
    assert len(found) > 2
    (remainders,) = [each for each in found if "remainder" in each.name]
    asked = [each.problem.question for each in remainders.attempts]
    assert 2 * sum("remainder" in each or "divid" in each or "divisible" in each for each in asked) > len(asked)


def test_the_frame_of_questions_is_left_out_and_nothing_else() -> None:
    assert without_frame(["How far? Be brief.", "How long? Be brief.", "How old? Be brief."]) == [
        "How far?",
        "How long?",
        "How old?",
    ]
    assert without_frame([]) == []


@pytest.mark.parametrize(("hold_back", "n", "shown"), [(True, 3, 3), (True, 9, 3), (False, 3, 3), (False, 9, 7)])
def test_at_most_half_of_a_group_is_shown(hold_back: bool, n: int, shown: int) -> None:
    group = [failed(f"{each}?") for each in range(7)]
    assert len(some_of(group, n, 1, hold_back=hold_back)) == shown
    assert len(some_of(group[:1], n, 1, hold_back=hold_back)) == 1
    assert some_of([], n, 1, hold_back=hold_back) == ()


def test_the_outcome_of_an_edit_names_its_group(bench: Bench) -> None:
    attempts = [failed(each) for each in (*REMAINDERS, *DIVISORS)]
    author = Author([header("terminate", None)])
    update, requests = bench.propose(author, attempts=attempts, max_actions=2)
    assert len(requests) == 2
    for request, words in zip(requests, ("remainder", "divisor"), strict=True):
        text = request.messages[0].content
        assert ("tenth power" in text, "common divisor" in text) == (words == "remainder", words == "divisor")
    assert all(each.kind == "Number Theory" for each in update.outcomes)
    assert "remainder" in update.outcomes[0].group
    assert "divisor" in update.outcomes[1].group
    assert len(list(by_kind(update.outcomes))) == 2, "one sentence for each group"
    update, _ = bench.propose(author, attempts=attempts, max_actions=2, group_by_likeness=False)
    assert [each.group for each in update.outcomes] == [""]


def test_outcomes_are_told_by_group_or_kind() -> None:
    outcomes = [EditOutcome(kind="k", group=group, end="terminated") for group in ("k: a", "k: b", "")]
    assert [each.partition(": the")[0] for each in by_kind(outcomes)] == ["k: a", "k: b", "k"]
    assert EditOutcome(end="terminated").about == "problems"


def test_a_report_shows_the_groups_of_a_step() -> None:
    score = Score(accuracy=0.5, reward=0.5, n=8)
    outcomes = [EditOutcome(kind="k", group=f"k: {name}", end="terminated") for name in ("a", "b")]
    row = StepRow(step=1, decision="accepted", before=score, after=score, outcomes=tuple(outcomes), seconds=1.0)
    assert step_row(row)["groups"] == [f"k: {name}: the optimizer saw nothing to improve" for name in ("a", "b")]
    whole = row.model_copy(update={"outcomes": (EditOutcome(kind="k", end="terminated"),)})
    assert step_row(whole)["groups"] == [], "kinds that were not split are no groups"
