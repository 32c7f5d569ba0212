"""The Python API as a program uses it: the scripted model, the real sandbox, nothing imported but the package."""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import agentopt_local as ao
from agentopt_local.chat import ChatRequest
from agentopt_local.tasks.row_task import RowsTask
from benchmarks.scripted import DOUBLE, REVERSE, brain
from benchmarks.scripted import rows as words_and_numbers
from ray_jobs.cli import main
from ray_jobs.workers import sendable

ROOT = Path(__file__).resolve().parents[2]
QUICK: dict[str, Any] = {
    "n_train": 12,
    "n_test": 7,
    "progress": False,
    "concurrency": 4,
    "optimizer": {"n_samples": 1, "max_actions": 1, "max_retries": 0, "min_matches": 0},
    "sandbox.workers": 1,
    "trainer.max_epochs": 6,
}
ROWS = words_and_numbers()


def script(latency_s: float = 0.0) -> ao.ScriptedChatModel:
    return ao.ScriptedChatModel(brain, latency_s=latency_s)


def same(answer: str, expected: str) -> bool:
    """A grader that only this program has."""
    return answer == expected


def grade(task: Any, problem: ao.Problem, answer: str | None) -> ao.Grade:
    result: ao.Grade = asyncio.run(task.grade(problem, answer, None))
    return result


def told(call: Callable[[], Any], kind: type[Exception] = ao.ConfigError) -> str:
    """The message of the mistake that ``call`` is: one line."""
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


class Notes(ao.Callback):
    """Notes everything that it hears."""

    def __init__(self) -> None:
        self.steps: list[ao.StepRow] = []
        self.rollouts: list[tuple[str, str, str]] = []
        self.metrics: list[ao.MetricRow] = []
        self.reports: list[ao.Report] = []
        self.progress: set[str] = set()

    def on_step(self, row: ao.StepRow) -> None:
        self.steps.append(row)

    def on_rollout(self, stage: ao.Stage, trajectory: ao.Trajectory) -> None:
        self.rollouts.append((str(stage), trajectory.functions, trajectory.problem_id))

    def on_metrics(self, row: ao.MetricRow) -> None:
        self.metrics.append(row)

    def on_evaluation(self, report: ao.Report) -> None:
        self.reports.append(report)

    def on_progress(self, stage: ao.Stage, done: int, total: int) -> None:
        self.progress.add(str(stage))


NOTES = Notes()


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> ao.Run:
    """A run on rows with a grader that has a name, followed by NOTES."""
    task = ao.task(ROWS, grader="exact", name="words")
    folder = tmp_path_factory.mktemp("named")
    return ao.train(task, model=script(), run_dir=folder, run_name="named", callbacks=[NOTES], **QUICK)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ao.Run:
    """A run on the same rows with a function for a grader."""
    task = ao.task(ROWS, grader=same, name="words")
    return ao.train(task, model=script(), run_dir=tmp_path_factory.mktemp("own"), run_name="own", **QUICK)


# What a task can be made of


class DataSet:
    """Like a Hugging Face data set: rows by iteration, and much else."""

    column_names = ("id", "kind", "question", "answer", "split")

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


class DataSetDict(dict[str, DataSet]):
    """Like a DatasetDict."""


def split_up(form: Callable[[list[dict[str, Any]]], Any]) -> dict[str, Any]:
    without = [{key: value for key, value in row.items() if key != "split"} for row in ROWS]
    return {
        split: form([row for row, whole in zip(without, ROWS, strict=True) if whole["split"] == split])
        for split in ("train", "test")
    }


FORMS: dict[str, Callable[[], Any]] = {
    "list": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
    "data frame": lambda: pd.DataFrame(ROWS),
    "data set": lambda: DataSet(ROWS),
    "dict of lists": lambda: split_up(list),
    "dict of data frames": lambda: split_up(pd.DataFrame),
    "dict of data sets": lambda: DataSetDict(split_up(DataSet)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_problems(form: str) -> None:
    expected = ao.task(ROWS)
    task = ao.task(FORMS[form]())
    for split, n in (("train", 12), ("test", 7)):
        assert task.problems(split, n) == expected.problems(split, n)  # type: ignore[arg-type]
    assert "validation problems, not 1 (12 train, 0 validation, 7 test)" in told(lambda: task.problems("validation", 1))


def test_empty_cells_and_numbers_of_numpy_are_what_they_mean() -> None:
    frame = pd.DataFrame(
        {
            "q": ["one", "two", "three"],
            "a": np.array([1, 2, 3]),
            "kind": ["odd", None, "odd"],
            "split": ["test", "test", "test"],
            "when": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
            "more": [0.5, float("nan"), 1.5],
        }
    )
    seen: dict[str, dict[str, Any]] = {}

    def look(answer: str, expected: str, row: dict[str, Any]) -> bool:
        seen[row["q"]] = row
        return True

    task = ao.task(frame, question="q", answer="a", grader=look)
    problems = {each.question: each for each in task.problems("test", 3)}
    assert ({each.answer for each in problems.values()}, problems["two"].kind) == ({"1", "2", "3"}, "")
    for each in problems.values():
        grade(task, each, "x")
    assert (seen["one"]["a"], type(seen["one"]["a"]), seen["one"]["kind"]) == (1, int, "odd")
    assert (seen["two"]["more"], seen["two"]["when"], seen["three"]["when"].year) == (None, None, 2026)
    rows = [{"question": "q", "answer": np.float64(0.5), "id": np.int64(7), "kind": None, "split": "test"}]
    problem = ao.task(rows).problems("test", 1)[0]
    assert (problem.answer, problem.id, problem.kind) == ("0.5", "7", "")


def test_the_seed_decides_the_order_and_columns_may_have_other_names() -> None:
    rows = [{"prompt": f"q{i}", "gold": i, "name": f"n{i}", "part": "train", "sort": "x"} for i in range(30)]
    task = ao.task(rows, question="prompt", answer="gold", id="name", split="part", kind="sort")
    assert isinstance(task, RowsTask)
    first, other = task.problems("train", 30), task.with_seed(1).problems("train", 30)
    assert {each.id for each in first} == {f"n{i}" for i in range(30)}
    assert {each.kind for each in first} == {"x"}
    assert first != other
    assert set(map(repr, first)) == set(map(repr, other))


class Quiz:
    """A task of one's own."""

    name = "quiz"

    def problems(self, split: str, n: int) -> list[ao.Problem]:
        rows = [row for row in ROWS if row["split"] == split][:n]
        keys = ("id", "kind", "question", "answer")
        return [ao.Problem(**{key: row[key] for key in keys}) for row in rows]

    async def grade(self, problem: ao.Problem, answer: str | None, sandbox: Any) -> ao.Grade:
        return ao.Grade(reward=float(answer == problem.answer), reason="compared")


class Sloppy(Quiz):
    """It grades without await and returns a bare truth."""

    def grade(self, problem: ao.Problem, answer: str | None, sandbox: Any) -> bool:  # type: ignore[override]
        return answer == problem.answer


@pytest.mark.parametrize("kind", [Quiz, Sloppy])
def test_an_object_with_problems_and_grade_is_a_task(kind: type[Quiz], tmp_path: Path) -> None:
    task = kind()
    assert ao.task(task) is task
    run = ao.train(ao.task(task), model=script(), run_dir=tmp_path, **QUICK)
    assert run.accuracy is not None
    assert run.accuracy.after.value == 1.0
    assert run.settings["task"]["spec"] == "python:quiz"


# Graders


PROBLEM = {"question": "2 + 2?", "answer": 4, "split": "test", "level": 3}


def with_row(answer: str, expected: str, row: dict[str, Any]) -> bool:
    return row == PROBLEM


def with_optional_row(answer: str, expected: str, row: dict[str, Any] | None = None) -> float:
    return 0.25 if row == PROBLEM else 0.0


def with_tolerance(answer: str, expected: str, tolerance: float = 0.5) -> bool:
    return abs(float(answer) - float(expected)) < tolerance


class Judge:
    """A grader that is an object."""

    def __call__(self, answer: str, expected: str) -> tuple[float, str]:
        return 0.5, "half"


GRADERS: dict[str, tuple[Any, float, str]] = {
    "a name": ("numeric", 1.0, "correct"),
    "a bool": (lambda answer, expected: float(answer) == float(expected), 1.0, "correct"),
    "a float": (lambda answer, expected: 0.25, 0.25, "'4.0' has reward 0.25; expected '4'"),
    "a float of numpy": (lambda answer, expected: np.float32(0.5), 0.5, "'4.0' has reward 0.5; expected '4'"),
    "a pair": (lambda answer, expected: (0.75, "nearly"), 0.75, "nearly"),
    "a bool with a reason": (lambda answer, expected: (True, "fine"), 1.0, "fine"),
    "a grade": (lambda answer, expected: ao.Grade(reward=0.1, reason="poor"), 0.1, "poor"),
    "the row": (with_row, 1.0, "correct"),
    "the row if wanted": (with_optional_row, 0.25, "'4.0' has reward 0.25; expected '4'"),
    "another third parameter": (with_tolerance, 1.0, "correct"),
    "an object": (Judge(), 0.5, "half"),
}


@pytest.mark.parametrize("form", GRADERS)
def test_every_form_of_grader(form: str) -> None:
    grader, reward, reason = GRADERS[form]
    task = ao.task([PROBLEM], grader=grader)
    result = grade(task, task.problems("test", 1)[0], "4.0")
    assert (result.reward, result.reason) == (reward, reason)
    assert grade(task, task.problems("test", 1)[0], None).reason == "no answer was given"


def test_a_row_may_name_its_own_grader() -> None:
    task = ao.task([PROBLEM | {"grader": "exact"}, PROBLEM | {"question": "3 + 1?"}], grader=same)
    exact, own = sorted(task.problems("test", 2), key=lambda each: each.question)
    assert grade(task, exact, " 4 ").correct
    assert not grade(task, own, " 4 ").correct


BAD_RESULTS = [None, "1", 1.5, (2.0, "x"), (0.5, None), (0.5,), ("1", "x"), {"reward": 1}]


@pytest.mark.parametrize("result", BAD_RESULTS, ids=repr)
def test_a_grader_that_returns_anything_else_is_told_by_its_name(result: Any) -> None:
    def judge(answer: str, expected: str) -> Any:
        return result

    task = ao.task([PROBLEM], grader=judge)
    message = told(lambda: grade(task, task.problems("test", 1)[0], "4"))
    assert message.startswith("grader 'judge()' returned ")
    assert "a pair (float, reason)" in message


# Mistakes


class NoGrade:
    def problems(self, split: str, n: int) -> list[ao.Problem]:
        return []


class WrongGrade(Quiz):
    def grade(self, problem: ao.Problem) -> ao.Grade:  # type: ignore[override]
        raise AssertionError


class TooFew(Quiz):
    def problems(self, split: str, n: int) -> list[ao.Problem]:
        return super().problems(split, 3)


class Texts(Quiz):
    def problems(self, split: str, n: int) -> Any:
        return ["a"] * n


GOOD = {"question": "q", "answer": "a", "split": "train"}
MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "no answer": (lambda: ao.task([GOOD, {"question": "r"}]), "task 'task', row 1: no key 'answer'"),
    "a column's name": (lambda: ao.task([GOOD], question="prompt"), "row 0: no key 'prompt'"),
    "no dict": (lambda: ao.task([GOOD, 3]), "row 1: found 3; write a dict with 'question' and 'answer'"),
    "an answer of None": (lambda: ao.task([{"question": "q", "answer": None}]), "row 0, key 'answer': null is not"),
    "an answer of NaN": (lambda: ao.task([{"question": "q", "answer": float("nan")}]), "row 0, key 'answer'"),
    "a split": (lambda: ao.task([GOOD | {"split": "tests"}]), "row 0, key 'split': \"tests\" is not known"),
    "a split's key": (lambda: ao.task({"tets": [GOOD]}), "'tets' is not a split (did you mean 'test'?)"),
    "columns": (lambda: ao.task({"question": ["q"], "answer": ["a"]}), "'question' is not a split"),
    "two answers": (
        lambda: ao.task({"train": [GOOD], "test": [GOOD | {"answer": "b"}]}),
        "task 'task', train row 0 and test row 0: the same question is in train and in test",
    ),
    "an id twice": (
        lambda: ao.task([GOOD | {"id": 1}, GOOD | {"id": 1, "question": "r"}], name="my"),
        "task 'my', rows 0 and 1, key 'id': '1' is used 2 times",
    ),
    "a key that is a number": (lambda: ao.task([GOOD | {3: "x"}]), "row 0: the key 3 is not text"),
    "text": (lambda: ao.task("jsonl:rows.jsonl"), "is text, not rows; ao.train takes the spec"),
    "a number": (lambda: ao.task(3), "data has the type int; give a list of dicts"),
    "a grader's name": (lambda: ao.task([GOOD], grader="exct"), "grader 'exct' is not known (did you mean 'exact'?)"),
    "a grader": (lambda: ao.task([GOOD], grader=3), "task 'task': grader has the type int"),  # type: ignore[arg-type]
    "a grader's parameters": (
        lambda: ao.task([GOOD], grader=lambda answer: True),
        "grader '<lambda>()' cannot be called with (answer, expected) or (answer, expected, row)",
    ),
    "a name": (lambda: ao.task([GOOD], name="a\nb"), "is not a line of text"),
    "a class": (lambda: ao.task(Quiz), "Quiz is a class; give an object of it"),
    "no grade()": (lambda: ao.task(NoGrade()), "NoGrade has problems() only"),
    "grade()": (lambda: ao.task(WrongGrade()), "WrongGrade.grade cannot be called as grade(problem, answer, sandbox)"),
    "grader and grade()": (lambda: ao.task(Quiz(), grader="exact"), "Quiz has its own grade(); leave grader out"),
    "rows as they are": (lambda: train(ROWS), "ao.train: the task has the type list; give ao.task(data)"),
    "too few": (lambda: train(TooFew()), "problems('train', 12) returned 3 problems"),
    "texts": (lambda: train(Texts()), "problems() returned a str, not an ao.Problem"),
    "too few rows": (lambda: train(n_train=99), "has only 12 distinct train problems, not 99"),
    "a spec": (lambda: train("reasoning_jym:x"), "task 'reasoning_jym:x' is not known"),
    "a setting": (
        lambda: train(**{"trainer.max_epoch": 3}),
        "ao.train: trainer.max_epoch is not a setting; did you mean trainer.max_epochs?",
    ),
    "an argument": (lambda: train(n_trian=3), "ao.train: n_trian is not a setting; did you mean task.n_train?"),
    "a nested setting": (lambda: train(agent={"max_turn": 3}), "ao.train: agent.max_turn is not a setting"),
    "a value": (lambda: train(trainer={"patience": 0}), "ao.train: trainer.patience = 0: input should be greater"),
    "a table": (lambda: train(optimizer=3), "ao.train: optimizer = 3 must be a table"),
    "the task's spec": (lambda: train(**{"task.spec": "x"}), "ao.train: task.spec is for a task that is opened by"),
    "a model's name": (lambda: train(model="qwen2.5-coder-1.6b"), "qwen2.5-coder-1.6b"),
    "a model": (lambda: train(model=3), "ao.train: model has the type int; give a name, a folder, a hub id"),
    "a model's class": (lambda: train(model=ao.ScriptedChatModel), "ao.train: model is a class"),
    "one object of two": (lambda: train(optimizer_model="x"), "give both model and optimizer_model as objects"),
    "a start": (lambda: train(start_functions="nowhere.py"), "nowhere.py"),
    "a callback": (lambda: train(callbacks=[len]), "a callback has the type builtin_function_or_method"),
    "an endpoint": (lambda: ao.Endpoint("127.0.0.1:8000", "m"), "url = '127.0.0.1:8000' is not an HTTP(S) URL"),
    "a key in an address": (lambda: ao.Endpoint("https://a:b@c/v1", "m"), "an address must hold no user"),
    "an endpoint's setting": (
        lambda: ao.Endpoint("http://a/v1", "m", price={}),
        "price is not a setting (did you mean",
    ),
    "an endpoint's value": (
        lambda: ao.Endpoint("http://a/v1", "m", timeout_s=0),
        "ao.Endpoint: timeout_s: input should",
    ),
}


def train(task: Any = None, **changes: Any) -> ao.Run:
    given = {"model": script(), "run_dir": "must_not_be_made", **QUICK, **changes}
    return ao.train(ao.task(ROWS) if task is None else task, **given)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_before_anything_is_made(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, message = MISTAKES[mistake]
    assert message in told(call)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, named: ao.Run) -> None:
    assert "is not a run folder" in told(lambda: ao.load(tmp_path), ao.RunDirError)
    assert "the newest run there is" in told(lambda: ao.load(named.path.parent / "x"), ao.RunDirError)
    taken = {"run_dir": named.path.parent, "run_name": "named"}
    assert "exists already" in told(lambda: train(**taken), ao.RunDirError)


# Training


def test_a_training_from_a_script(named: ao.Run) -> None:
    assert [each.source for each in named.functions.each()] == [REVERSE, DOUBLE]
    assert named.accuracy is not None
    assert (named.accuracy.before.value, named.accuracy.after.value, named.accuracy.n) == (0.0, 1.0, 7)
    assert (named.accuracy.difference.value, named.accuracy.difference.low) == (1.0, 0.2913)
    assert 0.3 < named.accuracy.before.high < 0.4
    assert "-> 100.0 % (64.6 to 100.0) on 7 problems, +100.0 points" in str(named.accuracy)
    assert list(named.curve.itertuples(index=False, name=None)) == [
        (1, 0.0, 0.25, "accepted"),
        (2, 0.25, pytest.approx(8 / 12), "accepted"),
        (3, pytest.approx(8 / 12), pytest.approx(5 / 12), "rolled_back"),
        (4, pytest.approx(8 / 12), 1.0, "accepted"),
    ]
    assert "2 functions" in repr(named)
    assert "<code>reverse(word: str) -&gt; str</code> Return word reversed." in named._repr_html_()


def test_callbacks_hear_everything_once(named: ao.Run) -> None:
    assert [row.decision for row in NOTES.steps] == ["accepted", "accepted", "rolled_back", "accepted"]
    assert len(NOTES.rollouts) == len(set(NOTES.rollouts)) == len(named.rollouts) == 5 * 12 + 3 * 7 + 2 * 4
    assert [row.decision for row in NOTES.metrics if row.decision] == [row.decision for row in NOTES.steps]
    assert NOTES.reports == [named.report]
    assert {"step 1 before", "step 1 proposing", "test after"} <= NOTES.progress


def test_the_tables_have_the_promised_columns(named: ao.Run) -> None:
    assert list(named.curve) == ["step", "before", "after", "decision"]
    assert list(named.steps) == [
        "step", "decision", "actions", "n", "accuracy_before", "accuracy_after", "reward_before", "reward_after",
        "functions", "tried", "optimizer_prompt_tokens", "optimizer_completion_tokens", "rollout_prompt_tokens",
        "rollout_completion_tokens", "seconds",
    ]  # fmt: skip
    assert named.steps.actions[0] == "add_function reverse"
    assert named.steps.functions[1] == ["reverse", "double"]
    rollouts = named.rollouts
    assert list(rollouts) == [
        "stage", "step", "split", "problem_id", "kind", "question", "expected", "answer", "reward", "correct", "reason",
        "stop_reason", "turns", "calls", "functions", "seed", "prompt_tokens", "completion_tokens", "seconds",
    ]  # fmt: skip
    after = rollouts[rollouts.stage == "test after"]
    assert (after.answer == after.expected).all()
    assert after.step.isna().all()
    assert str(rollouts.step.dtype) == "Int64"
    assert set(rollouts.step.dropna()) == {1, 2, 3, 4}
    assert list(named.problems) == ["id", "split", "kind", "question", "answer"]
    assert named.problems.split.value_counts().to_dict() == {"train": 12, "test": 7}


def test_in_a_running_loop_it_blocks_and_works(own: ao.Run, tmp_path: Path) -> None:
    async def cell() -> ao.Run:
        return ao.train(ao.task(ROWS, grader=same), model=script(), run_dir=tmp_path, **QUICK)

    before = threading.active_count()
    run = asyncio.run(cell())
    assert run.functions == own.functions
    assert threading.active_count() == before


def test_awaited_trainings_run_at_once_in_the_same_loop(tmp_path: Path) -> None:
    threads = set()

    class Where(ao.Callback):
        def on_step(self, row: ao.StepRow) -> None:
            threads.add(threading.current_thread())

    async def both() -> list[ao.Run]:
        task = ao.task(ROWS, grader=same)
        job = (ao.atrain(task, model=script(), run_dir=tmp_path, callbacks=[Where()], **QUICK) for _ in range(2))
        return await asyncio.gather(*job)

    one, two = asyncio.run(both())
    assert one.path != two.path, "runs of one second have different names"
    assert one.functions == two.functions
    assert threads == {threading.main_thread()}


def test_a_spec_and_settings_make_the_run_that_the_command_line_makes(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = ao.train(
        f"jsonl:{problems}", model=script(), run_dir=tmp_path, **QUICK, **{"task.settings": {"grader": "exact"}}
    )
    settings = run.settings
    assert settings["task"]["spec"] == f"jsonl:{problems}"
    assert settings["task"]["settings"] == {"grader": "exact"}
    assert (settings["trainer"]["max_epochs"], settings["optimizer"]["n_samples"], settings["concurrency"]) == (6, 1, 4)
    assert settings["model"]["name"] == "python:ScriptedChatModel"
    assert run.accuracy is not None


def test_agent_and_optimizer_may_be_two_objects(tmp_path: Path) -> None:
    agent, optimizer = script(), script()
    run = ao.train(ao.task(ROWS), model=agent, optimizer_model=optimizer, run_dir=tmp_path, **QUICK)
    assert {(each.conversation or "").partition("/")[0] == "optimizer" for each in agent.requests} == {False}
    assert {(each.conversation or "").partition("/")[0] == "optimizer" for each in optimizer.requests} == {True}
    assert run.settings["optimizer_model"]["name"] == "python:ScriptedChatModel"


def test_a_training_starts_from_functions(named: ao.Run, tmp_path: Path) -> None:
    for number, start in enumerate((named, named.path, named.functions)):
        run = ao.train(
            ao.task(ROWS), model=script(), run_dir=tmp_path, run_name=str(number), start_functions=start, **QUICK
        )
        assert len(run.steps) == 0, "everything is solved already"
        assert set(run.functions.names) == {"reverse", "double"}


def test_progress_is_shown_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ao.train(ao.task(ROWS), model=script(), run_dir=tmp_path, **(QUICK | {"progress": True}))
    out, err = capsys.readouterr()
    assert out == ""
    assert "step 1: accepted  accuracy 0.00 -> 0.25 on the same 12 problems" in err


# What a run offers


def test_a_run_is_loaded_from_its_folder_and_copied(named: ao.Run, tmp_path: Path) -> None:
    again = ao.load(str(named.path))
    assert (again.functions, again.accuracy, again.path) == (named.functions, named.accuracy, named.path)
    copy = named.save(tmp_path / "copy")
    assert copy.report == named.report
    assert not (copy.path / ".lock").exists()
    assert "exists already" in told(lambda: named.save(copy.path), ao.RunDirError)


def test_an_unfinished_run_is_opened_without_its_lock(named: ao.Run, tmp_path: Path) -> None:
    copy = named.save(tmp_path / "copy").path
    (copy / "report.json").unlink()
    with (copy / "rollouts.jsonl").open("a") as file:
        file.write('{"stage": "step 5 bef')
    (copy / "state.json").unlink()
    run = ao.load(copy)
    assert (run.report, run.accuracy, len(run.functions)) == (None, None, 0)
    assert len(run.rollouts) == len(named.rollouts)
    assert "not evaluated yet" in repr(run)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(named.settings))
    for table in (ao.load(bare).steps, ao.load(bare).rollouts, ao.load(bare).curve, ao.load(bare).problems):
        assert len(table) == 0
        assert len(table.columns) > 3


@pytest.mark.parametrize("name", ["finished", "stopped"])
def test_runs_of_earlier_versions_are_opened(name: str) -> None:
    run = ao.load(ROOT / "tests/ray_jobs/old_runs" / name)
    assert (run.accuracy is None) == (name == "stopped")
    assert len(run.functions) >= 1
    assert min(map(len, (run.rollouts, run.steps, run.curve, run.problems))) >= 1
    assert not run.rollouts.question.eq("").any()


def test_exports_are_those_of_the_command_line(named: ao.Run, tmp_path: Path) -> None:
    for form in ("openai", "anthropic", "mcp", "python", "inspect"):
        if form == "inspect":
            pytest.importorskip("inspect_ai")
        written = named.export(form, tmp_path / "api" / form)
        assert written == tmp_path / "api" / form
        assert main(["export", str(named.path), "--format", form, "--output", str(tmp_path / "cli" / form)]) == 0
        other = tmp_path / "cli" / form
        files = {each.relative_to(written) for each in written.rglob("*")} if written.is_dir() else set()
        assert files == ({each.relative_to(other) for each in other.rglob("*")} if other.is_dir() else set())
        assert written.is_dir() or written.read_text() == other.read_text()
    assert "exists already" in told(lambda: named.export("openai", tmp_path / "api/openai"))
    named.export("openai", tmp_path / "api/openai", True)
    assert "format 'opneai' is not known (did you mean 'openai'?)" in told(lambda: named.export("opneai"))

    async def cell() -> Path:
        return named.export("python", tmp_path / "api/python", force=True)

    assert asyncio.run(cell()).is_dir()


def test_the_agent_answers(named: ao.Run) -> None:
    agent = named.agent(model=script())
    assert "is not open for solve()" in told(lambda: agent.solve("Reverse: hello"))
    with agent:
        attempt = agent.solve("Reverse: hello")
        assert (attempt.answer, [call.name for call in attempt.calls]) == ("olleh", ["reverse"])
        assert agent.solve("Double: 21").answer == "42"
        assert "the question is empty" in told(lambda: agent.solve(" "))
    assert "is not open" in told(lambda: agent.solve("Reverse: hello"))
    with named.agent(model=script(), functions=ao.FunctionSet()) as untrained:
        assert untrained.solve("Reverse: hello").answer == "dunno"

    async def cell() -> list[ao.Attempt]:
        with named.agent(model=script()) as blocking:
            first = blocking.solve("Reverse: abc")
        async with named.agent(model=script()) as agent:
            return [first, *await asyncio.gather(*(agent.asolve(f"Reverse: {word}") for word in ("def", "ghi")))]

    assert [each.answer for each in asyncio.run(cell())] == ["cba", "fed", "ihg"]
    opened = named.agent(model=script()).open()
    assert opened.solve("Double: 4").answer == "8"
    opened.close()
    opened.close()
    assert "ao.resume" in told(named.agent)


# Interrupted and continued


@pytest.mark.parametrize("where", ["script", "notebook"])
def test_an_interrupted_training_ends_in_order_and_continues(
    where: str, own: ao.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    settings = QUICK | {"progress": True, "run_dir": tmp_path, "run_name": "run"}

    class Interrupt(ao.Callback):
        def on_step(self, row: ao.StepRow) -> None:
            if row.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    def call() -> ao.Run:
        return ao.train(ao.task(ROWS, grader=same), model=script(0.02), callbacks=[Interrupt()], **settings)

    async def cell() -> ao.Run:
        return call()

    with pytest.raises(KeyboardInterrupt):
        call() if where == "script" else asyncio.run(cell())
    assert f"To continue: ao.resume({str(tmp_path / 'run')!r})" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not [each for each in threading.enumerate() if each.name == "agentopt"]
    assert children() == [], "the sandbox has ended"
    model = script()
    run = ao.resume(tmp_path / "run", task=ao.task(ROWS, grader=same), model=model, progress=False)
    assert run.functions == own.functions
    assert run.report is not None
    assert own.report is not None
    assert run.report.test == own.report.test
    keys = run.rollouts[["functions", "problem_id", "seed"]]
    assert not keys.duplicated().any()


def children() -> list[str]:
    """The processes that this one has started and that are still there."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    deadline = time.monotonic() + 5
    while found and time.monotonic() < deadline:
        time.sleep(0.05)
        found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in found if Path(f"/proc/{pid}").exists()]
    return [each for each in commands if "zygote" in each]


def test_a_callback_that_raises_ends_the_run_and_tells_how_to_continue(tmp_path: Path) -> None:
    class Full(ao.Callback):
        def on_rollout(self, stage: ao.Stage, trajectory: ao.Trajectory) -> None:
            raise ao.BudgetError("enough")

    with pytest.raises(ao.BudgetError, match="enough") as error:
        ao.train(ao.task(ROWS), model=script(), run_dir=tmp_path, run_name="run", callbacks=[Full()], **QUICK)
    assert error.value.__notes__ == [f"To continue: ao.resume({str(tmp_path / 'run')!r})"]


def test_rows_whose_grader_has_a_name_are_in_the_folder_and_only_the_model_is_missing(
    named: ao.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = unfinished(named, tmp_path)
    assert [json.loads(line) for line in (copy / "task_rows.jsonl").read_text().splitlines()] == ROWS
    assert main(["resume", str(copy)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("agentopt: the model 'ScriptedChatModel' was given in Python")
    assert f"ao.resume({str(copy)!r}, model=...)" in message
    run = ao.resume(ao.load(copy), model=script(), progress=False)
    assert run.report is not None
    assert run.report.test == named.report.test  # type: ignore[union-attr]


def test_the_command_line_ends_a_run_that_python_began(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows are in the folder, which has been moved; the model is behind an address."""

    class Stop(ao.Callback):
        def on_step(self, row: ao.StepRow) -> None:
            raise ao.BudgetError("enough for today")

    monkeypatch.setenv("OPENAI_API_KEY", "")
    words = ["ab", "cd", "tree", "house", "xy", "garden"]
    data = {
        "train": [{"prompt": f"Shout: {word}", "gold": word.upper()} for word in words[:4]],
        "test": [{"prompt": f"Shout: {word}", "gold": word.upper()} for word in words[4:]],
    }
    task = ao.task(data, question="prompt", answer="gold", grader="exact", name="shouting")
    settings = QUICK | {"n_train": 4, "n_test": 2, "agent.constrain": False}
    model = ao.Endpoint(endpoint, "small", structured="none")
    with pytest.raises(ao.BudgetError):
        ao.train(task, model=model, run_dir=tmp_path, run_name="run", callbacks=[Stop()], **settings)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert main(["resume", str(moved)]) == 0, capsys.readouterr().err
    run = ao.load(moved)
    assert run.accuracy is not None
    assert run.accuracy.after.value == 1.0
    assert not run.rollouts[["functions", "problem_id", "seed"]].duplicated().any(), "ids are the same again"
    assert main(["ask", str(moved), "Shout: hello"]) == 0
    assert capsys.readouterr().out.endswith("HELLO\n")
    elsewhere = ao.Endpoint(endpoint.replace("127.0.0.1", "localhost"), "small", structured="none")
    assert ao.evaluate(moved, n=2, model=elsewhere, progress=False).test == run.report.test  # type: ignore[union-attr]


def test_the_command_line_says_whose_task_it_was(
    own: ao.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = unfinished(own, tmp_path)
    assert not (copy / "task_rows.jsonl").exists()
    for command in (["resume"], ["evaluate"]):
        assert main([*command, str(copy)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "the task 'words' was given in Python" in message
        assert f"ao.resume({str(copy)!r}, task=...)" in message
    assert "ao.resume(RUN, task=...)" in told(lambda: ao.train("python:words"))
    assert "ao.resume(" in told(lambda: ao.resume(copy, model=script()))


def unfinished(run: ao.Run, folder: Path) -> Path:
    """A copy of a run before its evaluation."""
    copy = run.save(folder / "copy").path
    (copy / "report.json").unlink()
    return copy


def test_other_commands_treat_it_as_any_run(own: ao.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(own.path)
    for words in (["show", run], ["show", run, "--diff"], ["watch", run], ["report", run]):
        assert main(words) == 0
    out = capsys.readouterr().out
    assert "def reverse(word: str)" in out
    assert (own.path / "report.html").stat().st_size > 10_000
    pytest.importorskip("inspect_ai")
    assert main(["export", run, "--format", "inspect", "--output", str(tmp_path / "logs")]) == 0
    assert sorted(each.name for each in (tmp_path / "logs").glob("*.eval")) == ["after.eval", "before.eval"]
    assert main(["ask", run, "Reverse: hello"]) == 2
    assert "or ask it with ao.load(" in capsys.readouterr().err


def test_a_run_is_continued_only_with_what_it_was_started_with(own: ao.Run, tmp_path: Path) -> None:
    copy = unfinished(own, tmp_path)
    other = [row | {"answer": "other"} if row["id"] == "r-ab" else row for row in ROWS]
    models = {"model": script(), "progress": False}
    for rows in (other, [row | {"id": f"x{row['id']}"} for row in ROWS]):
        message = told(lambda rows=rows: ao.resume(copy, task=ao.task(rows, grader=same), **models))  # type: ignore[misc]
        assert "was started with another task: its train problems differ at" in message
    task = ao.task(ROWS, grader=same)
    assert "which it keeps" in told(lambda: ao.resume(copy, task=task, model="another"))
    message = told(lambda: ao.resume(copy, task=task, trainer={"max_epochs": 9}, **models))
    assert message == (
        "ao.resume: trainer.max_epochs: a run is resumed with its own settings; only its budget can be changed"
    )
    run = ao.resume(copy, task=task, budget={"max_tokens_total": 10**9}, **models)
    assert run.settings["budget"]["max_tokens_total"] == 10**9


def test_an_evaluation_on_more_problems_and_another_split(named: ao.Run, tmp_path: Path) -> None:
    copy = named.save(tmp_path / "copy")
    model = script()
    report = ao.evaluate(copy, n=7, model=model, progress=False)
    assert model.requests == [], "the rollouts are there already"
    assert report.test == named.report.test  # type: ignore[union-attr]
    notes = Notes()
    report = ao.evaluate(copy, split="train", n=12, model=script(), progress=False, callbacks=[notes])
    assert report.train is not None
    assert (report.train.after.accuracy, notes.reports) == (1.0, [report])
    assert "ao.evaluate: n = 0: evaluate on at least one problem" in told(lambda: ao.evaluate(copy, n=0))


# Workers on other nodes


def test_what_a_rollout_worker_is_sent_is_small_and_grades_alike() -> None:
    rows = [{"question": f"{i} " + "long " * 50, "answer": i, "split": "test", "level": i} for i in range(300)]
    plain, seeing = ao.task(rows, grader="exact"), ao.task(rows, grader=lambda a, e, row: (0.5, str(row["answer"] + 1)))
    for task, limit in ((plain, 2_000), (seeing, 40_000)):
        import ray

        sent = ray.cloudpickle.dumps(sendable(task))  # type: ignore[arg-type]
        assert len(sent) < limit < len(pickle.dumps(rows))
        there = pickle.loads(sent)
        problem = task.problems("test", 300)[7]
        assert grade(there, problem, "x") == grade(task, problem, "x")
        with pytest.raises(ao.ConfigError):
            there.problems("test", 1)


def test_a_grader_that_cannot_be_sent_is_told() -> None:
    lock = threading.Lock()

    def held(answer: str, expected: str) -> bool:
        with lock:
            return True

    task = ao.task(ROWS, grader=held)
    message = told(lambda: sendable(task))  # type: ignore[arg-type]
    assert "task 'python:task' cannot be sent to rollout workers" in message
    assert "ray.rollout_workers = 0" in message


# The package's names


def test_the_names_are_the_same_everywhere() -> None:
    from ray_jobs import api

    names = set(ao.__all__)
    assert names == {*api.__all__, "__version__"}
    stub = ast.parse((ROOT / "agentopt_local/__init__.pyi").read_text())
    assert {alias.asname for node in stub.body for alias in node.names} == names  # type: ignore[attr-defined]
    assert names <= set(dir(ao))
    for name in names - {"__version__"}:
        value = getattr(ao, name)
        assert value is getattr(api, name)
        assert len(value.__doc__ or "") > 10, name
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = ao.tarin  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["train", "atrain", "resume", "aresume", "evaluate", "aevaluate", "certify", "acertify", "load", "task"]
)
def test_every_function_says_what_it_takes_and_shows_its_use(name: str) -> None:
    function = getattr(ao, name)
    code = function.__code__
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    documented = getattr(ao, name.removeprefix("a") if name.startswith("a") else name).__doc__
    for argument in arguments:
        assert f"``{argument}``" in documented, f"{name}: {argument}"
    assert "::" in function.__doc__
    assert "Raises" in documented


TYPED = """
import agentopt_local as ao
run = ao.train(ao.task([{"question": "q", "answer": "a"}]), n_train=3, trainer={"max_epochs": 1})
reveal_type(run)
reveal_type(run.functions)
ao.train("x", n_train="3")
class Mine(ao.Callback):
    def on_step(self, row: ao.StepRow) -> None:
        reveal_type(row.before.accuracy)
"""


def test_type_checkers_know_the_api(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "typed.py")]
    cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *cache], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False
    )
    told = [line.partition("typed.py:")[2] for line in done.stdout.splitlines() if "typed.py:" in line]
    assert told == [
        '4: note: Revealed type is "ray_jobs.api.finished_run.Run"',
        '5: note: Revealed type is "agentopt_local.functions.FunctionSet"',
        '6: error: Argument "n_train" to "train" has incompatible type "str"; expected "int"  [arg-type]',
        '9: note: Revealed type is "float"',
    ], done.stdout + done.stderr


def test_a_request_of_the_script_is_what_a_model_of_ones_own_gets(tmp_path: Path) -> None:
    """Any object with ``complete`` is a model."""
    asked = itertools.count()

    class Mine:
        async def complete(self, request: ChatRequest) -> ao.ChatReply:
            next(asked)
            return ao.ChatReply(message=ao.Message(role="assistant", content="<answer>4</answer>"))

    rows = [{"question": f"{i} + {4 - i}?", "answer": 4, "split": split} for i, split in enumerate(["train", "test"])]
    run = ao.train(ao.task(rows), model=Mine(), n_train=1, n_test=1, run_dir=tmp_path, progress=False)  # type: ignore[arg-type]
    assert run.accuracy is not None
    assert run.accuracy.before.value == 1.0
    assert next(asked) == 5, "training and test problem, each with and without the placebo, the former twice without"
    assert run.settings["model"]["name"] == "python:Mine"
