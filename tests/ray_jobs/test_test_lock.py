"""The test problems of a run stay as they were, looks at them are counted, and training problems can be drawn anew."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.run.reader import read_report
from agentopt_local.run.writer import RunDir
from agentopt_local.statistics import paired_difference
from agentopt_local.tasks.catalog import load_task
from benchmarks.scripted import brain, config_in
from ray_jobs.cli import main
from ray_jobs.evaluation import evaluate
from ray_jobs.open_task import OtherTraining, task_of
from ray_jobs.runs import new_run, read_config
from ray_jobs.task_config import TaskConfig
from ray_jobs.terminal.printing import report_text
from ray_jobs.training import train

SHARED = Path(os.environ.get("AGENTOPT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that ended, tested on 5 of the 7 test problems."""
    folder = tmp_path_factory.mktemp("lock")
    config = config_in(folder)
    config = config.model_copy(update={"task": config.task.model_copy(update={"n_test": 5})})
    run_dir = new_run(config)
    try:
        asyncio.run(train(config, run_dir, model=ScriptedChatModel(brain)))
    finally:
        run_dir.close()
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it with its data file."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    values["task"]["spec"] = f"jsonl:{tmp_path / 'problems.jsonl'}"
    values["model"]["name"] = "qwen2.5-coder-0.5b"  # which every machine that runs these tests has
    (tmp_path / "run" / "config.json").write_text(json.dumps(values))
    return tmp_path


def look_at(run: Path, n: int) -> Any:
    """Evaluate ``run`` on ``n`` test problems."""
    run_dir = RunDir(run)
    try:
        job = evaluate(read_config(run), run_dir, split="test", n=n, model=ScriptedChatModel(brain))
        return asyncio.run(job)
    finally:
        run_dir.close()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def change_row(folder: Path, which: str, /, **changes: Any) -> None:
    """Edit the row of a question in the data file; without a question it is taken out."""
    path = folder / "problems.jsonl"
    kept = [row | changes if row["question"] == which else row for row in rows(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept if row["question"]))


def test_the_lock_is_written_when_a_run_starts(tmp_path: Path) -> None:
    def dies(request: Any) -> str:
        raise AssertionError("stop")

    config = config_in(tmp_path)
    run_dir = new_run(config)
    try:
        with pytest.raises(Exception, match="stop"):
            asyncio.run(train(config, run_dir, model=ScriptedChatModel(dies)))
    finally:
        run_dir.close()
    lock = json.loads((run_dir.path / "test_set.json").read_text())
    assert (lock["n"], len(lock["sha256"])) == (7, 64)
    assert [row[0] for row in lock["problems"]] == [each.id for each in task_of(config).problems("test", 7)]
    assert not (run_dir.path / "looks.jsonl").exists(), "nothing has been seen yet"


def test_each_new_look_is_logged_and_a_repeated_one_is_not(folder: Path) -> None:
    run = folder / "run"
    (first,) = rows(run / "looks.jsonl")
    report = read_report(run)
    assert report is not None
    assert report.test is not None
    assert (first["look"], first["n"], first["purpose"]) == (1, 5, "evaluation")
    assert first["p_value"] == report.test.difference.p_value
    assert first["date"].startswith("20")
    assert "look 1 of this test set (sha256 " in report_text(report)
    lock = json.loads((run / "test_set.json").read_text())
    assert report.test.test_set == lock["sha256"]

    assert look_at(run, 5).test.look == 1
    assert len(rows(run / "looks.jsonl")) == 1, "the same set on the same problems"
    more = look_at(run, 7)
    assert more.test.look == 2
    assert "look 2 of this test set" in report_text(more)
    assert "the best one needs p < 0.025" in report_text(more)
    longer = json.loads((run / "test_set.json").read_text())
    assert (longer["n"], longer["problems"][:5]) == (7, lock["problems"]), "problems are added behind the known ones"
    assert look_at(run, 5).test.look == 1
    assert json.loads((run / "test_set.json").read_text()) == longer, "and stay locked"

    run_dir = RunDir(run)
    try:
        change = paired_difference([False] * 7, [True] * 7)
        assert run_dir.keep_look("another set", change, "learning curve") == 3
        assert run_dir.keep_look("another set", change) == 3
    finally:
        run_dir.close()


def test_a_torn_log_of_looks_is_mended(folder: Path) -> None:
    path = folder / "run" / "looks.jsonl"
    path.write_text(path.read_text() + '{"look": 2, "fun')
    assert look_at(folder / "run", 7).test.look == 2
    assert [row["look"] for row in rows(path)] == [1, 2]


def test_changed_test_problems_are_refused_with_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, config = folder / "run", read_config(folder / "run")
    test = task_of(config).problems("test", 7)
    original = (folder / "problems.jsonl").read_text()

    change_row(folder, test[1].question, answer="something else")
    assert main(["evaluate", str(run)]) == 2
    message = capsys.readouterr().err
    assert f"{run / 'test_set.json'}: the test problems of jsonl:{folder / 'problems.jsonl'} have changed" in message
    assert "1 of 5 differ, the first is number 2" in message
    assert f"whose answer was {test[1].answer!r} and is now 'something else'" in message
    assert "Restore the data and the task's settings, or start a new run" in message
    assert "Traceback" not in message

    (folder / "problems.jsonl").write_text(original)
    change_row(folder, test[0].question, question="")
    with pytest.raises(ConfigError, match=f"the first is number 1, which was '{test[0].id}' and is now"):
        task_of(config, run)

    (folder / "problems.jsonl").write_text(original)
    change_row(folder, test[6].question, answer="something else")
    task_of(config, run)  # the seventh problem was never looked at
    assert look_at(run, 7).test.look == 2
    change_row(folder, test[6].question, answer="again")
    with pytest.raises(ConfigError, match="1 of 7 differ, the first is number 7"):
        look_at(run, 7)
    train_only = next(row["question"] for row in rows(folder / "problems.jsonl") if row.get("split") == "train")
    change_row(folder, train_only, answer="whatever")
    task_of(config, run)


def test_a_run_of_an_older_version_is_locked_by_its_problems_and_has_been_looked_at(folder: Path) -> None:
    run = folder / "run"
    (run / "test_set.json").unlink()
    (run / "looks.jsonl").unlink()
    report = json.loads((run / "report.json").read_text())
    del report["test"]["look"], report["test"]["test_set"]
    (run / "report.json").write_text(json.dumps(report))
    assert look_at(run, 7).test.look == 2, "the old report was the first"
    assert [row["look"] for row in rows(run / "looks.jsonl")] == [1, 2]
    test = task_of(read_config(run)).problems("test", 7)
    (run / "test_set.json").unlink()
    change_row(folder, test[0].question, answer="something else")
    with pytest.raises(ConfigError, match="the first is number 1"):
        task_of(read_config(run), run)


# Other training problems


def drawn(spec: str, settings: dict[str, Any] | None = None, given: Any = None, **task: Any) -> dict[str, list[str]]:
    """The ids of the problems in each split."""
    base = config_in(Path(task.pop("folder")))
    values = {"n_train": 6, "n_test": 6, "settings": settings or {}, **task}
    opened = task_of(base.model_copy(update={"task": TaskConfig(spec=spec, **values)}), given=given)
    splits = ("train", "validation", "test")
    return {split: [each.id for each in opened.problems(split, 4)] for split in splits}  # type: ignore[arg-type]


def written(folder: Path) -> str:
    """A task of your own in ``folder``."""
    text = "".join(json.dumps({"question": f"What is {n} + {n}?", "answer": 2 * n}) + "\n" for n in range(200))
    (folder / "own.jsonl").write_text(text)
    return f"jsonl:{folder / 'own.jsonl'}"


@pytest.mark.parametrize("kind", ["jsonl", "math", "gsm8k", "tabmwp"])
def test_another_training_draw_leaves_validation_and_test_alone(kind: str, tmp_path: Path) -> None:
    if kind != "jsonl" and not (SHARED / kind).is_dir():
        pytest.skip(f"no data in {SHARED}; AGENTOPT_SHARED_DATA names its folder")
    spec = written(tmp_path) if kind == "jsonl" else f"{kind}:{SHARED / kind}"
    plain = drawn(spec, folder=tmp_path, seed=3)
    assert drawn(spec, folder=tmp_path, seed=3, train_seed=3) == plain
    other = drawn(spec, folder=tmp_path, seed=3, train_seed=4)
    assert other["train"] != plain["train"]
    assert (other["validation"], other["test"]) == (plain["validation"], plain["test"])
    assert other["train"] == drawn(spec, folder=tmp_path, seed=4)["train"]
    assert not set(other["train"]) & {*other["validation"], *other["test"]}


def test_generated_training_problems_are_others_and_never_test_problems() -> None:
    plain, other = (load_task("reasoning_gym:gcd", seed=seed) for seed in (3, 4))
    both = OtherTraining(plain, other)
    train, test = both.problems("train", 20), both.problems("test", 20)
    assert test == plain.problems("test", 20)
    assert train == other.problems("train", 20) != plain.problems("train", 20)
    assert not {each.question for each in train} & {each.question for each in test}


class Counting:
    """A task object that always has the same problems."""

    first = 0

    def problems(self, split: str, n: int) -> list[Problem]:
        start = {"train": self.first, "validation": 10_000, "test": 20_000}[split]
        return [Problem(id=str(x), question=f"{x}?", answer=str(x)) for x in range(start, start + n)]

    async def grade(self, problem: Problem, answer: str | None, sandbox: Any) -> bool:
        return answer == problem.answer


class Drawing(Counting):
    """One that can draw others."""

    def with_seed(self, seed: int) -> Drawing:
        other = Drawing()
        other.first = 100 * seed
        return other


def test_an_object_draws_other_training_problems_if_it_can(tmp_path: Path) -> None:
    other = drawn("python:counting", given=Drawing(), folder=tmp_path, train_seed=2)
    assert (other["train"][0], other["test"][0]) == ("200", "20000")
    with pytest.raises(ConfigError, match=r"task\.train_seed = 2: Counting cannot draw other training problems.*with_"):
        drawn("python:counting", given=Counting(), folder=tmp_path, train_seed=2)
    assert drawn("python:counting", given=Counting(), folder=tmp_path, train_seed=0)["train"][0] == "0"


def test_a_drawn_task_grades_as_the_task_does(tmp_path: Path) -> None:
    spec = written(tmp_path)
    config = config_in(tmp_path).model_copy(update={"task": TaskConfig(spec=spec, train_seed=9, n_train=3, n_test=3)})
    task = task_of(config)
    problem = task.problems("train", 1)[0]
    for each in (task, task.for_grading()):  # type: ignore[attr-defined]
        assert asyncio.run(each.grade(problem, problem.answer, None)).correct
    assert task.name == load_task(spec).name
