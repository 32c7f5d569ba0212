"""What is left out together, which halves are drawn, and what the figures say about each function."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from agentopt_local.actions import AddFunction, RemoveFunction, ReviseFunction
from agentopt_local.chat import Usage
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.leaving_out import (
    calls,
    effect,
    half_masks,
    left_out,
    mask_effect,
    not_worse,
    token_cost,
    verdict_of,
    without,
)
from agentopt_local.origins import origins
from agentopt_local.problem import Problem
from agentopt_local.reporting.history import add_edits
from agentopt_local.run.rows import ActionRow, Score, StepRow
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import Update


def function(name: str, body: str = "return x") -> str:
    return f'def {name}(x: int) -> int:\n    """Return x."""\n    {body}\n'


SEVEN = FunctionSet.of(*(function(f"f{number}") for number in range(7)))


def rollout(problem: str, reward: float, usage: Usage | None = None) -> Trajectory:
    return Trajectory(
        problem_id=problem,
        functions="",
        seed=0,
        steps=(),
        answer="",
        stop_reason="answer",
        usage=usage or Usage(),
        wall_s=0.0,
        grade=Grade(reward=reward, reason=""),
    )


def rolled(*rewards: float) -> dict[str, Trajectory]:
    return {str(number): rollout(str(number), reward) for number, reward in enumerate(rewards)}


# Dependencies


def test_callers_are_left_out_with_what_they_call_by_any_way() -> None:
    functions = FunctionSet.of(
        function("base"),
        function("middle", "return base(x)"),
        function("top", "return [middle(each) for each in [x]][0]"),
        function("alone", "base = 1\n    return x + base"),
        function("own", "from math import middle\n    return middle(x)"),
    )
    assert calls(functions) == {
        "base": frozenset(),
        "middle": {"base"},
        "top": {"base", "middle"},
        "alone": frozenset(),
        "own": frozenset(),
    }
    assert left_out(functions, "base") == ("base", "middle", "top")
    assert without(functions, "middle").names == ("base", "alone", "own")


def test_functions_that_call_each_other_leave_together() -> None:
    functions = FunctionSet.of(function("even", "return odd(x - 1)"), function("odd", "return even(x - 1)"))
    assert left_out(functions, "even") == left_out(functions, "odd") == ("even", "odd")


def test_a_function_that_hides_a_builtin_is_seen_in_its_callers() -> None:
    functions = FunctionSet.of(function("sorted"), function("caller", "return sorted(x)"), function("abs"))
    assert left_out(functions, "sorted") == ("sorted", "caller")


# Half-masks


def test_small_sets_have_no_masks() -> None:
    assert half_masks(FunctionSet(functions=SEVEN.functions[:5]), 0, "p") == ()


@pytest.mark.parametrize("size", [6, 7])
def test_each_pair_is_drawn_in_a_quarter_of_the_masks(size: int) -> None:
    functions = FunctionSet(functions=SEVEN.functions[:size])
    for problem in ("a", "b", "c"):
        masks = half_masks(functions, 3, problem)
        assert len(masks) == 8
        for one in functions.names:
            assert sum(one in mask.drawn for mask in masks) == 4
        for one, other in combinations(functions.names, 2):
            assert sum({one, other} <= mask.drawn for mask in masks) == 2


def test_masks_follow_from_the_seed_and_differ_between_problems() -> None:
    assert half_masks(SEVEN, 1, "a") == half_masks(SEVEN, 1, "a")
    assert half_masks(SEVEN, 1, "a") != half_masks(SEVEN, 2, "a")
    assert half_masks(SEVEN, 1, "a") != half_masks(SEVEN, 1, "b")


def test_a_mask_never_holds_a_caller_without_what_it_calls() -> None:
    functions = SEVEN.adding(Function(source=function("caller", "return f0(f1(x))")))
    for problem in map(str, range(20)):
        for mask in half_masks(functions, 0, problem):
            if "caller" in mask.functions:
                assert {"f0", "f1"} <= set(mask.functions.names)


def test_what_three_functions_do_together_is_not_credited_to_a_fourth() -> None:
    """With one array for all problems, f0 and f1 without f2 would look like another function's own effect."""
    ids = [str(number) for number in range(200)]

    def solved(names: frozenset[str]) -> float:
        return float("f2" not in names and ("f0" in names or "f1" in names))

    masked = {each: [(mask, rollout(each, solved(mask.drawn))) for mask in half_masks(SEVEN, 0, each)] for each in ids}
    found = {name: mask_effect(name, frozenset(), masked, ids) for name in SEVEN.names}
    assert found["f0"].points == pytest.approx(25, abs=5)
    assert found["f2"].points == pytest.approx(-75, abs=5)
    for name in ("f3", "f4", "f5", "f6"):
        assert found[name].ci95[0] < 0 < found[name].ci95[1], name
        assert found[name].p_value > 0.01


# Effects and verdicts


def test_eighteen_lost_of_sixty_without_a_gain() -> None:
    whole, smaller = rolled(*[1.0] * 60), rolled(*[0.0] * 18, *[1.0] * 42)
    found = effect(whole, smaller, whole)
    assert (found.points, found.gained, found.lost) == (30.0, 18, 0)
    assert [round(bound) for bound in found.ci95] == [20, 43]
    assert verdict_of(found, found.p_value, of_its_kinds=60, idle=False) == "helps"
    turned = effect(smaller, whole, whole)
    assert verdict_of(turned, turned.p_value, of_its_kinds=60, idle=True) == "hurts"


def test_what_is_not_significant_is_told_apart_by_its_direction_and_by_the_number_of_problems() -> None:
    some, more = rolled(*[0.0] * 20), rolled(*[0.0] * 18, 1.0, 1.0)
    better = effect(more, some, some)
    assert verdict_of(better, 1.0, of_its_kinds=20, idle=not_worse(some, more, some)) == "no effect seen"
    equal = effect(some, some, some)
    assert verdict_of(equal, 1.0, of_its_kinds=20, idle=not_worse(some, some, some)) == "only costs tokens"
    assert verdict_of(equal, 1.0, of_its_kinds=5, idle=True) == "too few problems"


def test_partial_rewards_count_against_a_smaller_set_only_from_half_a_problem_on() -> None:
    assert not_worse(rolled(0.5, 0.0), rolled(0.9, 0.0), ["0", "1"])
    assert not not_worse(rolled(0.3, 0.0), rolled(0.9, 0.0), ["0", "1"])
    assert not not_worse(rolled(0.0, 0.9), rolled(1.0, 0.0), ["0", "1"])


def test_a_schema_costs_what_attempts_of_equal_length_differ_by() -> None:
    def used(requests: int, read: int, generated: int) -> Trajectory:
        return rollout("", 0.0, Usage(requests=requests, prompt_tokens=read, completion_tokens=generated))

    whole = {"a": used(2, 300, 10), "b": used(1, 130, 5), "c": used(3, 900, 60)}
    smaller = {"a": used(2, 240, 10), "b": used(1, 100, 5), "c": used(1, 100, 5)}
    cost = token_cost(whole, smaller, ["a", "b", "c"])
    assert cost.schema_read == 60.0  # 30 a request, two requests a problem
    assert cost.generated == (25.0, 6.7)
    assert token_cost(whole, smaller, []).schema_read == 0.0


# Origins


def step(number: int, decision: str, *actions: tuple[str, str], candidate: int = 0) -> StepRow:
    score = Score(accuracy=0.0, reward=0.0, n=4)
    rows = tuple(ActionRow(kind=kind, name=name) for kind, name in actions)
    return StepRow.model_validate(
        {"step": number, "decision": decision, "actions": rows, "before": score, "after": score, "seconds": 1.0}
        | {"candidate": candidate}
    )


def test_a_function_s_origin_is_what_its_accepted_edits_were_shown_since_it_was_added() -> None:
    one, two = (Function(source=function(name)) for name in ("one", "two"))
    problems = [Problem(id=f"p{n}", question=str(n), answer="", kind="odd" if n % 2 else "even") for n in range(9)]
    add_one, add_two, revise = (
        AddFunction(function=one),
        AddFunction(function=two),
        ReviseFunction(function=one),
    )
    empty = FunctionSet()
    updates = {
        (1, 0): Update(functions=empty, actions=(add_one, add_two), shown=(("p0",), ("p1",))),
        (2, 1): Update(functions=empty, actions=(revise,), shown=(("p2",),)),
        (3, 0): Update(functions=empty, actions=(revise,), shown=(("p3",),)),
        (4, 0): Update(functions=empty, actions=(RemoveFunction(name="two"),), shown=(("p4",),)),
        (5, 0): Update(functions=empty, actions=(add_two,), shown=(("p5", "p6"),)),
    }
    steps = [
        step(1, "accepted", ("add_function", "one"), ("add_function", "two")),
        step(2, "accepted", ("revise_function", "one"), candidate=1),
        step(3, "rolled_back", ("revise_function", "one")),
        step(4, "accepted", ("remove_function", "two")),
        step(5, "accepted", ("add_function", "two")),
    ]
    found = origins(FunctionSet(functions=(one, two)), steps, updates, problems)
    assert (found["one"].shown, found["one"].kinds) == ({"p0", "p2"}, {"even"})
    assert (found["two"].shown, found["two"].kinds) == ({"p5", "p6"}, {"even", "odd"})
    assert found["one"].wrote_for(problems[0])
    assert not found["one"].wrote_for(problems[1])


def test_only_the_part_of_an_update_that_was_kept_counts_and_start_functions_were_shown_nothing() -> None:
    one, two, start = (Function(source=function(name)) for name in ("one", "two", "start"))
    update = Update(
        functions=FunctionSet(),
        actions=(AddFunction(function=one), AddFunction(function=two)),
        shown=(("p0",), ("p1",)),
    )
    found = origins(
        FunctionSet(functions=(start, one)), [step(1, "accepted", ("add_function", "one"))], {(1, 0): update}, []
    )
    assert found["one"].shown == {"p0"}
    assert (found["start"].shown, found["start"].known) == (frozenset(), True)


def test_an_alternative_that_was_kept_has_the_origin_of_its_edit() -> None:
    one, other, two = (Function(source=function(name)) for name in ("one", "other", "two"))
    update = Update(
        functions=FunctionSet(),
        actions=(AddFunction(function=one), AddFunction(function=two)),
        shown=(("p0",), ("p1",)),
        alternatives=((AddFunction(function=other),), ()),
    )
    kept = step(1, "accepted", ("add_function", "other"), ("add_function", "two"))
    found = origins(FunctionSet(functions=(other, two)), [kept], {(1, 0): update}, [])
    assert {name: set(each.shown) for name, each in found.items()} == {"other": {"p0"}, "two": {"p1"}}
    assert all(each.known for each in found.values())
    told: dict[str, list[dict[str, Any]]] = {}
    add_edits(told, kept, update.model_copy(update={"matches": ("3/3", "2/3")}), {}, {"other": other.source})
    assert {name: (edits[0]["kept"], edits[0]["matches"]) for name, edits in told.items()} == {
        "other": (True, "3/3"), "two": (False, "2/3"),
    }  # fmt: skip
