"""Algorithm 2 with a scripted proposer and agent, and defects of the reference implementation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentopt_local.actions import Action, AddFunction, RemoveFunction, ReviseFunction
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import make_agent
from agentopt_local.chat import ChatRequest, Message, Usage
from agentopt_local.evidence import Evidence
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.graders.text import exact
from agentopt_local.grading import Grade
from agentopt_local.incoming import Incoming
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.problem import Problem, Split
from agentopt_local.rollout import GradedAgent, MemoryStore, Rollouts
from agentopt_local.run.rows import StepRow
from agentopt_local.steps import batch_of
from agentopt_local.train_state import PRESETS, FailedUpdate, TrainerConfig, TrainState
from agentopt_local.trainer import Proposer, Trainer
from agentopt_local.trajectory import Attempt, Step, ToolRun, Trajectory, used_functions
from agentopt_local.update import ActionCounts, OptimizerConfig, Update, Verified

PROBLEMS = tuple(Problem(id=f"p{i}", question=f"Question {i}", answer=f"answer {i}", kind="k") for i in range(10))
NO_SANDBOX: Any = None
"""Nothing in this file runs code."""


class Quiz:
    """The task: an answer is right if it is the expected one."""

    name = "quiz"
    preload: tuple[str, ...] = ()

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        return PROBLEMS[:n]

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> Grade:
        return exact(answer or "", problem.answer)


def skill(*solved: int) -> FunctionSet:
    """A set of one function, whose name tells which problems an agent with it solves."""
    name = "solves_" + "_".join(map(str, solved))
    return FunctionSet.of(f'def {name}(x: int) -> int:\n    """Solve them."""\n    return x\n')


def first(n: int) -> FunctionSet:
    return skill(*range(n))


class SkilledAgent:
    """Solves the problems that the functions' names list; the later a problem, the sooner it is done."""

    def __init__(self) -> None:
        self.attempts: list[tuple[FunctionSet, str]] = []

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
        self.attempts.append((functions, problem.id))
        number = int(problem.id[1:])
        await asyncio.sleep(0.0005 * (10 - number))
        solved = {int(digit) for name in functions.names for digit in re.findall(r"\d+", name)}
        said = Message(role="assistant", content=f"About {problem.question}")
        calls = tuple(ToolRun(name=name, arguments={}, ok=number in solved, result="x") for name in functions.names)
        return Attempt(
            problem_id=problem.id,
            functions=functions.fingerprint,
            seed=seed,
            steps=(Step(message=said, executed=calls),),
            answer=problem.answer if number in solved else "dunno",
            stop_reason="answer",
            usage=Usage(requests=1, completion_tokens=3),
            wall_s=0.0,
        )


class Planned:
    """Proposes sets in the given order; None proposes no change. Remembers what it was shown."""

    def __init__(self, *plan: FunctionSet | None) -> None:
        self.plan = list(plan)
        self.shown: list[tuple[FunctionSet, list[Evidence], tuple[FailedUpdate, ...], int]] = []

    async def propose(
        self, functions: FunctionSet, attempts: Incoming, failures: Sequence[FailedUpdate], *, seed: int
    ) -> Update:
        self.shown.append((functions, await attempts.all(), tuple(failures), seed))
        planned = self.plan[len(self.shown) - 1] if len(self.shown) <= len(self.plan) else None
        counts, usage = ActionCounts(sampled=2, legal=2, verified=1), Usage(requests=1)
        return Update(functions=functions if planned is None else planned, counts=counts, usage=usage)


class Edits:
    """Proposes the same edits in every step; their author was shown the same problems."""

    def __init__(self, *actions: Action, shown: Sequence[str] = ()) -> None:
        self.actions = actions
        self.shown = tuple(shown)

    async def propose(self, functions: FunctionSet, attempts: Any, failures: Any, *, seed: int) -> Update:
        update = Update(functions=functions)
        for each in self.actions:
            update = update.applying(Verified(action=each, matches=1, trials=1), self.shown)
        return update


class Notes:
    """A TrainingLog in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], Update] = {}
        self.rows: list[dict[str, Any]] = []
        self.written: dict[int, FunctionSet] = {}
        self.state: TrainState | None = None

    def proposals(self) -> dict[tuple[int, int], Update]:
        return dict(self.kept)

    def keep_proposal(self, step: int, candidate: int, proposal: Update) -> None:
        self.kept[step, candidate] = proposal

    def keep_step(self, row: StepRow) -> None:
        self.rows.append(row.model_dump(mode="json"))

    def keep_functions(self, step: int, functions: FunctionSet) -> None:
        self.written[step] = functions

    def keep_state(self, state: TrainState) -> None:
        self.state = state


class Training:
    """One training and everything that it left."""

    def __init__(
        self,
        *plan: FunctionSet | None,
        problems: Sequence[Problem] = PROBLEMS,
        state: TrainState | None = None,
        notes: Notes | None = None,
        proposer: Proposer | None = None,
        seed: int = 0,
        merge: Any = None,
        **settings: Any,
    ) -> None:
        self.agent, self.notes = SkilledAgent(), notes or Notes()
        self.optimizer = Planned(*plan)
        self.told: list[dict[str, Any]] = []

        async def fit() -> TrainState:
            rollouts = Rollouts(GradedAgent(self.agent, Quiz(), NO_SANDBOX), MemoryStore())
            config = TrainerConfig(**settings)
            optimizer = proposer or self.optimizer
            trainer = Trainer(optimizer, rollouts, self.notes, config, seed=seed, on_step=self.on_step, merge=merge)
            return await trainer.fit(problems, state or TrainState())

        self.state = asyncio.run(fit())

    def on_step(self, row: StepRow) -> None:
        self.told.append(row.model_dump(mode="json"))

    @property
    def decisions(self) -> list[str]:
        return [row["decision"] for row in self.notes.rows]


# Decisions


def test_an_update_is_accepted_on_strict_improvement_only() -> None:
    training = Training(first(3), first(2), first(3), skill(0, 1, 9), first(4), max_epochs=5, patience=9)
    assert training.decisions == ["accepted", "rolled_back", "skipped", "rolled_back", "accepted"]
    assert training.state.functions == first(4)
    assert (training.state.step, training.state.accepted, training.state.idle) == (5, 2, 0)
    scores = [(row["before"]["accuracy"], row["after"]["accuracy"]) for row in training.notes.rows]
    assert scores == [(0.0, 0.3), (0.3, 0.2), (0.3, 0.3), (0.3, 0.3), (0.3, 0.4)]


def test_a_rolled_back_update_is_recorded_and_shown_until_one_is_accepted() -> None:
    training = Training(first(2), first(1), skill(5), first(3), None, max_epochs=5)
    shown = [[each.functions for each in failures] for _, _, failures, _ in training.optimizer.shown]
    assert shown == [[], [], [first(1)], [first(1), skill(5)], []]
    failure = training.optimizer.shown[2][2][0]
    assert (failure.step, failure.accuracy, failure.accuracy_before) == (2, 0.1, 0.2)
    assert training.state.failures == ()


def test_after_a_roll_back_the_best_set_is_edited_again() -> None:
    training = Training(first(2), first(1), first(3), max_epochs=3)
    assert [functions for functions, *_ in training.optimizer.shown] == [FunctionSet(), first(2), first(2)]


@pytest.mark.parametrize(("rule", "decision"), [("mean", "rolled_back"), ("paper", "accepted")])
def test_ties_are_decided_by_the_configuration(rule: str, decision: str) -> None:
    training = Training(first(2), skill(8, 9), max_epochs=2, acceptance=rule)
    assert training.decisions == ["accepted", decision]
    assert training.state.functions == (skill(8, 9) if rule == "paper" else first(2))


def test_a_run_of_an_older_version_keeps_its_rule() -> None:
    assert TrainerConfig.model_validate({"accept_ties": True}).acceptance == "paper"
    assert TrainerConfig.model_validate({"accept_ties": False}).acceptance == "mean"


def test_a_table_of_the_shown_answers_is_rolled_back() -> None:
    looked_up = Edits(AddFunction(function=first(3).functions[0]), shown=("p0", "p1", "p2"))
    training = Training(proposer=looked_up, max_epochs=1)
    assert training.decisions == ["rolled_back"]
    row = training.notes.rows[0]
    assert (row["before"]["accuracy"], row["after"]["accuracy"]) == (0.0, 0.3)
    (failure,) = training.state.failures
    assert (failure.accuracy_before, failure.accuracy) == (0.0, 0.0), "on the problems that count"
    judgement = row["candidates"][0]["judgement"]
    assert (judgement["n"], judgement["gained"], judgement["lost"]) == (7, 0, 0)
    assert Training(proposer=looked_up, max_epochs=1, acceptance="mean").decisions == ["accepted"]
    general = Edits(AddFunction(function=first(4).functions[0]), shown=("p0", "p1", "p2"))
    assert Training(proposer=general, max_epochs=1).decisions == ["accepted"]


def test_the_best_of_four_that_do_harm_is_rolled_back() -> None:
    # each gains two problems by chance and loses two that the old set solves: today's best of four, and no better
    start = TrainState(functions=skill(0, 1, 2, 3))
    unlucky = [skill(0, 1, 4 + i, 5 + i, 6 + i) for i in range(3)] + [skill(0, 4, 5)]
    training = Training(*unlucky, state=start, max_epochs=1, n_candidates=4)
    assert training.decisions == ["rolled_back"], "3 gained, 2 lost: no more than chance"
    assert Training(*unlucky, state=start, max_epochs=1, n_candidates=4, acceptance="mean").decisions == ["accepted"]


def test_an_edit_that_needs_another_is_rolled_out_with_it() -> None:
    bad, good = (f'def tool() -> str:\n    """{text}."""\n    return "x"\n' for text in ("Bad", "Good"))
    calls = 'def use() -> str:\n    """Use it."""\n    return tool()\n'
    add, revise, use = (
        AddFunction(function=Function(source=bad)),
        ReviseFunction(function=Function(source=good)),
        AddFunction(function=Function(source=calls)),
    )
    rollouts = Training(proposer=Edits(add, revise), max_epochs=1)
    tried = [each["actions"] for each in rollouts.notes.rows[0]["candidates"]]
    assert sorted(tried) == [["add_function tool"], ["add_function tool", "revise_function tool"]]
    needed = Training(proposer=Edits(add, use), max_epochs=1)
    assert ["add_function use"] not in [each["actions"] for each in needed.notes.rows[0]["candidates"]]


def test_a_removal_that_costs_nothing_is_kept() -> None:
    both = FunctionSet(functions=(*first(2).functions, *skill(99).functions))
    training = Training(first(2), state=TrainState(functions=both), max_epochs=1)
    assert training.decisions == ["accepted"]
    assert training.state.functions == first(2)


def test_what_is_in_a_set_twice_is_taken_out_if_that_costs_nothing() -> None:
    twice = FunctionSet(functions=(*first(3).functions, *skill(0, 1).functions))
    asked: list[tuple[str, ...]] = []

    async def merge(functions: FunctionSet, rollouts: Sequence[Trajectory]) -> Update:
        asked.append(functions.names)
        return Update(functions=functions).applying(Verified(action=RemoveFunction(name="solves_0_1")))

    training = Training(None, state=TrainState(functions=twice), max_epochs=2, patience=5, merge=merge)
    assert training.decisions == ["accepted", "skipped"]
    assert training.state.functions == first(3)
    assert (1, 1) in training.notes.kept, "it is written down before it is tried"
    assert asked == [twice.names], "one function cannot be there twice"
    again = Training(None, state=TrainState(functions=twice), max_epochs=1, merge=merge, notes=training.notes)
    assert len(asked) == 1, "a resumed run does not look again"
    assert again.state.functions == first(3)


def test_a_solved_batch_does_not_count_as_idle() -> None:
    solved = {int(each.id[1:]) for each in batch_of(PROBLEMS, 5, 0, 0)}
    start = TrainState(functions=skill(*solved))
    training = Training(None, None, state=start, batch_size=5, max_epochs=2, patience=1)
    assert training.decisions == ["skipped", "skipped"]
    assert len(training.optimizer.shown) == 1, "there is nothing to propose for a solved batch"
    everything = Training(state=TrainState(functions=first(10)), batch_size=5, max_epochs=9, patience=1)
    assert everything.state.stopped == "solved"
    assert everything.decisions == ["skipped"]


def test_a_tie_of_an_unchanged_set_is_no_accepted_update() -> None:
    training = Training(None, None, max_epochs=2, acceptance="paper")
    assert training.decisions == ["skipped", "skipped"]
    assert training.state.accepted == 0


# Stops


def test_training_stops_early_after_patience_updates_without_improvement() -> None:
    training = Training(first(2), first(1), first(1), first(3), max_epochs=9, patience=2)
    assert training.decisions == ["accepted", "rolled_back", "rolled_back"]
    assert training.state.stopped == "early_stop"
    assert training.state.functions == first(2)


def test_a_skipped_step_counts_towards_early_stop_and_is_no_failure() -> None:
    training = Training(first(1), None, FunctionSet(), None, max_epochs=9, patience=3)
    assert training.decisions == ["accepted", "skipped", "rolled_back", "skipped"]
    assert training.state.stopped == "early_stop"
    assert [each.step for each in training.state.failures] == [3]


def test_without_roll_back_every_update_is_kept_and_the_last_one_is_the_result() -> None:
    training = Training(first(3), first(1), None, first(2), max_epochs=4, roll_back=False)
    assert training.decisions == ["accepted", "accepted", "skipped", "accepted"]
    assert training.state.functions == first(2)
    assert training.state.failures == ()


def test_an_accepted_update_resets_the_patience() -> None:
    training = Training(first(1), first(0), first(2), first(0), first(3), first(0), max_epochs=6, patience=2)
    assert training.state.stopped == "max_epochs"
    assert training.state.step == 6


def test_a_skipped_step_rolls_nothing_out() -> None:
    training = Training(None, max_epochs=1)
    assert len(training.agent.attempts) == len(PROBLEMS)


def test_a_solved_training_set_ends_the_training() -> None:
    training = Training(first(4), first(10), first(3), max_epochs=9)
    assert training.decisions == ["accepted", "accepted"]
    assert training.state.stopped == "solved"
    assert training.state.functions == first(10)
    assert len(training.optimizer.shown) == 2


def test_a_solved_batch_is_not_a_solved_training_set() -> None:
    batches = [{each.id for each in batch_of(PROBLEMS, 5, 0, step)} for step in range(2)]
    solved = skill(*(int(each[1:]) for each in batches[0]))
    training = Training(solved, first(10), problems=PROBLEMS, batch_size=5, max_epochs=3)
    assert training.decisions[0] == "accepted"
    assert training.state.step == 3
    assert training.state.stopped == "max_epochs"


def paper(**changes: Any) -> dict[str, Any]:
    return {**PRESETS["paper"]["trainer"], **changes}


def test_the_paper_preset_counts_accepted_updates_with_the_baseline_as_the_first_epoch() -> None:
    plan = [each for i in range(1, 10) for each in (first(i), first(0))]
    training = Training(*plan, **paper())
    assert training.state.stopped == "max_epochs"
    assert training.decisions.count("accepted") == 9
    assert training.decisions.count("rolled_back") == 8, "rejected updates are free"


def test_the_paper_preset_stops_after_ten_updates_that_did_not_help() -> None:
    training = Training(first(2), *[first(1)] * 20, **paper())
    assert training.state.stopped == "early_stop"
    assert training.decisions == ["accepted"] + ["rolled_back"] * 10


def test_the_paper_preset_accepts_ties_and_the_default_does_not() -> None:
    assert Training(first(2), skill(8, 9), None, **paper(patience=1)).state.functions == skill(8, 9)
    assert Training(first(2), skill(8, 9), max_epochs=2).state.functions == first(2)


# Problems of a step


@pytest.mark.parametrize("size", [1, 3, 5, 7, 10])
def test_batches_cover_all_problems_in_each_epoch(size: int) -> None:
    per_epoch = -(-len(PROBLEMS) // size)
    for epoch in range(3):
        batches = [batch_of(PROBLEMS, size, 4, epoch * per_epoch + i) for i in range(per_epoch)]
        assert sorted(each.id for batch in batches for each in batch) == sorted(each.id for each in PROBLEMS)
        assert all(1 <= len(batch) <= size for batch in batches)


def test_batches_are_pure_functions_of_seed_and_step() -> None:
    later_first = [batch_of(PROBLEMS, 3, 1, step) for step in reversed(range(8))]
    assert later_first[::-1] == [batch_of(PROBLEMS, 3, 1, step) for step in range(8)]
    by_seed = {tuple(each.id for each in batch_of(PROBLEMS, 5, seed, 0)) for seed in range(5)}
    by_epoch = {tuple(each.id for each in batch_of(PROBLEMS, 5, 0, epoch * 2)) for epoch in range(5)}
    assert len(by_seed) > 1
    assert len(by_epoch) > 1, "each epoch has an order of its own"


def test_without_a_batch_size_every_step_has_all_problems_in_their_order() -> None:
    assert batch_of(PROBLEMS, None, 3, 7) == batch_of(PROBLEMS, 10, 3, 7) == batch_of(PROBLEMS, 99, 3, 7) == PROBLEMS


def test_two_sets_are_compared_on_the_same_problems() -> None:
    # Lucky on the problems of one batch: it must be judged on those of its own step, and against the old set on them.
    plan = [first(5), first(2), first(7), skill(9), None]
    training = Training(*plan, batch_size=4, max_epochs=5, patience=9, seed=3, acceptance="mean")
    assert len(training.notes.rows) == 5
    asked = [row for row in training.notes.rows if row["before"]["accuracy"] < 1]
    assert len(asked) == 4
    for row, (functions, attempts, _, _) in zip(asked, training.optimizer.shown, strict=True):
        batch = batch_of(PROBLEMS, 4, 3, row["step"] - 1)
        ids = {each.id for each in batch}
        assert [each.problem for each in attempts] == list(batch)
        assert row["before"]["n"] == row["after"]["n"] == len(batch)
        assert set(row["before"]["solved"]) <= ids
        assert set(row["after"]["solved"]) <= ids
        tried = {functions.fingerprint, row["fingerprint"]["after"]}
        for fingerprint in tried:
            done = {problem for each, problem in training.agent.attempts if each.fingerprint == fingerprint}
            assert ids <= done
        old, new = row["before"]["accuracy"], row["after"]["accuracy"]
        assert (row["decision"] == "accepted") == (new > old)


# Several candidates


def test_the_best_of_several_candidates_is_kept_on_the_same_problems() -> None:
    training = Training(first(2), first(5), first(3), max_epochs=1, n_candidates=3)
    assert training.decisions == ["accepted"]
    assert training.state.functions == first(5)
    row = training.notes.rows[0]
    assert [each["accuracy"] for each in row["candidates"]] == [0.5, 0.3, 0.2]
    assert row["after"]["n"] == row["before"]["n"] == len(PROBLEMS)
    assert len({seed for *_, seed in training.optimizer.shown}) == 3, "each is drawn from a seed of its own"
    assert training.state.usage.requests == 3, "what the others cost counts too"
    assert training.state.counts == ActionCounts(sampled=6, legal=6, verified=3)


def test_candidates_with_the_same_code_are_rolled_out_once() -> None:
    told = first(2).functions[0].source
    twin = FunctionSet.of(told.replace("return x", "return x  # the same"))
    training = Training(first(2), twin, None, max_epochs=1, n_candidates=3)
    assert len(training.agent.attempts) == 2 * len(PROBLEMS)
    assert training.state.functions == first(2)
    said = FunctionSet.of(told.replace("Solve them.", "Say it otherwise."))
    training = Training(first(2), said, None, max_epochs=1, n_candidates=3)
    assert len(training.agent.attempts) == 3 * len(PROBLEMS), "a docstring decides when a function is called"
    assert Training(None, None, max_epochs=1, n_candidates=2).decisions == ["skipped"]


def test_candidates_that_were_written_down_are_not_asked_for_again() -> None:
    whole = Training(first(2), first(5), first(3), max_epochs=1, n_candidates=3)
    notes = Notes()
    notes.keep_proposal(1, 1, whole.notes.kept[1, 1])
    rest = Training(first(2), first(3), notes=notes, max_epochs=1, n_candidates=3)
    assert len(rest.optimizer.shown) == 2
    assert rest.state == whole.state


# What is left


def test_every_step_is_written_down_and_told() -> None:
    training = Training(first(2), first(1), None, max_epochs=3)
    assert training.told == training.notes.rows
    row = training.notes.rows[0]
    assert row["functions"] == list(first(2).names)
    assert row["fingerprint"] == {"before": FunctionSet().fingerprint, "after": first(2).fingerprint}
    assert row["after"]["solved"] == ["p0", "p1"]
    assert row["tokens"]["rollouts"]["completion_tokens"] == 30
    assert training.notes.rows[1]["functions"] == list(first(2).names), "the set that stays"
    assert training.notes.written == {1: first(2)}
    assert training.notes.state == training.state
    assert training.state.counts == ActionCounts(sampled=6, legal=6, verified=3)
    assert training.state.usage.requests == 3


def test_a_state_survives_json() -> None:
    state = Training(first(2), first(1), max_epochs=2).state
    assert state.failures
    assert TrainState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_training_continues_from_any_state_as_if_it_had_not_stopped(after: int) -> None:
    plan = [first(2), first(1), first(4), None, first(3)]
    settings: dict[str, Any] = {"batch_size": 5, "patience": 9, "seed": 2}
    whole = Training(*plan, max_epochs=5, **settings)
    start = Training(*plan, max_epochs=after, **settings)
    rest = Training(*plan[after:], state=start.state, notes=start.notes, max_epochs=5, **settings)
    assert rest.state == whole.state
    drop = {"seconds"}
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in each.notes.rows] for each in (whole, rest)]
    assert rows[0] == rows[1]
    seeds = [seed for *_, seed in [*start.optimizer.shown, *rest.optimizer.shown]]
    assert seeds == [seed for *_, seed in whole.optimizer.shown]


def test_an_update_that_was_written_down_is_not_asked_for_again() -> None:
    notes = Notes()
    notes.keep_proposal(1, 0, Update(functions=first(3)))
    training = Training(first(4), notes=notes, max_epochs=2)
    assert [row["after"]["accuracy"] for row in notes.rows] == [0.3, 0.4]
    assert len(training.optimizer.shown) == 1


def test_the_seed_of_a_proposal_differs_between_steps_and_runs() -> None:
    seeds = [seed for run in (0, 1) for *_, seed in Training(max_epochs=3, patience=9, seed=run).optimizer.shown]
    assert len(set(seeds)) == 6


# Defects of the reference implementation (AutoGen 0.2), one test each where this layer could have them


def offered_tools(*plan: FunctionSet, **settings: Any) -> tuple[TrainState, list[set[str]]]:
    """Train with the real agent; the tools that the model was offered, per request."""
    model = ScriptedChatModel(lambda request: f"<answer>{len(request.tools)}</answer>")
    problems = [Problem(id=f"n{i}", question=f"How many tools? {i}", answer=str(i)) for i in range(4)]

    async def fit() -> TrainState:
        agent = make_agent(model, NO_SANDBOX, AgentConfig())
        rollouts = Rollouts(GradedAgent(agent, Quiz(), NO_SANDBOX), MemoryStore())
        trainer = Trainer(Planned(*plan), rollouts, Notes(), TrainerConfig(**settings))
        return await trainer.fit(problems, TrainState())

    state = asyncio.run(fit())
    return state, [{tool.name for tool in request.tools} for request in model.requests]


def named(*names: str) -> FunctionSet:
    return FunctionSet.of(*(f'def {name}(x: int) -> int:\n    """Do {name}."""\n    return x\n' for name in names))


def test_defect_2_removal_and_roll_back_reach_the_agent() -> None:
    state, tools = offered_tools(named("one", "two"), named("two"), max_epochs=2, acceptance="paper")
    assert tools == [set()] * 4 + [{"one", "two"}] * 4 + [{"two"}] * 4
    assert state.functions.names == ("two",)
    state, tools = offered_tools(named("one"), named("one", "two", "three", "four"), named("five"), max_epochs=3)
    assert state.functions == FunctionSet(), "each answer is right on one problem, so nothing is better"
    assert tools[-4:] == [{"five"}] * 4, "what was rolled back is gone"


def test_defect_3_rolling_back_to_the_empty_set_works() -> None:
    training = Training(skill(99), None, first(1), max_epochs=3)
    assert training.decisions == ["rolled_back", "skipped", "accepted"]
    training = Training(first(2), FunctionSet(), max_epochs=2)
    assert training.decisions == ["accepted", "rolled_back"]
    training = Training(skill(99), FunctionSet(), max_epochs=2, acceptance="paper")
    assert training.decisions == ["accepted", "accepted"]
    assert training.state.functions == FunctionSet()


def test_defect_4_every_transcript_stands_with_its_own_problem_and_label() -> None:
    training = Training(skill(1, 4, 7), None, max_epochs=2)
    assert len(training.optimizer.shown) == 2
    for (_, attempts, _, _), solved in zip(training.optimizer.shown, (set(), {1, 4, 7}), strict=True):
        assert [each.problem for each in attempts] == list(PROBLEMS)
        for number, each in enumerate(attempts):
            assert each.trajectory.problem_id == each.problem.id
            assert each.trajectory.steps[0].message.content == f"About {each.problem.question}"
            assert each.trajectory.correct == (number in solved)


def test_defect_5_no_update_is_returned_without_having_been_rolled_out() -> None:
    for plan in ([first(1), first(3)], [first(3), first(1)], [first(3), skill(9)]):
        training = Training(*plan, max_epochs=2)
        assert training.state.functions == first(3)
        tried = {problem for functions, problem in training.agent.attempts if functions == training.state.functions}
        assert tried == {each.id for each in PROBLEMS}


def optimize(script: Callable[[ChatRequest], Any], **settings: Any) -> tuple[Training, ScriptedChatModel]:
    """A training of five functions with the real optimizer; each problem is a kind of its own, so each gets edits."""
    model = ScriptedChatModel(script)
    config = OptimizerConfig(max_actions=3, n_samples=1, max_retries=0, concurrent=False)
    kinds = [each.model_copy(update={"kind": each.id}) for each in PROBLEMS]
    state = TrainState(functions=named("one", "two", "three", "four", "five"))
    proposer = Optimizer(model, Quiz(), NO_SANDBOX, config)
    return Training(proposer=proposer, problems=kinds, state=state, **settings), model


def test_defect_6_terminate_ends_the_step() -> None:
    training, model = optimize(lambda _: '{"action": "terminate"}', max_epochs=1)
    assert len(model.requests) == 1
    assert training.decisions == ["skipped"]


def test_defect_7_a_step_makes_no_more_than_max_actions() -> None:
    names = iter(["one", "two", "three", "four", "five"])
    training, model = optimize(
        lambda _: f'{{"action": "remove_function", "name": "{next(names)}"}}',
        max_epochs=1,
        acceptance="paper",
        try_edits=False,
    )
    assert len(model.requests) == 3
    assert training.state.functions == named("four", "five")
    assert [each["name"] for each in training.notes.rows[0]["actions"]] == ["one", "two", "three"]


# The test-time filter


def test_only_functions_that_were_called_successfully_are_kept() -> None:
    functions = named("good", "failing", "unused", "in_code", "in_failing_code")
    calls = [("good", False), ("good", True), ("failing", False)]
    executed = tuple(ToolRun(name=name, arguments={}, ok=ok, result="") for name, ok in calls)
    blocks = [("print(in_code())", True), ("def unused(): pass", True), ("in_failing_code()", False)]
    executed += tuple(ToolRun(name="python", arguments={"code": code}, ok=ok, result="") for code, ok in blocks)
    step = Step(message=Message(role="assistant"), executed=executed)
    trajectory = Trajectory(
        problem_id="p", functions="f", seed=0, steps=(step,), answer=None, stop_reason="max_turns", usage=Usage(),
        wall_s=0.0, grade=Grade(reward=0.0, reason=""),
    )  # fmt: skip
    assert used_functions(functions, [trajectory]).names == ("good", "in_code")
    assert used_functions(functions, []) == FunctionSet()


def test_a_bad_edit_does_not_take_a_good_one_down_with_it() -> None:
    good, bad = (f'def {name}() -> str:\n    """{name}."""\n    return "x"\n' for name in ("good", "bad"))

    class Counting:
        """Solves a problem only with ``good`` and without ``bad``."""

        async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
            right = "good" in functions and "bad" not in functions
            return Attempt(
                problem_id=problem.id,
                functions=functions.fingerprint,
                seed=seed,
                steps=(),
                answer=problem.answer if right else "wrong",
                stop_reason="answer",
                usage=Usage(),
                wall_s=0.0,
            )

    async def run(try_edits: bool) -> tuple[TrainState, list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        rollouts = Rollouts(GradedAgent(Counting(), Quiz(), NO_SANDBOX), MemoryStore())
        trainer = Trainer(
            Edits(*(AddFunction(function=Function(source=source)) for source in (bad, good))),
            rollouts,
            Notes(),
            TrainerConfig(max_epochs=1, try_edits=try_edits),
            on_step=lambda row: rows.append(row.model_dump(mode="json")),
        )
        problems = tuple(Problem(id=f"p{n}", question=f"q{n}", answer="a") for n in range(4))
        return await trainer.fit(problems, TrainState()), rows

    state, rows = asyncio.run(run(try_edits=True))
    assert state.functions.names == ("good",)
    assert [each["name"] for each in rows[0]["actions"]] == ["good"]
    assert {tuple(each["actions"]): each["accuracy"] for each in rows[0]["candidates"]} == {
        ("add_function good",): 1.0,
        ("add_function bad",): 0.0,
    }
    state, rows = asyncio.run(run(try_edits=False))
    assert state.functions == FunctionSet()
    assert rows[0]["decision"] == "rolled_back"


# Partial credit


class PartialQuiz(Quiz):
    """The task: half a reward for naming the problem's number, a whole one for the expected answer."""

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> Grade:
        if answer == problem.answer:
            return Grade(reward=1.0, reason="right")
        return Grade(reward=0.5 if answer == problem.id[1:] else 0.0, reason="the number alone is half of it")


class PartialAgent(SkilledAgent):
    """Answers half right with a function called ``half``, and as before otherwise."""

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Attempt:
        attempt = await super().solve(problem, functions, seed=seed)
        half = "half" in functions and attempt.answer != problem.answer
        return attempt.model_copy(update={"answer": problem.id[1:]}) if half else attempt


@pytest.mark.parametrize(("rewards", "decision"), [((0.1, 0.55), "accepted"), ((0.55, 0.1), "rolled_back")])
def test_the_mean_reward_decides_where_answers_are_partly_right(rewards: tuple[float, float], decision: str) -> None:
    """Both sets solve one problem of ten; the accuracy alone sees no difference."""
    solver = GradedAgent(PartialAgent(), PartialQuiz(), NO_SANDBOX)
    plain, partial = first(1), first(1).adding(Function(source='def half() -> int:\n    """Half."""\n    return 1\n'))
    old, new = (plain, partial) if rewards[0] < rewards[1] else (partial, plain)
    notes = Notes()

    async def fit() -> TrainState:
        rollouts = Rollouts(solver, MemoryStore())
        return await Trainer(Planned(new), rollouts, notes, TrainerConfig(max_epochs=1)).fit(
            PROBLEMS, TrainState(functions=old)
        )

    state = asyncio.run(fit())
    (row,) = notes.rows
    assert row["decision"] == decision
    assert (row["before"]["reward"], row["after"]["reward"]) == rewards
    assert row["before"]["accuracy"] == row["after"]["accuracy"] == 0.1
    assert state.functions == partial
