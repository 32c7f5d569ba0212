"""The baselines beside the trained agent: which ones, on what they are measured, and for how many tokens."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.reporting.data import run_page
from agentopt_local.run.reader import read_run
from agentopt_local.run.report import Arm, Report
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from benchmarks.scripted import SHORT_ONLY, brain, config_in
from ray_jobs.baselines import tokens
from ray_jobs.config import build
from ray_jobs.evaluation import evaluate
from ray_jobs.evaluation_config import EvaluationConfig
from ray_jobs.runs import new_run, read_config
from ray_jobs.terminal.printing import report_text
from ray_jobs.training import train

ALL = ["untrained", "placebo", "self_consistency", "self_consistency_total", "one_shot"]


def lucky(request: ChatRequest) -> str:
    """The script, but without functions the agent doubles right with two of three seeds, in two ways to write it."""
    last = request.messages[-1].content
    seed = request.sampling.seed or 0
    if last.startswith("Double: ") and request.sampling.temperature > 0:
        right = 2 * int(last[8:])
        return f"<answer>{(f'not {seed}', f'{right}.0', right)[seed % 3]}</answer>"
    return brain(request)


def trained(run_dir: RunDir, script: Any = lucky) -> Report:
    try:
        return asyncio.run(train(read_config(run_dir.path), run_dir, model=ScriptedChatModel(script)))
    finally:
        run_dir.close()


def settings(folder: Path, baselines: Any = ALL, grader: str = "numeric", **more: Any) -> Any:
    config = config_in(folder, evaluation={"baselines": baselines}, **{"trainer": {"max_epochs": 6}, **more})
    task = config.task.model_copy(update={"settings": {"grader": grader}})
    return config.model_copy(update={"task": task})


def arms(report: Report) -> dict[str, Arm]:
    assert report.test is not None
    return {each.name: each for each in report.test.arms}


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    run_dir = new_run(settings(tmp_path_factory.mktemp("whole")))
    return run_dir.path, trained(run_dir)


def test_every_arm_is_measured_and_compared_on_the_same_problems(whole: tuple[Path, Report]) -> None:
    run, report = whole
    test = report.test
    assert test is not None
    assert test.before.correct == 0
    assert test.after.correct == test.n == 7
    assert not test.same_set
    found = arms(report)
    assert list(found) == ALL[1:]
    placebo, votes, total, one_shot = found.values()
    assert placebo.result is not None and placebo.difference is not None
    assert (placebo.result.correct, placebo.difference.gained, placebo.functions) == (0, 7, ("repeat_text",))
    assert one_shot.result is not None and one_shot.difference is not None
    assert one_shot.functions == ("reverse",)
    assert (one_shot.result.correct, one_shot.difference.points) == (2, round(500 / 7, 2)), "it reverses short words"
    assert total.result is not None and total.difference is not None
    assert total.result.correct == 3, "the votes double right, written in two ways, and reverse nothing"
    assert total.difference.gained == 4
    assert (votes.functions, placebo.votes, placebo.budget) == ((), None, None)
    problems = {stage: {row["problem_id"] for row in rows(run) if row["stage"] == stage} for stage in
                ("test before", "test after", "test placebo", "test one-shot", "test votes")}  # fmt: skip
    assert len(set(map(frozenset, problems.values()))) == 1
    assert "train one-shot" not in {row["stage"] for row in rows(run)}, "there is no filter"


def test_votes_never_take_more_tokens_than_their_budget(whole: tuple[Path, Report]) -> None:
    run, report = whole
    found = arms(report)
    spent: Counter[str] = Counter()
    for row in rows(run):
        stage = Stage.parse(row["stage"])
        name = "training" if stage.step is not None else stage.part if stage.split == "test" else "other"
        if name == "training" and row["copied"]:
            continue  # was paid for once
        spent[name] += row["usage"]["prompt_tokens"] + row["usage"]["completion_tokens"]
    optimizer = tokens(report.tokens["optimizer"])
    assert optimizer > 0
    test_alone, total = found["self_consistency"], found["self_consistency_total"]
    assert test_alone.budget == spent["after"]
    assert total.budget == spent["after"] + spent["training"] + optimizer, "the noise floor is no part of a training"
    for each in (test_alone, total):
        assert each.result is not None and each.votes is not None and each.budget is not None
        used = tokens(each.result.tokens)
        assert used <= each.budget
        assert used + used / each.votes > each.budget, "one more vote would be too much"
    assert total.votes is not None and test_alone.votes is not None
    assert total.votes > test_alone.votes >= 1
    made = sum(row["stage"] == "test votes" for row in rows(run)) / 7
    assert made in (total.votes, total.votes + 1), "both share their rollouts; the last one may have cost too much"


def test_it_is_told_side_by_side(whole: tuple[Path, Report]) -> None:
    run, report = whole
    text = report_text(report)
    votes = arms(report)["self_consistency_total"].votes
    assert "Baselines on the same problems, and the trained agent's change against each:" in text
    assert f"votes for the tokens of training and test ({votes} per problem): 42.9 %   95 % interval" in text
    assert "placebo function: 0.0 %" in text
    assert text.count("+100.0 points") == 2, "against the untrained agent and the placebo"
    [result] = [each for each in run_page(read_run(run)).summary["results"] if each["split"] == "test"]
    assert [each["name"] for each in result["arms"]] == ALL[1:]
    assert result["arms"][0]["difference"]["gained"] == 7
    assert json.loads((run / "report.json").read_text())["test"]["arms"] == result["arms"]
    assert "test votes" in report.costs.stages


def test_a_finished_run_asks_nothing_again(whole: tuple[Path, Report]) -> None:
    run, report = whole
    silent = ScriptedChatModel([])
    run_dir = RunDir(run)
    try:
        again = asyncio.run(train(read_config(run), run_dir, model=silent))
        asyncio.run(evaluate(read_config(run), run_dir, split="test", n=7, model=silent))
    finally:
        run_dir.close()
    assert silent.requests == []
    assert again.test == report.test


@pytest.mark.parametrize("share", [0.75, 0.9])
def test_a_resume_finishes_what_is_missing(share: float, whole: tuple[Path, Report], tmp_path: Path) -> None:
    asked, most = 0, round(share * sum(len(row["steps"]) for row in rows(whole[0])))

    def dies(request: ChatRequest) -> Any:
        nonlocal asked
        asked += 1
        return EngineDeadError("gone") if asked > most else lucky(request)

    run_dir = new_run(settings(tmp_path))
    with pytest.raises(EngineDeadError):
        trained(run_dir, dies)
    report = trained(RunDir(run_dir.path))
    assert report.test == whole[1].test
    keys = Counter((row["functions"], row["problem_id"], row["seed"]) for row in rows(run_dir.path))
    assert set(keys.values()) == {1}
    assert len(keys) == len(rows(whole[0]))


def test_the_first_proposal_passes_the_filter_that_the_trained_set_passes(tmp_path: Path) -> None:

    def script(request: ChatRequest) -> str:
        """Proposes a function that the agent never calls."""
        if request.constraint is not None and '"def reversed_word(' in request.constraint.value:
            return SHORT_ONLY.replace("def reverse(", "def reversed_word(")
        return brain(request).replace('"reverse"', '"reversed_word"')

    run_dir = new_run(settings(tmp_path, ["one_shot"], trainer={"max_epochs": 1, "keep_only_used": True}))
    report = trained(run_dir, script)
    [proposed] = read_run(run_dir.path).proposals[1].values()
    assert proposed.functions.names == ("reversed_word",)
    [one_shot] = arms(report).values()
    assert one_shot.functions == ()
    assert one_shot.same_set and one_shot.difference is None, (
        "nothing was accepted, and nothing is left of the proposal"
    )
    assert report.test is not None and report.test.same_set
    text = report_text(report)
    assert "change  none: both are the agent without functions" in text
    assert "first proposal: 0.0 %" in text and "the same set as the trained agent's" in text


def test_a_set_is_not_compared_with_itself(tmp_path: Path) -> None:
    report = trained(new_run(settings(tmp_path, ["one_shot"], trainer={"max_epochs": 1})))
    [one_shot] = arms(report).values()
    assert report.functions[0].name == "reverse"
    assert one_shot.same_set and one_shot.difference is None
    assert report.test is not None and not report.test.same_set
    assert "the same set as the trained agent's, so there is nothing to compare" in report_text(report)


def test_where_not_one_vote_fits_it_is_said(tmp_path: Path) -> None:
    def script(request: ChatRequest) -> str:
        """Untrained and warm, the agent takes more turns than the trained one."""
        optimizing = (request.conversation or "").startswith("optimizer/")
        if optimizing or request.tools or not request.sampling.temperature or len(request.messages) > 6:
            return brain(request)
        return f"```python\nprint({len(request.messages)})\n```"

    report = trained(new_run(settings(tmp_path, ["self_consistency", "self_consistency_total"])), script)
    alone, total = arms(report)["self_consistency"], arms(report)["self_consistency_total"]
    assert (alone.votes, alone.result, alone.difference) == (0, None, None)
    assert f"not even one vote per problem fits into {alone.budget:,} tokens" in report_text(report)
    assert total.votes and total.result is not None


def test_the_number_of_votes_has_a_limit(tmp_path: Path) -> None:
    config = settings(tmp_path, ["self_consistency_total"])
    limited = config.evaluation.model_copy(update={"max_votes": 2})
    report = trained(new_run(config.model_copy(update={"evaluation": limited})))
    assert arms(report)["self_consistency_total"].votes == 2


def test_which_baselines_are_tested_by_default() -> None:
    auto = EvaluationConfig()
    assert auto.arms("gpu") == tuple(ALL[1:])
    assert auto.arms("cpu") == auto.arms("endpoint") == auto.arms("external") == ("placebo",)
    assert EvaluationConfig(baselines=("one_shot", "placebo")).arms("cpu") == ("placebo", "one_shot")
    assert EvaluationConfig(baselines=("untrained",)).arms("gpu") == EvaluationConfig(baselines=()).arms("gpu") == ()
    with pytest.raises(ConfigError, match=r"evaluation.baselines.*untraind"):
        build({"task": {"spec": "reasoning_gym:gcd"}, "evaluation": {"baselines": ["untraind"]}}, "run.toml")


def test_another_split_has_the_baselines_too(tmp_path: Path) -> None:
    run_dir = new_run(settings(tmp_path, ["placebo"], trainer={"max_epochs": 1}))
    trained(run_dir)
    reopened = RunDir(run_dir.path)
    try:
        report = asyncio.run(
            evaluate(read_config(run_dir.path), reopened, split="train", n=12, model=ScriptedChatModel(brain))
        )
    finally:
        reopened.close()
    assert report.train is not None
    assert [each.name for each in report.train.arms] == ["placebo"]
