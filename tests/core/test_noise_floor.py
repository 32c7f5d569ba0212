"""The noise floor: the placebo, flips, the gain that can be seen, and what is rolled out for it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from scipy.stats import binom, binomtest

from agentopt_local.chat import Usage
from agentopt_local.functions import Function, FunctionSet, one_text_parameter
from agentopt_local.grading import Grade
from agentopt_local.noise_floor import flips, measure_noise_floor, visible_gain, with_placebo
from agentopt_local.problem import Problem
from agentopt_local.rollout import MemoryStore, Rollouts
from agentopt_local.run.report import NoiseFloor
from agentopt_local.sandbox import open_sandbox
from agentopt_local.trajectory import Trajectory

START = FunctionSet.of('def double(x: int) -> int:\n    """Return twice x."""\n    return 2 * x\n')
PROBLEMS = tuple(Problem(id=f"p{i}", question=f"{i}?", answer=str(i)) for i in range(10))


def attempt(problem: str, functions: str, seed: int, right: bool) -> Trajectory:
    return Trajectory(
        problem_id=problem, functions=functions, seed=seed, steps=(), answer="", stop_reason="answer", usage=Usage(),
        wall_s=0.0, grade=Grade(reward=float(right), reason=""),
    )  # fmt: skip


# The placebo


def test_the_placebo_is_a_legal_tool_for_every_kind_of_agent() -> None:
    [placebo] = with_placebo(FunctionSet()).each()
    assert Function.new(placebo.source) == placebo
    assert one_text_parameter(placebo) == "text", "agents with functions of one text can call it"

    async def call() -> Any:
        async with open_sandbox(workers=1) as sandbox:
            return await sandbox.call(with_placebo(START).source, placebo.name, {"text": "äb"}, timeout_s=5)

    assert asyncio.run(call()).value == "äb"


def test_the_placebo_is_added_under_a_free_name() -> None:
    once = with_placebo(START)
    assert once.names[0] == "double"
    assert len(set(with_placebo(with_placebo(once)).names)) == 4


# What can be seen


@pytest.mark.parametrize(
    ("flip_rate", "n", "points"),
    [(0.2, 20, 45), (0.2, 100, 15), (0.24, 24, 41), (0.1, 100, 12), (0.0, 60, 10), (0.5, 4, 100)],
)
def test_the_smallest_gain_that_can_be_seen(flip_rate: float, n: int, points: int) -> None:
    assert round(100 * visible_gain(flip_rate, n)) == points


@pytest.mark.parametrize("n", [6, 24, 100, 400])
def test_more_chance_never_shows_smaller_gains(n: int) -> None:
    gains = [visible_gain(k / n, n) for k in range(n + 1)]
    assert all(less <= more for less, more in pairwise(gains))
    assert gains[0] * n >= 5, "no result is significant with four gains"
    assert binomtest(5, 5, alternative="greater").pvalue < 0.05 < binomtest(4, 4, alternative="greater").pvalue


@pytest.mark.parametrize(("flip_rate", "n"), [(0.2, 100), (0.1, 200), (0.3, 60), (0.2, 400)])
def test_a_gain_of_that_size_is_found_in_about_four_of_five_cases(flip_rate: float, n: int) -> None:
    """Exactly, for a one-sided sign test at 5 %; the gain comes on top of what chance changes."""
    gain = visible_gain(flip_rate, n)
    found = 0.0
    for changed in range(1, n + 1):
        least = next((k for k in range(changed + 1) if binom.sf(k - 1, changed, 0.5) < 0.05), changed + 1)
        share = (flip_rate / 2 + gain) / (flip_rate + gain)
        found += binom.pmf(changed, n, flip_rate + gain) * binom.sf(least - 1, changed, share)
    assert 0.74 < found < 0.85


def test_shares_that_are_none_are_an_error() -> None:
    for flip_rate, n in ((-0.1, 5), (1.1, 5), (0.1, 0)):
        with pytest.raises(ValueError, match="it must be a share"):
            visible_gain(flip_rate, n)


def test_flips_are_counted_both_ways() -> None:
    first = [attempt(str(i), "a", 0, i < 4) for i in range(20)]
    second = [attempt(str(i), "b", 0, 1 <= i < 7) for i in range(20)]
    found = flips(first, second)
    assert (found.gained, found.lost, found.rate) == (3, 1, 0.2)
    assert found.ci95[0] < 0.2 < found.ci95[1]
    assert found.lost_ci95[0] < 0.05 < found.lost_ci95[1] < found.gained_ci95[1]


# What is rolled out


class Solver:
    """Right on even problems without the placebo, on the first half with it, and with another seed on none."""

    def __init__(self) -> None:
        self.solved: list[tuple[tuple[str, ...], str, int]] = []

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Trajectory:
        self.solved.append((functions.names, problem.id, seed))
        number = int(problem.answer)
        right = seed == 7 and (number < 5 if functions.names[-1:] == ("repeat_text",) else number % 2 == 0)
        return attempt(problem.id, functions.fingerprint, seed, right)


def measure(solver: Solver, *, most: int = 10, n_test: int = 60, functions: FunctionSet = START) -> NoiseFloor:
    stages: set[str] = set()
    rollouts = Rollouts(solver, MemoryStore(), progress=lambda stage, done, total: stages.add(str(stage)))
    found = asyncio.run(measure_noise_floor(rollouts, functions, PROBLEMS, most=most, n_test=n_test, seed=7))
    assert stages == {"step 1 before", "floor again", "floor placebo"}
    return found


def test_the_agent_is_rolled_out_again_and_with_the_placebo() -> None:
    solver = Solver()
    floor = measure(solver)
    assert floor.n == 10
    assert (floor.again.gained, floor.again.lost) == (0, 5)
    assert (floor.placebo.gained, floor.placebo.lost, floor.placebo.rate) == (2, 2, 0.4)
    assert (floor.train.n, floor.train.points) == (10, 89.7)
    assert floor.test is not None
    assert (floor.test.n, floor.test.points) == (60, 26.1)
    assert floor.test.at_most > floor.test.points
    assert len(solver.solved) == 30
    seeds = {names: {seed for each, _, seed in solver.solved if each == names} for names, _, _ in solver.solved}
    assert set(seeds) == {("double",), ("double", "repeat_text")}, "it starts from the functions of the training"
    assert len(seeds["double",]) == 2
    assert seeds["double", "repeat_text"] == {7}, "the placebo is compared on the same seed"
    assert NoiseFloor.model_validate_json(floor.model_dump_json()) == floor


def test_fewer_problems_are_drawn_where_all_would_cost_too_much() -> None:
    solver = Solver()
    floor = measure(solver, most=4, n_test=0)
    assert (floor.n, floor.train.n, floor.test) == (4, 10, None)
    chosen = {problem for _, problem, _ in solver.solved}
    assert len(chosen) == 4
    assert len(solver.solved) == 12
    assert chosen != {"p0", "p1", "p2", "p3"}, "they are drawn, not the first ones"
