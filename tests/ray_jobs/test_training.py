"""A whole training with the scripted model and the real sandbox: undisturbed, killed, and continued.

Run as a script, this file is the process to be killed: ``python test_training.py CONFIG_DIR``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatRequest
from agentopt_local.errors import ConfigError, EngineDeadError, RunDirError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run.rows import StepRow
from agentopt_local.run.writer import RunDir
from agentopt_local.train_state import TrainState
from benchmarks.scripted import DOUBLE, REVERSE, SHORT_ONLY, brain, config_in, rows
from ray_jobs.runs import new_run, read_config
from ray_jobs.training import train


def finish(run_dir: RunDir, model: ScriptedChatModel, **more: Any) -> dict[str, Any]:
    """Train in this process until the report."""
    try:
        config = read_config(run_dir.path)
        return asyncio.run(train(config, run_dir, model=model, **more)).on_disk()
    finally:
        run_dir.close()


class Outcome:
    """What a finished run left."""

    def __init__(self, path: Path, report: dict[str, Any]) -> None:
        self.path = path
        self.report = report
        self.steps = read_lines(path / "steps.jsonl")
        self.rollouts = read_lines(path / "rollouts.jsonl")
        self.state = TrainState.model_validate_json((path / "state.json").read_text())

    def story(self) -> list[dict[str, Any]]:
        """The steps without what depends on time."""
        return [{key: value for key, value in row.items() if key != "seconds"} for row in self.steps]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run_dir = new_run(config_in(tmp_path_factory.mktemp("undisturbed")))
    report = finish(run_dir, ScriptedChatModel(brain))
    return Outcome(run_dir.path, report)


# The whole run


def test_the_steps_tell_the_story(undisturbed: Outcome) -> None:
    told = [(row["decision"], row["before"]["accuracy"], row["after"]["accuracy"]) for row in undisturbed.steps]
    twelfths = [(decision, round(12 * old), round(12 * new)) for decision, old, new in told]
    assert twelfths == [
        ("accepted", 0, 3),
        ("accepted", 3, 8),
        ("rolled_back", 8, 5),
        ("accepted", 8, 12),
    ]
    actions = [(each["kind"], each["name"]) for row in undisturbed.steps for each in row["actions"]]
    assert actions == [
        ("add_function", "reverse"),
        ("add_function", "double"),
        ("revise_function", "reverse"),
        ("revise_function", "reverse"),
    ]
    for row in undisturbed.steps:
        assert row["before"]["n"] == row["after"]["n"] == 12
        assert row["seconds"] >= 0
        # the action, its source, arguments for its trials and, if these were right, for the other problems of the kind
        assert row["tokens"]["optimizer"]["requests"] in (3, 4)
        assert row["tokens"]["rollouts"]["completion_tokens"] > 0
    assert [each.source for each in undisturbed.state.functions.each()] == [REVERSE, DOUBLE]
    assert undisturbed.state.stopped == "solved"


def test_the_report_has_the_promised_form(undisturbed: Outcome) -> None:
    report = json.loads((undisturbed.path / "report.json").read_text())
    assert report == undisturbed.report
    assert report["task"].startswith("jsonl:")
    assert isinstance(report["model"], str)
    test = report["test"]
    assert test["n"] == 7
    assert (test["before"]["accuracy"], test["after"]["accuracy"]) == (0.0, 1.0)
    for side in ("before", "after"):
        low, high = test[side]["ci95"]
        assert 0 <= low <= test[side]["accuracy"] <= high <= 1
    difference = test["difference"]
    assert difference["points"] == 100.0
    assert difference["ci95"] == [29.13, 100.0]
    assert difference["p_value"] == pytest.approx(2 * 0.5**7)
    functions = {each["name"]: each for each in report["functions"]}
    assert set(functions) == {"reverse", "double"}
    assert (functions["reverse"]["calls"], functions["reverse"]["solved"]) == (4, 4)
    assert (functions["double"]["calls"], functions["double"]["ok"]) == (3, 3)
    counts = report["actions"]
    assert {name: count for name, count in counts.items() if count} == {
        "sampled": 4, "legal": 4, "verified": 4, "applied": 4
    }  # fmt: skip
    assert report["tokens"]["optimizer"]["completion_tokens"] > 0
    parts = report["seconds"].pop("parts")
    assert all(isinstance(seconds, float) for seconds in (*report["seconds"].values(), *parts.values()))


def test_functions_are_written_after_each_accepted_step(undisturbed: Outcome) -> None:
    folders = sorted(undisturbed.path.glob("functions/*"))
    assert [folder.name for folder in folders] == ["0001", "0002", "0004"]
    written = {
        str(file.relative_to(folders[0].parent)): file.read_text() for each in folders for file in each.glob("*.py")
    }
    for each in folders:
        assert set(json.loads((each / "questions.json").read_text())) == {file.stem for file in each.glob("*.py")}
    assert written == {
        "0001/reverse.py": SHORT_ONLY,
        "0002/reverse.py": SHORT_ONLY,
        "0002/double.py": DOUBLE,
        "0004/reverse.py": REVERSE,
        "0004/double.py": DOUBLE,
    }


def test_the_settings_are_written_and_read_back(undisturbed: Outcome, tmp_path: Path) -> None:
    config = read_config(undisturbed.path)
    assert config.trainer.max_epochs == 6
    assert config.task.settings == {"grader": "exact"}
    assert config.model_dump(mode="json") == json.loads((undisturbed.path / "config.json").read_text())
    for preset in ("default", "paper"):
        given = config_in(tmp_path, preset=preset, run_name=preset, trainer={"patience": 2})
        run_dir = new_run(given)
        run_dir.close()
        assert read_config(run_dir.path) == given


def test_meta_says_what_the_run_depends_on(undisturbed: Outcome) -> None:
    meta = json.loads((undisturbed.path / "meta.json").read_text())
    assert {"agentopt_local", "python", "packages", "device", "model", "sandbox", "prompts", "started"} <= meta.keys()
    assert "optimizer" in meta["prompts"]
    assert "pydantic" in meta["packages"]


def test_every_rollout_was_run_once(undisturbed: Outcome) -> None:
    keys = Counter((row["functions"], row["problem_id"], row["seed"]) for row in undisturbed.rollouts)
    assert set(keys.values()) == {1}
    assert len(keys) == 5 * 12 + 3 * 7 + 2 * 4, "five sets in training; two and a placebo on the test; the noise floor"
    assert {row["grade"]["reward"] for row in undisturbed.rollouts} == {0.0, 1.0}


def test_test_problems_never_reach_the_optimizer(tmp_path: Path) -> None:
    model = ScriptedChatModel(brain)
    finish(new_run(config_in(tmp_path)), model)
    seen = "\n".join(
        request.model_dump_json() for request in model.requests if (request.conversation or "").startswith("optimizer/")
    )
    assert "Reverse: horse" in seen
    test = [row for row in rows() if row["split"] == "test"]
    assert [row["id"] for row in test if row["question"] in seen] == []


def test_a_finished_run_that_is_resumed_asks_nothing(undisturbed: Outcome) -> None:
    model = ScriptedChatModel([])
    report = finish(RunDir(undisturbed.path), model)
    assert model.requests == []
    drop = {"seconds"}
    assert {k: v for k, v in report.items() if k not in drop} == {
        k: v for k, v in undisturbed.report.items() if k not in drop
    }


# Interrupted and continued


def check_continued(run: Path, undisturbed: Outcome, done_before: list[dict[str, Any]]) -> None:
    """Continue ``run`` and compare it with the undisturbed one."""
    model = ScriptedChatModel(brain)
    outcome = Outcome(run, finish(RunDir(run), model))
    assert outcome.state == undisturbed.state
    assert outcome.story() == undisturbed.story()
    assert outcome.report["test"] == undisturbed.report["test"]
    assert outcome.report["functions"] == undisturbed.report["functions"]
    sessions = {request.conversation for request in model.requests}
    again = [row["problem_id"] for row in done_before if session_of(row) in sessions]
    assert again == [], "finished rollouts are not run again"
    keys = Counter(session_of(row) for row in outcome.rollouts)
    assert set(keys.values()) == {1}
    assert len(keys) == len(undisturbed.rollouts)


def session_of(row: dict[str, Any]) -> str:
    return f"{row['functions']}/{row['problem_id']}/{row['seed']}"


@pytest.mark.parametrize("at", [9, 36, 70])
def test_a_run_whose_engine_died_continues(at: int, tmp_path: Path, undisturbed: Outcome) -> None:
    asked = 0

    def dies(request: ChatRequest) -> Any:
        nonlocal asked
        asked += 1
        return EngineDeadError("the engine is gone") if asked >= at else brain(request)

    run_dir = new_run(config_in(tmp_path))
    with pytest.raises(EngineDeadError, match="the engine is gone"):
        finish(run_dir, ScriptedChatModel(dies))
    done = read_lines(run_dir.path / "rollouts.jsonl") if (run_dir.path / "rollouts.jsonl").exists() else []
    check_continued(run_dir.path, undisturbed, done)


def lines(name: str, n: int) -> Callable[[Path], bool]:
    """Whether a file of a run folder has ``n`` lines."""

    def reached(run: Path) -> bool:
        path = run / name
        return path.exists() and path.read_bytes().count(b"\n") >= n

    return reached


KILLS: dict[str, Callable[[Path], bool]] = {
    "before the first rollout": lambda run: (run / "config.json").exists(),
    "right after an update was written down": lines("proposals.jsonl", 1),
    "right after a step was written down": lines("steps.jsonl", 2),
    "in later rollouts": lines("rollouts.jsonl", 50),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_continues(moment: str, tmp_path: Path, undisturbed: Outcome) -> None:
    run = tmp_path / "run"
    errors = tmp_path / "errors.txt"
    with errors.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, __file__, str(tmp_path)], stderr=stderr)
        try:
            deadline = time.monotonic() + 60
            while not KILLS[moment](run):
                assert process.poll() is None, errors.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert not (run / "report.json").exists(), "the run ended before it was killed"
    path = run / "rollouts.jsonl"
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    check_continued(run, undisturbed, [json.loads(line) for line in whole.splitlines()])


def test_torn_last_lines_and_steps_without_their_state_are_mended(tmp_path: Path, undisturbed: Outcome) -> None:
    """What a kill between two writes leaves: steps.jsonl is ahead of state.json, other lines are cut in two."""
    run_dir = new_run(config_in(tmp_path))
    with pytest.raises(RuntimeError, match="enough"):
        finish(run_dir, ScriptedChatModel(brain), callbacks=[StopAfter(2)])
    run = run_dir.path
    state = TrainState.model_validate_json((run / "state.json").read_text())
    assert state.step == 2
    (run / "state.json").rename(run / "state.2")
    done = read_lines(run / "rollouts.jsonl")
    for name in ("rollouts.jsonl", "steps.jsonl", "proposals.jsonl"):
        with (run / name).open("ab") as file:
            file.write((run / name).read_bytes().splitlines()[0][:100])
    check_continued(run, undisturbed, done)


class StopAfter(Callback):
    """Raises an error after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row: StepRow) -> None:
        if row.step == self.step:
            raise RuntimeError("enough")


def test_a_run_that_is_under_way_cannot_be_resumed(tmp_path: Path) -> None:
    run_dir = new_run(config_in(tmp_path))
    try:
        with pytest.raises(RunDirError, match="in use by another agentopt process"):
            RunDir(run_dir.path)
    finally:
        run_dir.close()
    with pytest.raises(RunDirError, match="exists already; resume it"):
        new_run(config_in(tmp_path))


def test_a_task_that_lacks_problems_is_told_before_anything_starts(tmp_path: Path) -> None:
    model = ScriptedChatModel([])
    config = config_in(tmp_path)
    task = config.task.model_copy(update={"n_train": 500})
    with pytest.raises(ConfigError, match="has only 12 distinct train problems, not 500"):
        finish(new_run(config.model_copy(update={"task": task})), model)


def main(folder: Path) -> None:
    """The process that is killed: slow enough to be met anywhere."""
    finish(new_run(config_in(folder)), ScriptedChatModel(brain, latency_s=0.03))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
