"""Trainings whose problems are offered only some of the functions."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest
from agentopt_local.errors import EngineDeadError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run.reader import read_report
from agentopt_local.run.writer import RunDir
from benchmarks.scripted import DOUBLE, REVERSE, brain, config_in
from ray_jobs.runs import new_run
from ray_jobs.terminal.printing import report_text
from tests.ray_jobs.test_training import Outcome, finish, read_lines

ONE_EACH = {"agent": {"max_functions": 1}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run_dir = new_run(config_in(tmp_path_factory.mktemp("undisturbed"), **ONE_EACH))
    return Outcome(run_dir.path, finish(run_dir, ScriptedChatModel(brain)))


def offers(run: Path) -> dict[tuple[str, str, int], tuple[str, ...]]:
    return {
        (row["functions"], row["problem_id"], row["seed"]): row["offered"] and tuple(row["offered"])
        for row in read_lines(run / "rollouts.jsonl")
    }


def test_a_problem_is_offered_the_function_of_its_kind(undisturbed: Outcome) -> None:
    both = undisturbed.state.functions
    assert [each.source for each in both.each()] == [REVERSE, DOUBLE]
    assert all(each.questions for each in both.each()), "they carry the questions that they were written for"
    for (functions, problem, _), offer in offers(undisturbed.path).items():
        if functions == both.fingerprint:
            assert offer == (("reverse",) if problem.startswith("r-") else ("double",))
    assert undisturbed.report["test"]["after"]["accuracy"] == 1.0


def test_a_set_no_larger_than_an_offer_leaves_no_trace(undisturbed: Outcome) -> None:
    with closing(RunDir(undisturbed.path)) as run_dir:
        made = [update.functions for update in run_dir.proposals().values()]
    small = {each.fingerprint for each in (FunctionSet(), *made) if len(each) < 2}
    assert len(small) > 1
    assert {offer for (functions, _, _), offer in offers(undisturbed.path).items() if functions in small} == {None}


def test_the_report_counts_offers_and_misses(undisturbed: Outcome) -> None:
    assert undisturbed.report["offers"] == {"functions": 2, "mean": 1.0, "judged": 7, "misses": 0}
    report = read_report(undisturbed.path)
    assert report is not None
    told = "Each problem was offered 1 of 2 functions on average; in 0 of 7 rollouts one that was written for"
    assert told in report_text(report)


def test_rollouts_that_are_the_same_with_another_set_are_paid_for_once(undisturbed: Outcome) -> None:
    rows = read_lines(undisturbed.path / "rollouts.jsonl")
    copies = [row for row in rows if row["copied"]]
    assert copies
    made = {(row["view"], row["problem_id"], row["seed"]): row for row in rows if not row["copied"]}
    assert len(made) == len(rows) - len(copies)
    for row in copies:
        same = made[row["view"], row["problem_id"], row["seed"]]
        assert (row["steps"], row["grade"]) == (same["steps"], same["grade"])
    costs = undisturbed.report["costs"]
    stages = [each for stage, each in costs["stages"].items() if stage != "proposals"]
    paid = sum(row["usage"]["requests"] for row in made.values())
    assert costs["agent"]["tokens"]["requests"] == paid == sum(each["tokens"]["requests"] for each in stages)


def test_an_interrupted_training_makes_the_same_offers(tmp_path: Path, undisturbed: Outcome) -> None:
    asked = 0

    def dies(request: ChatRequest) -> Any:
        nonlocal asked
        asked += 1
        return EngineDeadError("the engine died") if asked > 60 else brain(request)

    run_dir = new_run(config_in(tmp_path, **ONE_EACH))
    with pytest.raises(EngineDeadError):
        finish(run_dir, ScriptedChatModel(dies))
    continued = Outcome(run_dir.path, finish(RunDir(run_dir.path), ScriptedChatModel(brain)))
    assert offers(continued.path) == offers(undisturbed.path)
    assert continued.state == undisturbed.state
    assert continued.report["test"] == undisturbed.report["test"]


def test_source_questions_of_the_start_set_decide_in_training_and_test(tmp_path: Path) -> None:
    """Two functions that their names and docstrings do not tell apart, and a resume that reads them from the folder."""
    double = DOUBLE.replace("twice x", "it").replace("double", "f_a")
    reverse = REVERSE.replace("word reversed", "it").replace("reverse", "f_b")
    start = FunctionSet(
        functions=(
            Function(source=double).for_questions(["Double: 99"]),
            Function(source=reverse).for_questions(["Reverse: owl"]),
        )
    )

    def agent(request: ChatRequest) -> str:
        last = request.messages[-1]
        if last.role == "tool" or not request.tools:
            return f"<answer>{last.content}</answer>"
        (tool,), (_, _, given) = request.tools, last.content.partition(": ")
        arguments = {"x": int(given)} if given.isdigit() else {"word": given}
        return f"<tool_call>\n{json.dumps({'name': tool.name, 'arguments': arguments})}\n</tool_call>"

    run_dir = new_run(config_in(tmp_path, **ONE_EACH), start)
    report = finish(run_dir, ScriptedChatModel(agent))
    asked = {key[1]: offer for key, offer in offers(run_dir.path).items() if key[0] == start.fingerprint}
    assert len(asked) == 12 + 7
    assert {offer for problem, offer in asked.items() if problem.startswith("r-")} == {("f_b",)}
    assert {offer for problem, offer in asked.items() if problem.startswith("d-")} == {("f_a",)}
    assert report["offers"]["judged"] == 0, "what a start set was written for is not known"
