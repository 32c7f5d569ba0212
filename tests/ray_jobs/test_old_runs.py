"""Run folders written by commit 28c0592 still work: they can be resumed, reported, followed and exported.

``old_runs/finished`` and ``old_runs/stopped`` (after its first step) are from one small training with two candidates
per step, made with the scripted model. In step 1 the first candidate was accepted; the second was drawn last.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest
from agentopt_local.exporting.learned import read_learned
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.reporting.data import run_page
from agentopt_local.run.reader import read_config as read_values
from agentopt_local.run.reader import read_run
from agentopt_local.run.tail import RunTail
from agentopt_local.run.writer import RunDir
from benchmarks import scripted
from benchmarks.scripted import DOUBLE, REVERSE, SHORT_ONLY, WORSE
from ray_jobs.cli import main
from ray_jobs.config import build
from ray_jobs.runs import read_config
from ray_jobs.training import train

OLD = Path(__file__).parent / "old_runs"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old runs, in the folder from which they were started."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(prompt: str) -> tuple[dict[str, str], str]:
    """The optimizer of the old runs: what it writes depends on the problems that it is shown."""
    if "Double: " in prompt:
        return {"action": "add_function", "name": "double"}, DOUBLE
    if "`reverse(" not in prompt:
        return {"action": "add_function", "name": "reverse"}, SHORT_ONLY if "Reverse: monkey" in prompt else WORSE
    return {"action": "revise_function", "name": "reverse"}, REVERSE if "did not help" in prompt else WORSE


def brain(request: ChatRequest) -> str:
    return scripted.brain(request)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def common(written: Any, old: Any) -> Any:
    """What ``written`` has of the keys of ``old``, at every level: newer versions add keys with defaults."""
    if isinstance(written, dict) and isinstance(old, dict):
        return {key: common(written[key], old[key]) for key in old}
    if isinstance(written, list) and isinstance(old, list) and len(written) == len(old):
        return [common(*pair) for pair in zip(written, old, strict=True)]
    return written


def test_every_row_is_read_back_as_it_was_written(runs: Path) -> None:
    run_dir = RunDir(runs / "finished")
    try:
        steps, state = run_dir.steps(), run_dir.resume()
        rollouts, proposals, costs = list(run_dir.rollouts()), run_dir.proposals(), run_dir.costs()
    finally:
        run_dir.close()
    assert [step.decision for step in steps] == ["accepted", "accepted", "rolled_back", "accepted"]
    assert [str(each.stage) for each in rollouts] == [row["stage"] for row in rows(OLD / "finished/rollouts.jsonl")]
    assert len(costs) == len(rows(OLD / "finished/costs.jsonl"))
    assert set(proposals) == {(step, candidate) for step in (1, 2, 3, 4) for candidate in (0, 1)}
    assert state.stopped == "solved"
    for each, row in zip(rollouts, rows(OLD / "finished/rollouts.jsonl"), strict=True):
        assert common(each.on_disk(), row) == row
    for old, new in zip(rows(OLD / "finished/steps.jsonl"), steps, strict=True):
        written = new.model_dump(mode="json")
        same = {key: old[key] for key in old if key not in ("before", "after", "candidates")}
        assert common(written, same) == same
        assert written["after"]["reward"] == old["after"]["accuracy"], "exact tasks: the mean reward is the accuracy"


def test_settings_that_they_did_not_have_mean_as_before(runs: Path) -> None:
    assert not read_config(runs / "stopped").optimizer.group_by_likeness
    assert read_config(runs / "stopped", ["--optimizer.group_by_likeness", "true"]).optimizer.group_by_likeness
    values = {**read_values(runs / "stopped"), "run_name": "again"}
    assert build(values, "a new run").optimizer.group_by_likeness
    assert not build({**values, "preset": "paper"}, "a new run").optimizer.group_by_likeness


def test_a_stopped_one_is_resumed_to_the_same_end(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "plan", plan)
    before = rows(runs / "stopped/rollouts.jsonl")
    run_dir = RunDir(runs / "stopped")
    try:
        job = train(read_config(run_dir.path), run_dir, model=ScriptedChatModel(brain))
        report = asyncio.run(job)
    finally:
        run_dir.close()
    assert rows(runs / "stopped/rollouts.jsonl")[: len(before)] == before, "what was done is not done again"
    finished = json.loads((OLD / "finished/report.json").read_text())
    assert report.test is not None
    difference = report.test.model_dump(mode="json")["difference"]
    before = finished["test"]["difference"]
    assert {**difference, "ci95": None} == {**before, "ci95": None}, "only the interval is computed in another way now"
    assert [each.name for each in report.functions] == [each["name"] for each in finished["functions"]]
    story = [(row["step"], row["decision"], row["functions"]) for row in rows(runs / "stopped/steps.jsonl")]
    assert story == [(row["step"], row["decision"], row["functions"]) for row in rows(OLD / "finished/steps.jsonl")]


def test_a_report_shows_the_edits_that_were_kept_not_those_drawn_last(runs: Path) -> None:
    page = run_page(read_run(runs / "finished")).summary
    assert page["notes"] == []
    functions = {each["name"]: each for each in page["functions"]}
    history = functions["reverse"]["history"]
    assert [(edit["step"], edit["kept"], edit["source"]) for edit in history] == [
        (1, True, SHORT_ONLY),
        (1, False, WORSE),
        (3, False, WORSE),
        (4, True, REVERSE),
    ]
    assert functions["reverse"]["source"] == REVERSE
    assert [result["split"] for result in page["results"]] == ["test", "train"]


def test_show_report_watch_and_export_work(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "finished"]) == 0
    assert REVERSE in capsys.readouterr().out
    assert main(["report", "finished"]) == 0
    assert main(["watch", "finished"]) == 0
    assert "Held-out problems: 3" in capsys.readouterr().out
    tail = RunTail(runs / "finished")
    assert [row.step for row in tail.steps()] == [1, 2, 3, 4]
    assert tail.metrics()
    assert main(["export", "finished", "--format", "openai"]) == 0
    assert main(["export", "finished", "--format", "python"]) == 0


def test_no_path_leaves_in_an_export(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = read_values(runs / "finished")
    secret = "/home/ada/secret project"
    specs = {
        f"jsonl:{secret}/words.jsonl": "jsonl:words.jsonl",
        f"math:{secret}/MATH?type=Algebra&level=1-3": "math:MATH?type=Algebra&level=1-3",
        f"tabmwp:{secret}/tabmwp": "tabmwp:tabmwp",
        f"gaia:{secret}/gaia": "gaia:gaia",
        f"gsm8k:{secret}/gsm8k/": "gsm8k:gsm8k",
    }
    for number, (spec, public) in enumerate(specs.items()):
        values["task"]["spec"] = spec
        values["model"]["name"] = f"{secret}/model"
        (runs / "finished/config.json").write_text(json.dumps(values))
        assert read_learned(runs / "finished").provenance.task == public
        assert main(["export", "finished", "--format", "python", "--output", f"out{number}"]) == 0
        for path in (runs / f"out{number}").rglob("*"):
            if path.is_file():
                assert not re.search("ada|secret", path.read_text(encoding="utf-8")), path
    capsys.readouterr()
