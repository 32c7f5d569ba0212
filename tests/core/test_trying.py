"""How an update is tried: on which problems, with which alternatives, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agentopt_local.actions import Action, AddFunction, RemoveFunction
from agentopt_local.chat import Message, Usage
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.problem import Problem
from agentopt_local.train_state import TrainerConfig
from agentopt_local.trajectory import Step, ToolRun, Trajectory
from agentopt_local.trying import Trying
from agentopt_local.update import Update, Verified

BATCH = tuple(Problem(id=f"{kind}{n}", question="?", answer="a", kind=kind) for kind in "abc" for n in range(4))


def function(name: str) -> Function:
    return Function(source=f'def {name}(x: int) -> int:\n    """Do {name}."""\n    return x\n')


def add(name: str) -> AddFunction:
    return AddFunction(function=function(name))


class Agent:
    """Solves what its functions' names say: ``a`` the problems of kind a; ``a_not_b`` does and spoils those of b."""

    def __init__(self, solved: str = "", *, calls: bool = False) -> None:
        self.solved = solved
        self.calls = calls
        self.parts: list[tuple[str, tuple[str, ...], int]] = []

    async def roll_out(self, functions: FunctionSet, problems: Sequence[Problem], part: str) -> list[Trajectory]:
        self.parts.append((part, functions.names, len(problems)))
        return [self.rollout(functions, each) for each in problems]

    def rollout(self, functions: FunctionSet, problem: Problem) -> Trajectory:
        kind = problem.kind
        right = kind in self.solved or any(kind in name.partition("_not_")[0].split("_") for name in functions.names)
        right &= not any(kind in name.partition("_not_")[2] for name in functions.names)
        called = tuple(ToolRun(name=name, arguments={}, ok=True, result="a") for name in functions.names)
        steps = (Step(message=Message(role="assistant"), executed=called),) if self.calls else ()
        return Trajectory(
            problem_id=problem.id, functions=functions.fingerprint, seed=0, steps=steps, answer="a",
            stop_reason="answer", usage=Usage(completion_tokens=1), wall_s=0.0,
            grade=Grade(reward=float(right), reason=""),
        )  # fmt: skip


def tried(
    *edits: tuple[Action, str],
    base: FunctionSet | None = None,
    solved: str = "",
    others: Any = (),
    calls: bool = False,
    **settings: Any,
) -> tuple[list[Any], Agent]:
    """What was tried of these edits, each by an author that was shown the first problem of the kinds given."""
    base, agent = base or FunctionSet(), Agent(solved, calls=calls)
    update = Update(functions=base)
    for action, kinds in edits:
        shown = [f"{kind}0" for kind in kinds]
        update = update.applying(Verified(action=action, matches=1, trials=1), shown, others)
    before = [agent.rollout(base, each) for each in BATCH]
    trying = Trying(TrainerConfig(**settings), base, BATCH, before, agent.roll_out)
    return asyncio.run(trying.tried(0, update)), agent


def test_an_edit_is_tried_on_its_kind_and_what_helped_on_everything() -> None:
    found, agent = tried((add("a"), "a"), (add("b"), "b"), (add("nothing"), "c"))
    assert agent.parts == [
        ("edit 1", ("a",), 4), ("edit 2", ("b",), 4), ("edit 3", ("nothing",), 4), ("edits together", ("a", "b"), 12),
    ]  # fmt: skip
    assert found[0].update.functions.names == ("a", "b")
    assert (found[0].judgement.accepted, found[0].judgement.n, found[0].judgement.gained) == (True, 10, 6)


def test_on_all_problems_if_the_settings_say_so() -> None:
    _, agent = tried((add("a"), "a"), (add("b"), "b"), try_edits_on="all")
    assert [n for _, _, n in agent.parts] == [12, 12, 12]


def test_what_does_harm_elsewhere_is_not_kept_although_it_helps_its_own_kind() -> None:
    found, _ = tried((add("a_not_bc"), "a"), (add("nothing"), "c"), solved="bc")
    assert found[0].whole
    assert not found[0].judgement.accepted
    assert not any(each.judgement.accepted for each in found if each.whole)


def test_problems_that_an_edit_was_not_tried_on_count_as_before_and_cost_nothing() -> None:
    found, agent = tried((add("nothing"), "a"), (add("either"), "b"), solved="bc")
    assert [n for _, _, n in agent.parts] == [4, 4]
    assert [each.correct for each in found[0].after] == [problem.kind != "a" for problem in BATCH]
    assert [each.usage.completion_tokens for each in found] == [4, 4]


def test_where_edits_do_harm_together_the_best_one_is_tried_alone() -> None:
    """Each helps its own kind, and ``b_not_a`` undoes what ``a`` gains and more."""
    found, agent = tried((add("a"), "a"), (add("b_not_ac"), "b"), solved="c")
    assert agent.parts[2:] == [("edits together", ("a", "b_not_ac"), 12), ("edit 1 alone", ("a",), 12)]
    assert found[0].judgement.accepted
    assert found[0].update.functions.names == ("a",)


def test_where_alternatives_of_two_edits_have_the_same_name_the_edits_stay_as_drafted() -> None:
    found, agent = tried((add("nothing"), "a"), (add("none"), "b"), others=(add("a_b"),))
    assert agent.parts[-2:] == [("edits together", ("nothing", "none"), 12), ("edit 1 alone", ("a_b",), 12)]
    assert found[0].judgement.accepted
    assert found[0].update.functions.names == ("a_b",)


def test_nothing_is_kept_that_was_not_tried_on_all_problems() -> None:
    found, agent = tried((add("nothing"), "a"), (add("either"), "b"))
    assert [n for _, _, n in agent.parts] == [4, 4]
    assert not any(each.judgement.accepted for each in found)


def test_a_removal_is_tried_on_all_problems_and_wins_a_tie() -> None:
    base = FunctionSet(functions=(function("useless"), function("other")))
    found, agent = tried((RemoveFunction(name="useless"), "a"), (add("nothing"), "b"), base=base, solved="abc")
    assert agent.parts[0] == ("edit 1", ("other",), 12)
    assert found[0].judgement.accepted
    assert found[0].update.functions.names == ("other",)
    assert [part for part, _, _ in agent.parts].count("edits together") == 0, "it was tried on everything already"
    assert sum(each.usage.completion_tokens for each in found) == 12 + 4, "and its tokens count once"


def test_the_alternative_that_the_agent_calls_is_chosen() -> None:
    found, agent = tried((add("nothing"), "a"), others=(add("a"), add("either")))
    assert [part for part, _, _ in agent.parts] == [
        "edit 1", "edit 1, alternative 1", "edit 1, alternative 2", "edits together",
    ]  # fmt: skip
    assert found[0].update.functions.names == ("a",)
    assert found[0].judgement.accepted
    assert found[0].update.actions == (add("a"),)


@pytest.mark.parametrize(("name", "calls"), [("nothing", True), ("a", False)])
def test_alternatives_are_tried_only_where_problems_fail_without_a_use_of_the_function(name: str, calls: bool) -> None:
    _, agent = tried((add(name), "a"), (add("b"), "b"), others=(add("either"),), calls=calls)
    parts = [part for part, _, _ in agent.parts]
    assert parts == ["edit 1", "edit 2", "edits together"]


def test_an_alternative_whose_name_is_taken_is_left_out() -> None:
    found, agent = tried((add("a"), "a"), base=FunctionSet(functions=(function("b"),)), others=(add("b"),))
    assert [part for part, _, _ in agent.parts] == ["edit 1", "edits together"]
    assert found[0].update.functions.names == ("b", "a")


def test_with_one_kind_of_problems_single_edits_are_tried_on_all() -> None:
    agent = Agent()
    batch = BATCH[:4]
    update = Update(functions=FunctionSet())
    for name in ("a", "b"):
        update = update.applying(Verified(action=add(name), matches=1, trials=1), ["a0"])
    before = [agent.rollout(FunctionSet(), each) for each in batch]
    found = asyncio.run(Trying(TrainerConfig(), FunctionSet(), batch, before, agent.roll_out).tried(3, update))
    assert [n for _, _, n in agent.parts] == [4, 4], "the one that helped was tried on everything already"
    assert (found[0].update.functions.names, found[0].candidate) == (("a",), 3)
