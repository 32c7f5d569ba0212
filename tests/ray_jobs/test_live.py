"""What a run shows while it works: the live view, plain lines, ``agentopt watch``, metrics and TensorBoard files."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatRequest
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.record import Record
from agentopt_local.run.files import in_use
from agentopt_local.run.rows import MetricRow, Score, StepRow
from agentopt_local.run.tail import Tail
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from ray_jobs.commands.watch import watch
from ray_jobs.config import build
from ray_jobs.runs import new_run, read_config
from ray_jobs.tensorboard import open_events, scalars
from ray_jobs.terminal.display import Display
from ray_jobs.training import train

METRIC = MetricRow.model_validate({
    "time": 1.0, "seconds": 90.0, "step": 1, "stage": "step 2 after", "done": 6, "total": 12, "accuracy": 0.5,
    "ci95": [0.2, 0.8], "tokens": 4321, "prompt_tokens": 9000, "tokens_per_s": 48.2, "cached": 0.81,
    "under_way": 5, "read_per_s": 33.4, "seconds_left": 240,
})  # fmt: skip
STEP = StepRow.model_validate({
    "step": 1, "decision": "accepted", "actions": [{"kind": "add_function", "name": "twice", "matches": "3/3"}],
    "before": {"accuracy": 0.25, "n": 12}, "after": {"accuracy": 0.75, "n": 12}, "seconds": 60.0,
})  # fmt: skip


def screen(*, terminal: bool) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, soft_wrap=True, highlight=False, markup=False)
    return Display(console), out


def plain(out: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


# The view


def test_the_view_says_where_the_run_stands() -> None:
    display, out = screen(terminal=True)
    display.view.max_steps = 5
    with display.live():
        display.on_progress(Stage.parse("step 2 after"), 0, 12)
        display.on_step(STEP)
        display.on_metrics(METRIC)
        display.on_progress(Stage.parse("step 2 after"), 6, 12)
        time.sleep(0.7)  # two drawings
    seen = plain(out)
    for part in (
        "1 of at most 5, 1 accepted",
        "75.0 % (47 to 91) on the training problems",
        "step 2 after, 50.0 % (19 to 81) so far",
        "48 tokens/s generated, 33 read, 81 % of the prompts from the prefix cache, 4,321 generated so far",
        "so far, 5 under way",
        "accepted: add twice, 25.0 % -> 75.0 %",
        "of work, at most about 4 min left",
        "6/12",
    ):
        assert part in seen, seen


def test_elsewhere_than_on_a_terminal_there_are_plain_lines_alone() -> None:
    display, out = screen(terminal=False)
    with display.live():
        display.on_progress(Stage.parse("step 1 proposing"), 0, 0)
        display.on_progress(Stage.parse("step 1 proposing"), 0, 0)
        display.on_progress(Stage.parse("step 1 after"), 0, 2)
        display.on_metrics(METRIC)
        display.on_metrics(METRIC)  # 15 seconds have not gone by
        display.on_progress(Stage.parse("step 1 after"), 2, 2)
        display.on_step(STEP)
        display.on_step(STEP)
    assert "\x1b" not in out.getvalue()
    assert [re.sub(r"\d+ s$", "N s", line) for line in out.getvalue().splitlines()] == [
        "step 1 proposing ...",
        "step 1 after: 0/2",
        "step 2 after: 6/12, 5 under way, 48 tokens/s generated, 33 read, at most about 4 min left in all",
        "step 1 after: 2/2 in N s",
        "step 1: accepted  accuracy 0.25 -> 0.75 on the same 12 problems  [add twice]  N s",
    ]


# A run, its metrics and those who look at it


def brain(request: ChatRequest) -> str:
    return "<answer>4</answer>" if request.messages[-1].content.endswith("2 + 2?") else "<answer>?</answer>"


def config_in(folder: Path) -> dict[str, Any]:
    rows = [
        {"question": question, "answer": "4", "split": split}
        for question, split in [("2 + 2?", "train"), ("1 + 3?", "train"), ("So, 2 + 2?", "test")]
    ]
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": {"spec": f"jsonl:{path}", "n_train": 2, "n_test": 1},
        "run_dir": str(folder),
        "run_name": "run",
        "agent": {"constrain": False, "interpreter": False},
        "optimizer": {"n_samples": 1, "max_actions": 1, "max_retries": 0},
        "trainer": {"max_epochs": 2},
        "sandbox": {"workers": 1},
    }


class Noting(Callback):
    """Notes every row of metrics."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def on_metrics(self, row: MetricRow) -> None:
        self.rows.append(row.model_dump(mode="json", exclude_unset=True))


def finish(run_dir: RunDir, rows: list[dict[str, Any]]) -> None:
    job = train(
        read_config(run_dir.path),
        run_dir,
        callbacks=[Noting(rows)],
        model=ScriptedChatModel(brain),
    )
    asyncio.run(job)
    run_dir.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = new_run(build(config_in(tmp_path_factory.mktemp("live")), "test"))
    told: list[dict[str, Any]] = []
    finish(run_dir, told)
    assert told == read_lines(run_dir.path / "metrics.jsonl")
    return run_dir.path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_tell_every_stage_and_step_and_survive_a_resume(run: Path) -> None:
    rows = read_lines(run / "metrics.jsonl")
    ended = [(row["stage"], row["done"], row["accuracy"]) for row in rows if row["done"] == row["total"]]
    assert ("test before", 1, 1.0) in ended
    assert ("step 1 before", 2, 0.5) in ended
    assert [(row["step"], row["decision"]) for row in rows if "decision" in row] == [(1, "skipped"), (2, "skipped")]
    assert rows[-1]["tokens"] > 0
    before = (run / "metrics.jsonl").read_bytes()
    told: list[dict[str, Any]] = []
    finish(RunDir(run), told)
    assert (run / "metrics.jsonl").read_bytes().startswith(before)
    assert told[0]["seconds"] >= rows[-1]["seconds"]
    assert {row["tokens"] for row in told} == {rows[-1]["tokens"]}, "what is remembered costs nothing"


def test_tensorboard_reads_the_event_files(run: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"step/accuracy_before", "step/accepted", "rollouts/accuracy/training_before"} <= set(tags)
    assert [(event.step, event.value) for event in events.Scalars("step/accuracy_before")] == [(1, 0.5), (2, 0.5)]


def test_unknown_values_are_no_scalars() -> None:
    at, values = scalars(METRIC.model_copy(update={"accuracy": None, "cached": None}))
    assert at == 90
    assert values == {"throughput/tokens_per_s": 48.2, "throughput/tokens": 4321.0}


def test_without_tensorboard_nothing_of_it_is_imported(tmp_path: Path) -> None:
    assert open_events(tmp_path / "events", package="no_such_package") is None
    assert not (tmp_path / "events").exists()
    program = "import sys, ray_jobs.session, ray_jobs.tensorboard; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0


def test_a_finished_run_is_shown_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display, out = screen(terminal=False)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert watch(run, display=display, poll_s=0.01) == 0
    assert "Held-out problems: 1 (split test" in capsys.readouterr().out
    assert "step 2: skipped" in out.getvalue()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before, "looking leaves no trace"


def test_a_run_is_followed_until_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = new_run(build(config_in(tmp_path), "test"))
    assert in_use(run_dir.path) in (True, None)
    display, out = screen(terminal=False)
    codes: list[int] = []
    watcher = threading.Thread(target=lambda: codes.append(watch(run_dir.path, display=display, poll_s=0.01)))
    watcher.start()
    try:
        finish(run_dir, [])
    finally:
        run_dir.close()
        watcher.join(timeout=60)
    assert codes == [0]
    assert in_use(run_dir.path) in (False, None)
    assert "step 1: skipped" in out.getvalue()
    assert "test after" in out.getvalue() or "test before" in out.getvalue()
    assert "Held-out problems: 1" in capsys.readouterr().out


def test_watching_ends_with_ctrl_c_and_a_wrong_folder_is_told(tmp_path: Path) -> None:
    run_dir = new_run(build(config_in(tmp_path), "test"))
    run_dir.close()
    command = [sys.executable, "-m", "ray_jobs.cli", "watch"]
    with subprocess.Popen([*command, str(run_dir.path)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("no process works on this run (agentopt resume ")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in process.stderr.read()
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a run folder" in done.stderr


class Row(Record):
    a: int = 0
    b: int = 0


def test_a_tail_gives_whole_lines_once_and_starts_again_with_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    tail = Tail(path, Row)
    assert list(tail.rows()) == []
    path.write_text('{"a": 1}\n{"a": 2')
    assert list(tail.rows()) == [Row(a=1)]
    with path.open("a") as file:
        file.write('}\nbroken\n{"a": 3}\n')
    assert list(tail.rows()) == [Row(a=2), Row(a=3)]
    assert list(tail.rows()) == []
    (tmp_path / "new").write_text('{"b": 1}\n')
    (tmp_path / "new").replace(path)
    assert list(tail.rows()) == [Row(b=1)]


def test_a_step_of_partial_credit_shows_the_reward_that_decided() -> None:
    display, out = screen(terminal=False)
    before, after = Score(accuracy=0.25, reward=0.3, n=12), Score(accuracy=0.25, reward=0.55, n=12)
    display.on_step(STEP.model_copy(update={"before": before, "after": after}))
    assert "accuracy 0.25 -> 0.25, reward 0.30 -> 0.55 on the same 12 problems" in out.getvalue()
