"""Near-duplicates: what counts as one, which of them goes, and when its removal is kept."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from agentopt_local.acceptance import Acceptance, is_smaller, judge
from agentopt_local.actions import AddFunction, RemoveFunction
from agentopt_local.functions import FunctionSet
from agentopt_local.merging import examples_of, merge_update
from agentopt_local.trajectory import PYTHON, ToolRun, Trajectory
from agentopt_local.update import ActionCounts, Update, Verified
from tests.tools.drafting import Bench, attempt, bench, word_problem

__all__ = ["bench"]


def source(name: str, body: str, parameters: str = "n: int") -> str:
    return f'def {name}({parameters}) -> str:\n    """Do {name}."""\n    return {body}\n'


DOUBLE = source("double", "str(2 * n)")
TWICE = source("twice", "str(number + number)", "number: int")
SQUARE = source("square", "str(n * n)")
KNOWN = {"double": [{"n": each} for each in (1, 3, 5)]}


def rollout(*runs: ToolRun) -> Trajectory:
    found = attempt(word_problem("w")).trajectory
    return found.model_copy(update={"steps": (found.steps[0].model_copy(update={"executed": runs}),)})


def call(name: str, **arguments: Any) -> ToolRun:
    return ToolRun(name=name, arguments=arguments, ok=True, result="?")


def merged(
    bench: Bench,
    *sources: str,
    examples: dict[str, list[dict[str, Any]]] | None = None,
    rollouts: Sequence[Trajectory] = (),
) -> Update:
    functions = FunctionSet.of(*sources)
    known = KNOWN if examples is None else examples
    return bench.run(merge_update(functions, known, rollouts, bench.sandbox, 5.0))


def test_equal_behaviour_is_merged_whatever_the_parameters_are_called(bench: Bench) -> None:
    update = merged(bench, DOUBLE, SQUARE, TWICE)
    assert update.functions == FunctionSet.of(DOUBLE, SQUARE)
    assert update.actions == (RemoveFunction(name="twice"),)
    assert (update.seen, update.counts) == (frozenset(), ActionCounts())
    assert update.having(FunctionSet.of(DOUBLE, SQUARE, TWICE), [0]).functions == update.functions


def test_equal_code_needs_no_call(bench: Bench) -> None:
    copied = DOUBLE.replace("def double", "def copied").replace("Do double", "Other words").replace("2 * n", "2*n")
    recursive = [source(name, f"'' if n < 1 else {name}(n - 1)") for name in ("down", "lower")]
    update = merged(bench, DOUBLE, copied, *recursive, examples={})
    assert update.functions == FunctionSet.of(DOUBLE, recursive[0])


@pytest.mark.parametrize(
    "sources",
    [
        (DOUBLE, SQUARE),  # equal for 2 alone
        (DOUBLE, source("twice", "str(n + n)", "n: float")),  # other types
        (DOUBLE, source("twice", "str(n + n)", "n: int = 3")),  # an argument that may be left out
        (DOUBLE, source("twice", "str(n + n) if n < 5 else 1 // 0")),  # an error where the other has a result
        (DOUBLE, source("twice", "2 * n")),  # a number is not its text
        (source("double", "'yes'"), source("twice", "'yes' if n < 99 else 'no'")),  # all results are the same
    ],
)
def test_what_differs_or_cannot_be_told_is_left(bench: Bench, sources: tuple[str, ...]) -> None:
    update = merged(bench, *sources)
    assert update == Update(functions=FunctionSet.of(*sources))


def test_two_known_arguments_are_too_few_however_often_they_occur(bench: Bench) -> None:
    few = {"double": [{"n": 1}, {"n": 3}, {"n": 1}, {"n": 3.0}], "twice": [{"number": 3}, {"n": 7}, {"number": "x"}]}
    assert not merged(bench, DOUBLE, TWICE, examples=few).actions
    more = [rollout(call("twice", number=9)), rollout(call("square", n=11))]
    assert not merged(bench, DOUBLE, TWICE, examples=few, rollouts=more[1:]).actions
    assert merged(bench, DOUBLE, TWICE, examples=few, rollouts=more).actions, "a call of the agent's is known too"


def test_an_error_of_both_counts_neither_for_nor_against(bench: Bench) -> None:
    one, other = source("double", "str(2 * n // (n - 1))"), source("twice", "str((n + n) // (n - 1))")
    arguments = [{"n": each} for each in (1, 2, 3)]
    assert not merged(bench, one, other, examples={"double": arguments}).actions
    assert merged(bench, one, other, examples={"double": [*arguments, {"n": 9}]}).actions


def test_the_one_that_was_used_less_goes(bench: Bench) -> None:
    by_code = ToolRun(name=PYTHON, arguments={"code": "print(twice(4))"}, ok=True, result="8")
    rollouts = [rollout(by_code), rollout(call("twice", number=2)), rollout(call("double", n=2), call("double", n=4))]
    assert merged(bench, DOUBLE, TWICE, rollouts=rollouts).functions == FunctionSet.of(TWICE)
    assert merged(bench, DOUBLE, TWICE, rollouts=rollouts[1:]).functions == FunctionSet.of(DOUBLE), "a tie: the newer"


def test_a_function_that_others_call_stays(bench: Bench) -> None:
    user = source("quadruple", "twice(int(twice(n)))")
    used = [rollout(call("double", n=2))]
    assert merged(bench, DOUBLE, TWICE, user, rollouts=used).functions == FunctionSet.of(TWICE, user)
    both = source("both", "double(n) + twice(n)")
    assert not merged(bench, DOUBLE, TWICE, both, rollouts=used).actions


def test_of_three_that_are_the_same_one_is_left(bench: Bench) -> None:
    third = source("again", "str(n * 2)")
    assert merged(bench, TWICE, third, SQUARE, DOUBLE).functions == FunctionSet.of(TWICE, SQUARE)
    assert merged(bench).functions == FunctionSet()


def test_examples_come_from_every_edit() -> None:
    functions = FunctionSet.of(DOUBLE, SQUARE)
    updates = []
    for function, n in itertools.product(functions.each(), (1, 2)):
        action = AddFunction(function=function, examples=({"n": n},))
        updates.append(Update(functions=FunctionSet()).applying(Verified(action=action)))
    updates.append(Update(functions=functions).applying(Verified(action=RemoveFunction(name="square"))))
    assert examples_of(updates) == {"double": [{"n": 1}, {"n": 2}], "square": [{"n": 1}, {"n": 2}]}


# What becomes of the removal


def test_a_removal_wins_ties_where_only_unseen_problems_count(bench: Bench) -> None:
    functions = FunctionSet.of(DOUBLE, SQUARE, TWICE)
    update = merged(bench, *(each.source for each in functions.each()))
    smaller = is_smaller(update.functions, functions)
    before, after = [1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]
    kept = {rule for rule in get_args(Acceptance) if judge(rule, before, after, smaller=smaller).accepted}
    assert kept == {"unseen", "sequential", "paper"}
    worse = [0.0, 0.0, 1.0, 1.0]
    assert not any(judge(rule, before, worse, smaller=smaller).accepted for rule in get_args(Acceptance))


@pytest.mark.parametrize("rule", [each for each in get_args(Acceptance) if each != "paper"])
def test_a_set_never_grows_or_changes_without_gain(rule: Acceptance) -> None:
    old = FunctionSet.of(DOUBLE, SQUARE)
    for new in (FunctionSet.of(DOUBLE, SQUARE, TWICE), FunctionSet.of(DOUBLE, TWICE), old, FunctionSet.of(TWICE)):
        assert not is_smaller(new, old)
    chance = random.Random(rule)
    accepted = 0
    for _ in range(3000):
        n = chance.randrange(1, 12)
        before = [chance.choice((0.0, 0.0, 0.5, 1.0)) for _ in range(n)]
        after = [chance.choice((0.0, 0.5, 1.0, 1.0)) for _ in range(n)]
        shown = {index for index in range(n) if chance.random() < 0.2}
        counted = [index for index in range(n) if index not in shown or rule == "mean"]
        if judge(rule, before, after, shown=shown).accepted:
            accepted += 1
            assert sum(after[index] for index in counted) > sum(before[index] for index in counted)
    assert accepted > 100
