"""What differs from the authors' regime is named from a run's own settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from agentopt_local.paper_regime import differences, shared_differences
from agentopt_local.reporting.data import run_page
from agentopt_local.run.reader import read_report, read_run
from ray_jobs.config import build
from ray_jobs.terminal.printing import report_text


def settings(**changes: Any) -> dict[str, Any]:
    """A run with the preset ``paper`` on MATH."""
    values = {"preset": "paper", "task": {"spec": "math:/data/math", "n_train": 20}, "model": {"name": "a-model"}}
    return build({**values, **changes}, "test").model_dump(mode="json")


def test_the_preset_still_differs_and_says_in_what() -> None:
    text = "\n".join(differences(settings()))
    for said in (
        "sampled under a grammar (agent.constrain)",
        "(agent.act_first)",
        "called on the shown problems and must not fail",
        "A draft goes back with its error, up to 9 times",
        "failed rollouts and no right ones for an edit (optimizer.n_evidence, optimizer.n_solved); theirs saw all 20",
        "shown the expected answers; theirs saw only right or wrong",
        "graded by mathematical value",
        "The agent's model is a-model; theirs was gpt-4-1106-preview.",
        "agent.max_turns = 6; theirs was 15.",
        "agent.temperature = 0; theirs was 1.",
    ):
        assert said in text
    assert "the preset, as their code" not in text, "the preset's own settings are not overridden"


def test_what_was_set_otherwise_is_said_or_no_longer_said() -> None:
    changed = settings(
        agent={"constrain": False, "max_turns": 15, "temperature": 1.0, "max_functions": 3},
        optimizer={"constrain": False, "max_retries": 0, "temperature": 1.0},
        trainer={"keep_only_used": False},
        model={"name": "gpt-4-1106-preview"},
    )
    text = "\n".join(differences(changed))
    for gone in ("grammar", "act_first", "max_turns", "temperature", "goes back with its error", "model is"):
        assert gone not in text
    assert "offered at most 3 functions (agent.max_functions); theirs all of them." in text
    assert "trainer.keep_only_used = false; the preset, as their code, has true." in text
    assert "optimizer.max_retries = 0; the preset, as their code, has 9." in text


def test_the_benchmark_decides_what_the_authors_did() -> None:
    tabmwp = "\n".join(differences(settings(task={"spec": "tabmwp:/data/tabmwp"}, agent={"kind": "react"})))
    assert "hard subset that was not released" in tabmwp
    assert "theirs was gpt-3.5-turbo-1106" in tabmwp
    assert "agent.max_turns = 6; theirs was 11." in tabmwp
    assert "expected answers" not in tabmwp, "there the authors show them too"
    assert "their ReAct agent's took one string" in tabmwp
    assert "one string" not in "\n".join(differences(settings(agent={"kind": "react", "one_string_argument": True})))


def test_differences_of_some_runs_only_name_them() -> None:
    found = shared_differences({"a": settings(), "b": settings(agent={"max_turns": 9})})
    assert "agent.max_turns = 6; theirs was 15. (Only: a.)" in found
    assert "agent.max_turns = 9; theirs was 15. (Only: b.)" in found
    assert sum("(Only" in each for each in found) == 2


def test_settings_of_older_versions_have_differences_too() -> None:
    assert differences({"preset": "paper", "task": {"spec": "math:x"}, "agent": {"gone": 1}})


def test_the_report_of_a_run_with_the_preset_shows_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "ray_jobs" / "old_runs" / "finished", run)
    assert run_page(read_run(run)).summary["regime"] == []
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "preset": "paper"}))
    shown = run_page(read_run(run)).summary["regime"]
    assert any("theirs had only to compile" in each for each in shown)

    report = read_report(run)
    assert report is not None
    assert "authors' regime" not in report_text(report)
    text = report_text(report.model_copy(update={"regime": tuple(shown)}))
    assert 'preset = "paper", but not the authors\' regime:' in text
    assert f"  {shown[0]}" in text
