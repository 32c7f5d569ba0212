"""X4: a training that learns nothing says why in its log, in ``agentopt show``, in report.json and in the report."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentopt_local.chat import ChatRequest
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.reporting.data import run_page
from agentopt_local.reporting.html import report_html
from agentopt_local.run.reader import read_report, read_run, read_state
from benchmarks.scripted import agent, config_in, optimizer
from ray_jobs.cli import main
from ray_jobs.lifecycle import train_run
from ray_jobs.runs import new_run
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import report_text

WRONG = 'return "nothing of the kind"'


def useless(request: ChatRequest) -> str:
    """Both roles; all functions of the optimizer answer no problem."""
    if not (request.conversation or "").startswith("optimizer/"):
        return agent(request)
    text = optimizer(request)
    return text.partition("    return")[0] + f"    {WRONG}\n" if text.startswith("def ") else text


def trained(folder: Path, script: Any, *, context_tokens: int | None = None, **optimizer: Any) -> tuple[Path, str]:
    """The folder of a finished training, and what was shown of it."""
    drafts = {"n_samples": 2, "max_actions": 2, "max_retries": 0, "extra_edits": 0, **optimizer}
    config = config_in(folder, optimizer=drafts, trainer={"max_epochs": 1, "noise_floor": False})
    run_dir = new_run(config)
    shown = io.StringIO()
    model = ScriptedChatModel(script, context_tokens=context_tokens)
    asyncio.run(train_run(config, run_dir, display=Display(Console(file=shown, width=400)), model=model))
    return run_dir.path, shown.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return trained(tmp_path_factory.mktemp("useless"), useless)


def test_x4_the_log_and_the_screen_say_why_a_step_was_skipped(run: tuple[Path, str]) -> None:
    path, shown = run
    why = "no function of 2 drafts answered enough of the shown problems: the best answered 0 of "
    assert f"nothing was applied: reverse: {why}" in shown
    assert f"nothing was applied: double: {why}" in shown
    assert why in (path / "run.log").read_text()


def test_x4_report_json_says_why(run: tuple[Path, str]) -> None:
    report = json.loads((run[0] / "report.json").read_text())
    (because,) = report["nothing_learned"]["because"]
    assert because.startswith("step 1: ")
    assert "reverse: no function" in because
    assert "optimizer.n_samples" in report["nothing_learned"]["remedies"][0]
    assert "Nothing was learned, because\n  step 1: " in report_text(stored(run[0]))
    (step,) = [json.loads(line) for line in (run[0] / "steps.jsonl").read_text().splitlines()]
    assert {each["kind"]: each["end"] for each in step["outcomes"]} == {"reverse": "unmatched", "double": "unmatched"}


def stored(path: Path) -> Any:
    report = read_report(path)
    assert report is not None
    return report


def test_x4_show_says_why_with_and_without_a_report(run: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run[0])]) == 0
    said = capsys.readouterr().err
    assert said.count("Nothing was learned, because") == 1
    assert "optimizer.n_samples" in said
    report = run[0] / "report.json"
    kept = report.read_text()
    report.unlink()
    try:
        assert main(["show", str(run[0])]) == 0
    finally:
        report.write_text(kept)
    assert "Nothing was learned, because" in capsys.readouterr().err


def test_x4_the_html_report_says_why(run: tuple[Path, str]) -> None:
    page = run_page(read_run(run[0]))
    assert "reverse: no function" in page.summary["nothing"]["because"][0]
    assert "reverse: no function" in page.summary["steps"][0]["why"][0]
    html = report_html([page])
    assert "Nothing was learned, because" in html
    assert "What to try" in html


def test_x3_drafts_that_never_fitted_are_in_the_step_s_row(tmp_path: Path) -> None:
    path, shown = trained(tmp_path, useless, context_tokens=900)
    (step,) = [json.loads(line) for line in (path / "steps.jsonl").read_text().splitlines()]
    assert step["counts"]["unfit"] == 4
    assert "the context had no room for any of 2 drafts" in shown
    assert "engine.max_model_len" in json.loads((path / "report.json").read_text())["nothing_learned"]["remedies"][0]
    state = read_state(path)
    assert state is not None
    assert state.counts.unfit == 4


def test_a_training_that_learned_something_has_no_such_part(tmp_path: Path) -> None:
    def useful(request: ChatRequest) -> str:
        text = useless(request)
        return text.replace(WRONG, "return word[::-1]") if "def reverse" in text else text

    path, shown = trained(tmp_path, useful)
    report = json.loads((path / "report.json").read_text())
    assert report["training"]["accepted"] == 1
    assert "nothing_learned" not in report
    assert "nothing was applied" not in shown
    assert run_page(read_run(path)).summary["nothing"] is None
