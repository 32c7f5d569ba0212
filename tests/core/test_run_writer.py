"""The run folder: finished work survives a kill, and errors name the file and line."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import Message, Usage
from agentopt_local.errors import RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.run.files import read_json, write_atomically, write_functions
from agentopt_local.run.reader import read_start
from agentopt_local.run.rows import Score, StepRow
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.train_state import Decision, TrainState
from agentopt_local.trajectory import Step, ToolRun, Trajectory
from agentopt_local.update import Update

ONE = FunctionSet.of('def one(x: int) -> int:\n    """Return x × 1."""\n    return x\n')
TWO = ONE.adding(FunctionSet.of('def two(x: int) -> int:\n    """Return 2 x."""\n    return 2 * x\n').functions[0])


def trajectory(number: int, *, functions: str = "f", seed: int = 0, text: str = "ä × 𝄞") -> Trajectory:
    call = ToolRun(name="one", arguments={"x": [1, {"y": None}]}, ok=True, result=text)
    return Trajectory(
        problem_id=f"p{number}",
        functions=functions,
        seed=seed,
        steps=(Step(message=Message(role="assistant", content=text), executed=(call,)),),
        answer=text,
        stop_reason="answer",
        usage=Usage(requests=1),
        wall_s=0.25,
        grade=Grade(reward=0.5, reason="half"),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The folder of a run that was made and closed."""
    run_dir = RunDir(tmp_path / "run", create=True)
    run_dir.write_config({"seed": 0})
    run_dir.close()
    return run_dir.path


@pytest.fixture
def opened() -> Iterator[Callable[[Path], RunDir]]:
    """Opens run folders and closes them at the end of the test."""
    open_ones: list[RunDir] = []

    def open_one(path: Path) -> RunDir:
        open_ones.append(RunDir(path))
        return open_ones[-1]

    yield open_one
    for each in open_ones:
        each.close()


Open = Callable[[Path], RunDir]
STAGE = Stage(part="stage")


def step(number: int, decision: Decision = "accepted") -> StepRow:
    score = Score(accuracy=0.5, reward=0.5, n=2)
    return StepRow(step=number, decision=decision, before=score, after=score, seconds=1.0)


def filled(path: Path, n: int) -> None:
    """A run with ``n`` rollouts, updates and steps."""
    run_dir = RunDir(path)
    for number in range(n):
        run_dir.keep(trajectory(number), STAGE)
        run_dir.keep_proposal(number + 1, 0, Update(functions=ONE))
        run_dir.keep_step(step(number + 1))
    run_dir.close()


# What is written is found again


def test_rollouts_are_found_by_functions_problem_and_seed(path: Path, opened: Open) -> None:
    run_dir = opened(path)
    run_dir.keep(trajectory(1), Stage(step=1, part="before"))
    assert run_dir.find("f", "p1", 0) == trajectory(1)
    run_dir.close()
    again = opened(path)
    assert again.find("f", "p1", 0) == trajectory(1)
    for functions, problem, seed in (("g", "p1", 0), ("f", "p2", 0), ("f", "p1", 1)):
        assert again.find(functions, problem, seed) is None
    row = json.loads((path / "rollouts.jsonl").read_text(encoding="utf-8"))
    assert row["stage"] == "step 1 before"
    assert row["answer"] == "ä × 𝄞"


def test_a_rollout_is_on_disk_as_soon_as_it_is_kept(path: Path, opened: Open) -> None:
    run_dir = opened(path)
    for n in range(1, 4):
        run_dir.keep(trajectory(n), STAGE)
        assert (path / "rollouts.jsonl").read_bytes().count(b"\n") == n


@pytest.mark.parametrize("text", ["line\nbreaks\r\n\u2028\x85\x0b", "lone \ud800 surrogate", "\x00\x1b[0m", '"\\'])
def test_any_text_survives(path: Path, opened: Open, text: str) -> None:
    run_dir = opened(path)
    run_dir.keep(trajectory(1, text=text), STAGE)
    run_dir.write_meta({"text": text})
    run_dir.close()
    again = opened(path)
    assert again.find("f", "p1", 0) == trajectory(1, text=text)
    assert again.meta() == {"text": text}


def test_updates_and_steps_are_read_back(path: Path, opened: Open) -> None:
    filled(path, 3)
    run_dir = opened(path)
    assert set(run_dir.proposals()) == {(1, 0), (2, 0), (3, 0)}
    assert run_dir.proposals()[2, 0] == Update(functions=ONE)
    assert [row.step for row in run_dir.steps()] == [1, 2, 3]


def test_steps_beyond_the_state_are_forgotten_and_written_anew(path: Path, opened: Open) -> None:
    filled(path, 3)
    run_dir = opened(path)
    run_dir.keep_state(TrainState(step=1))
    run_dir.resume()
    run_dir.keep_step(step(2, "rolled_back"))
    assert [(row.step, row.decision) for row in run_dir.steps()] == [(1, "accepted"), (2, "rolled_back")]
    run_dir.keep_state(TrainState(step=0))
    run_dir.resume()
    assert run_dir.steps() == []


def test_functions_are_one_file_each_and_a_second_writing_replaces_the_first(path: Path, opened: Open) -> None:
    run_dir = opened(path)
    run_dir.keep_functions(3, TWO)
    folder = path / "functions" / "0003"
    assert {each.name: each.read_text(encoding="utf-8") for each in folder.iterdir()} == {
        f"{function.name}.py": function.source for function in TWO.each()
    }
    run_dir.keep_functions(3, ONE)
    assert [each.name for each in folder.iterdir()] == ["one.py"]
    write_functions(path / "functions" / "0004", FunctionSet())
    assert list((path / "functions" / "0004").iterdir()) == []


def test_source_questions_of_a_start_set_are_read_back(path: Path) -> None:
    asked = FunctionSet(functions=(TWO.functions[0].for_questions(["Wie viel ist 1 × 5?", "5"]), TWO.functions[1]))
    folder = path / "functions" / "0000"
    write_functions(folder, asked)
    assert read_start(path) == asked
    write_functions(folder, TWO)
    assert sorted(each.name for each in folder.iterdir()) == ["one.py", "two.py"]
    assert read_start(path) == TWO
    for damaged in ("[1]", '{"one": 5}', '{"one": [1]}', "{"):
        (folder / "questions.json").write_text(damaged)
        with pytest.raises(RunDirError, match=r"functions/0000.* is damaged .*; restore it or start a new run"):
            read_start(path)


# Kills


@pytest.mark.parametrize("name", ["rollouts.jsonl", "proposals.jsonl", "steps.jsonl"])
def test_a_torn_last_line_is_dropped_wherever_it_was_cut(path: Path, opened: Open, name: str) -> None:
    filled(path, 2)
    data = (path / name).read_bytes()
    first = data.index(b"\n") + 1
    for end in {first + 1, (first + len(data)) // 2, len(data) - 1}:
        (path / name).write_bytes(data[:end])
        run_dir = opened(path)
        assert len(run_dir.steps()) == (1 if name == "steps.jsonl" else 2)
        assert len(run_dir.proposals()) == (1 if name == "proposals.jsonl" else 2)
        assert (run_dir.find("f", "p1", 0) is None) == (name == "rollouts.jsonl")
        assert run_dir.find("f", "p0", 0) == trajectory(0)
        assert (path / name).read_bytes() == data[:first], "the next line must not be glued to the torn one"
        run_dir.close()
        (path / name).write_bytes(data)


def test_a_file_that_holds_only_a_torn_line_is_empty_again(path: Path, opened: Open) -> None:
    (path / "rollouts.jsonl").write_text('{"stage": "st')
    run_dir = opened(path)
    run_dir.keep(trajectory(5), STAGE)
    run_dir.close()
    assert opened(path).find("f", "p5", 0) == trajectory(5)


def test_a_json_file_is_replaced_as_a_whole(path: Path, opened: Open) -> None:
    run_dir = opened(path)
    run_dir.write_meta({"step": 1})
    with pytest.raises(TypeError):
        run_dir.write_meta({"step": object()})
    assert run_dir.meta() == {"step": 1}
    half_written = path / ".meta.json.new"
    half_written.write_text('{"step": 2, "functio')
    assert run_dir.meta() == {"step": 1}, "what a kill left of the next one is not read"
    run_dir.write_meta({"step": 2})
    assert run_dir.meta() == {"step": 2}
    assert not half_written.exists()


def test_a_reader_sees_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    with path.open() as reader:
        write_atomically(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


# What is wrong


def test_a_damaged_line_in_the_middle_is_named(path: Path, opened: Open) -> None:
    filled(path, 3)
    for name, read in (("steps.jsonl", RunDir.steps), ("proposals.jsonl", RunDir.proposals)):
        lines = (path / name).read_bytes().splitlines(keepends=True)
        (path / name).write_bytes(lines[0] + b'{"step": 2, \n' + lines[2])
        run_dir = opened(path)
        with pytest.raises(RunDirError, match=re.escape(f"{path / name}, line 2 is not JSON")):
            read(run_dir)
        run_dir.close()
    (path / "rollouts.jsonl").write_bytes(b"\x00\xff\n" + (path / "rollouts.jsonl").read_bytes())
    with pytest.raises(RunDirError, match=r"rollouts\.jsonl, line 1 is not JSON"):
        opened(path)


def test_after_such_an_error_the_folder_can_be_opened_again(path: Path, opened: Open) -> None:
    (path / "rollouts.jsonl").write_text("{\n")
    with pytest.raises(RunDirError, match="line 1"):
        opened(path)
    (path / "rollouts.jsonl").unlink()
    opened(path).keep(trajectory(1), STAGE)


def test_rollouts_of_another_version_are_told(path: Path, opened: Open) -> None:
    filled(path, 1)
    row = json.loads((path / "rollouts.jsonl").read_text())
    (path / "rollouts.jsonl").write_text(json.dumps(row | {"colour": "red"}) + "\n")
    with pytest.raises(RunDirError, match="written by another version"):
        opened(path)


@pytest.mark.parametrize("change", [{"proposal": {"colour": "red"}}, {"step": None}])
def test_updates_of_another_version_are_told(path: Path, opened: Open, change: dict[str, Any]) -> None:
    filled(path, 1)
    row = json.loads((path / "proposals.jsonl").read_text()) | change
    row = {key: value for key, value in row.items() if value is not None}
    (path / "proposals.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(RunDirError):
        opened(path).proposals()


def test_a_damaged_json_file_is_told(path: Path, opened: Open) -> None:
    (path / "state.json").write_text('{"step": ')
    with pytest.raises(RunDirError, match=r"state\.json is damaged"):
        opened(path).resume()
    assert read_json(path / "report.json") is None


def test_a_folder_that_is_no_run_is_told_with_the_newest_run_beside_it(path: Path) -> None:
    with pytest.raises(RunDirError, match=re.escape("is not a run folder: it has no config.json; the newest run")):
        RunDir(path.parent / "ruin")
    with pytest.raises(RunDirError, match=re.escape(str(path))):
        RunDir(path.parent / "ruin")
    older = path.parent / "older"
    older.mkdir()
    (older / "config.json").write_text("{}")
    os.utime(older / "config.json", (1, 1))
    with pytest.raises(RunDirError, match=re.escape(f"the newest run there is {path}")):
        RunDir(path.parent / "ruin")


def test_a_run_is_never_made_over_another(path: Path) -> None:
    with pytest.raises(RunDirError, match="exists already; resume it, or choose another"):
        RunDir(path, create=True)
    assert read_json(path / "config.json") == {"seed": 0}


def test_a_run_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="cannot be made: Not a directory"):
        RunDir(tmp_path / "file" / "run", create=True)


def test_a_full_disk_is_told_with_how_to_go_on(path: Path, opened: Open) -> None:
    run_dir = opened(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # every write fails, as on a full disk
    try:
        with pytest.raises(RunDirError) as caught:
            run_dir.keep(trajectory(1), STAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.search(f"cannot be written: File too large.*agentopt resume {re.escape(str(path))}", str(caught.value))


# The lock

HOLD = """
import sys, time
from pathlib import Path
from agentopt_local.errors import RunDirError
from agentopt_local.run.writer import RunDir
try:
    run_dir = RunDir(Path(sys.argv[1]))
except RunDirError as error:
    sys.exit(str(error))
print("open", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that tries to open a run folder, and keeps it open until its input ends."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_two_processes_cannot_have_a_run_open(path: Path, opened: Open) -> None:
    run_dir = opened(path)
    _, errors = hold(path).communicate(timeout=60)
    assert "is in use by another agentopt process" in errors
    run_dir.close()
    run_dir.close()
    with hold(path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RunDirError, match="is in use by another agentopt process"):
            opened(path)
        other.kill()
        other.wait()
        opened(path).keep(trajectory(1), STAGE)
