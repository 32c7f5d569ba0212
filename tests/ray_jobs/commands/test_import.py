"""Importing functions as the start of a training."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agentopt_local.functions import FunctionSet
from agentopt_local.run.reader import read_start
from agentopt_local.train_state import TrainState
from ray_jobs.cli import main
from ray_jobs.config import build
from ray_jobs.runs import new_run
from ray_jobs.start_functions import read_start_functions


def config_with(start: Path, folder: Path) -> object:
    return build({"task": {"spec": "jsonl:x"}, "start_functions": str(start), "run_dir": str(folder)}, "test")


def test_a_training_starts_from_the_set(run: Path) -> None:
    """The fixture's run starts from ``lucky``, which was given as a file."""
    first = json.loads((run / "steps.jsonl").read_text().splitlines()[0])
    assert first["fingerprint"]["before"] == read_start(run).fingerprint
    assert first["functions"] == ["lucky", "reverse"]
    called = {
        call["name"]
        for line in (run / "rollouts.jsonl").read_text().splitlines()
        if json.loads(line)["stage"] == "step 1 before"
        for step in json.loads(line)["steps"]
        for call in step["executed"]
    }
    assert "lucky" in called, "the agent had it in the first rollouts"


def test_the_baseline_stays_the_empty_set(run: Path) -> None:
    before = [
        json.loads(line)
        for line in (run / "rollouts.jsonl").read_text().splitlines()
        if json.loads(line)["stage"] == "test before"
    ]
    assert len(before) == 6
    assert {row["functions"] for row in before} == {FunctionSet().fingerprint}


@pytest.mark.parametrize("form", ["run", "package", "inner", "folder"])
def test_every_form_comes_back_as_the_same_functions(
    form: str, run: Path, functions: FunctionSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run
    if form in ("package", "inner"):
        assert main(["export", str(run), "--format", "python", "--output", str(tmp_path / "p"), "--name", "pack"]) == 0
        path = tmp_path / "p" / ("pack" if form == "inner" else "")
    elif form == "folder":
        path = max((run / "functions").iterdir())
    assert main(["import", str(path), "--output", str(tmp_path / "set")]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(tmp_path / "set")
    assert f"--start_functions {tmp_path / 'set'}" in captured.err
    written = {each.stem: each.read_text() for each in (tmp_path / "set").glob("*.py")}
    assert written == {each.name: each.source for each in functions.each()}


def test_a_run_keeps_its_start_set(run: Path, functions: FunctionSet, tmp_path: Path) -> None:
    """A resume needs no file outside the run's folder."""
    config = config_with(run, tmp_path)
    start = asyncio.run(read_start_functions(config))  # type: ignore[arg-type]
    assert start.source == functions.source
    assert [bool(each.questions) for each in start.each()] == [False, True, True]
    with_start = new_run(config, start)  # type: ignore[arg-type]
    try:
        assert with_start.resume() == TrainState(functions=read_start(with_start.path))
        assert set(read_start(with_start.path).each()) == set(start.each())
    finally:
        with_start.close()


def test_source_questions_come_along_from_a_run_and_are_not_exported(functions: FunctionSet, tmp_path: Path) -> None:
    secret = "How many parcels did the depot in Ulm send?"
    asked = FunctionSet(functions=tuple(each.for_questions([secret]) for each in functions.each()))
    source = new_run(config_with(tmp_path, tmp_path), asked)  # type: ignore[arg-type]
    source.close()
    start = asyncio.run(read_start_functions(config_with(source.path, tmp_path)))  # type: ignore[arg-type]
    assert set(start.each()) == set(asked.each())
    run_dir = new_run(config_with(source.path, tmp_path), start)  # type: ignore[arg-type]
    run_dir.close()
    assert read_start(run_dir.path) == read_start(source.path)
    assert secret in (source.path / "functions/0000/questions.json").read_text()
    for form in ("python", "openai", "anthropic"):
        assert main(["export", str(source.path), "--format", form, "--output", str(tmp_path / "out" / form)]) == 0
    assert main(["import", str(source.path), "--output", str(tmp_path / "out" / "set")]) == 0
    written = [each for each in (tmp_path / "out").rglob("*") if each.is_file()]
    assert {"functions.py", "openai", "anthropic", "reverse.py"} <= {each.name for each in written}
    assert [each for each in written if secret.encode() in each.read_bytes()] == []


def test_what_does_not_load_in_the_sandbox_names_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    good = 'def good() -> str:\n    """Good."""\n    return ""\n'
    (tmp_path / "good.py").write_text(good)
    (tmp_path / "bad.py").write_text("from math import no_such_name\n\n\n" + good.replace("good", "bad"))
    assert main(["import", str(tmp_path), "--output", str(tmp_path / "set")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'bad.py'}: bad does not load in the sandbox: " in told
    assert "ImportError: cannot import name 'no_such_name'" in told
    assert "good.py" not in told
    assert not (tmp_path / "set").exists()


def test_a_wrong_start_set_leaves_no_run_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = tmp_path / "p.jsonl"
    problems.write_text("".join(json.dumps({"question": f"q{i}", "answer": "1"}) + "\n" for i in range(40)))
    config = tmp_path / "c.toml"
    config.write_text(f'run_dir = "{tmp_path}/runs"\n[task]\nspec = "jsonl:{problems}"\nn_train = 4\nn_test = 4\n')
    (tmp_path / "wrong.py").write_text("x = 1\n")
    more = ["--start_functions", str(tmp_path / "wrong.py"), "--model.base_url", "http://127.0.0.1:9/v1"]
    assert main(["train", str(config), *more]) == 2
    assert "wrong.py: line 1: Assign at the top level" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
