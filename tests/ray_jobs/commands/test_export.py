"""Exports of a trained run: the package, tool definitions, Inspect logs."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.exporting.learned import read_learned
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.run.reader import read_rollouts
from agentopt_local.run.report import Comparison
from ray_jobs.cli import main


def export(run: Path, form: str, output: Path, *more: str) -> int:
    return main(["export", str(run), "--format", form, "--output", str(output), *more])


def test_the_metadata_say_whose_settings_each_role_had(run: Path) -> None:
    meta = json.loads((run / "meta.json").read_text())
    said = "small: a-model has a size that is not known; model.size can state it"
    assert meta["sizes"] == {"agent": said, "optimizer": said}
    assert json.loads((run / "config.json").read_text())["model"]["size"] == "small"


# What is exported


def test_what_was_learned_and_measured_is_read(run: Path, functions: FunctionSet) -> None:
    learned = read_learned(run)
    assert learned.functions.source == functions.source
    assert [bool(each.questions) for each in learned.functions.each()] == [False, True, True]
    assert learned.withheld == ()
    provenance = learned.provenance
    report = json.loads((run / "report.json").read_text())
    assert provenance.test == Comparison.model_validate(report["test"])
    assert (provenance.run, provenance.task, provenance.model) == ("Words & numbers", "jsonl:problems.jsonl", "a-model")
    assert provenance.start == ("lucky",)
    assert str(run.parent) not in provenance.model_dump_json(), "no path of the machine is told"


def test_what_the_evaluation_withheld_is_left_out_and_named(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    report = json.loads((copy / "report.json").read_text())
    report["functions"] = [row for row in report["functions"] if row["name"] != "lucky"]
    (copy / "report.json").write_text(json.dumps(report))
    tested = read_learned(run).functions.removing("lucky").fingerprint
    rows = [json.loads(line) for line in (copy / "rollouts.jsonl").read_text().splitlines()]
    for row in rows:
        row["functions"] = tested if row["stage"] == "test after" else row["functions"]
    (copy / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    learned = read_learned(copy)
    assert (learned.functions.names, learned.withheld) == (("reverse", "factor"), ("lucky",))


def test_a_report_of_another_set_is_no_provenance(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    state = json.loads((copy / "state.json").read_text())
    state["functions"]["functions"][1]["source"] += "    # changed since\n"
    (copy / "state.json").write_text(json.dumps(state))
    learned = read_learned(copy)
    assert learned.provenance.test is None
    assert "changed since" in learned.functions.source


def test_a_line_that_is_being_written_is_passed_over(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    whole = len(list(read_rollouts(copy)))
    with (copy / "rollouts.jsonl").open("a") as file:
        file.write('{"stage": "step 4 bef')
    assert len(list(read_rollouts(copy))) == whole
    assert (copy / "rollouts.jsonl").read_bytes().endswith(b"bef"), "the run of another process is not touched"


# The package


@pytest.fixture(scope="module")
def package(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "out"
    assert export(run, "python", folder, "--name", "my_words") == 0
    return folder


def test_the_tests_are_the_recorded_calls_that_reproduce(package: Path, run: Path) -> None:
    examples = json.loads((package / "tests/examples.json").read_text())
    assert {name: len(each) for name, each in examples.items()} == {"reverse": 8, "factor": 6}
    assert {"arguments": {"word": "tiger"}, "value": "regit"} in examples["reverse"]
    assert {"arguments": {"n": 12}, "value": "2^2*3"} in examples["factor"]
    readme = (package / "README.md").read_text()
    assert "`lucky`: 3 distinct recorded calls, 3 made again, 0 gave the same; 3 gave something else" in readme
    made = {call.name for row in read_rollouts(run) for call in row.trajectory.calls if call.ok}
    assert "lucky" in made, "it was called without error, and left out because it depends on chance"


def test_the_package_says_where_it_comes_from_and_that_it_is_not_trusted(package: Path, run: Path) -> None:
    readme = (package / "README.md").read_text()
    assert "**This is untrusted code.**" in readme
    assert "| accuracy before, without functions | 0.0 % of 6 held-out problems (95 % interval 0.0 to 39.0) |" in readme
    assert "| accuracy after, with these functions | 83.3 % of 6 held-out problems" in readme
    assert "| functions it started with | lucky |" in readme
    provenance = json.loads((package / "my_words/provenance.json").read_text())
    report = json.loads((run / "report.json").read_text())
    assert provenance["test"] == report["test"]
    assert provenance["model"] == "a-model"
    assert provenance["exported"]
    text = "\n".join(each.read_text() for each in package.rglob("*") if each.is_file())
    assert str(run.parent) not in text


def test_the_package_is_typed_documented_and_needs_only_what_it_imports(package: Path) -> None:
    tree = ast.parse((package / "my_words/functions.py").read_text())
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in defined] == ["lucky", "reverse", "factor"]
    for node in defined:
        assert ast.get_docstring(node)
        assert node.returns is not None
        assert all(arg.annotation is not None for arg in node.args.args)
    import tomllib

    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert [each.split(">=")[0] for each in project["dependencies"]] == ["sympy"]
    assert (package / "my_words/py.typed").exists()


def built(package: Path, folder: Path) -> Path:
    """The package's wheel, built without a network."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(package)], check=True, capture_output=True, timeout=300)
    return next(folder.glob("*.whl"))


def test_it_installs_in_an_empty_environment_and_its_tests_pass(package: Path, tmp_path: Path) -> None:
    """The environment holds nothing else; pytest and sympy are lent by a path that holds nothing of ours."""
    empty = tmp_path / "venv"
    venv.create(empty, with_pip=False)
    python = str(empty / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(built(package, tmp_path))], check=True, capture_output=True, timeout=300)
    code = "import my_words; print(my_words.reverse(word='stressed'), my_words.__all__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "desserts ['lucky', 'reverse', 'factor']\n"

    lent = tmp_path / "lent"
    lent.mkdir()
    for name in ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "sympy", "mpmath"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        origin = origin.parent if origin.name == "__init__.py" else origin
        (lent / origin.name).symlink_to(origin)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests")]
    environment = {"PYTHONPATH": str(lent), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 passed" in done.stdout

    installed = next((empty / "lib").glob("python*/site-packages/my_words/functions.py"))
    installed.write_text(installed.read_text().replace("word[::-1]", "word"))
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1, "a function that does something else fails its tests"
    assert "8 failed, 6 passed" in done.stdout


@pytest.mark.parametrize(
    ("name", "told"), [("json", "would hide"), ("my-tools", "cannot be the name"), ("sympy", "hide")]
)
def test_a_package_name_that_cannot_be_is_told(
    name: str, told: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, "python", tmp_path / "out", "--name", name) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Where it goes


@pytest.mark.parametrize("form", ["python", "openai", "anthropic", "mcp", "inspect"])
@pytest.mark.parametrize("name", [b"x\xff", b"a\nb\x1b[31mc", "größe 数".encode(), b"-rf", b"tests"])
def test_a_run_in_a_folder_of_any_name_is_exported(name: bytes, form: str, run: Path, tmp_path: Path) -> None:
    """M1. Names that the other end takes are made from it, or the folder's name is refused in words."""
    copy = shutil.copytree(run, Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    refused = form == "mcp" and name == b"x\xff"
    assert main(["export", "--format", form, "--output", str(tmp_path / "out"), "--", str(copy)]) == 2 * refused
    if form == "mcp" and not refused:
        [server] = json.loads((tmp_path / "out").read_text())["mcpServers"]
        assert re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", server)


def test_the_servers_name_is_one_that_clients_take(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """M1: the fixture's run is called ``Words & numbers``."""
    assert export(run, "mcp", tmp_path / "mcp.json") == 0
    assert list(json.loads((tmp_path / "mcp.json").read_text())["mcpServers"]) == ["Words-numbers"]
    assert export(run, "mcp", tmp_path / "other.json", "--name", "Words & numbers") == 2
    assert "cannot be the name of an MCP server" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["python", "openai", "inspect"])
@pytest.mark.parametrize("output", ["o" * 300, "start.py/x", "a\0b"])
def test_a_place_that_cannot_be_written_is_told(
    form: str, output: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "start.py").touch()
    assert export(run, form, tmp_path / output) == 2
    assert "--output PATH" in capsys.readouterr().err


def test_exports_go_beside_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(run, tmp_path / "a run")
    assert main(["export", str(copy), "--format", "anthropic"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written == tmp_path / "a run-anthropic.json"
    assert [tool["name"] for tool in json.loads(written.read_text())] == ["lucky", "reverse", "factor"]


def test_nothing_is_overwritten_without_force(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file = tmp_path / "tools.json"
    file.write_text("mine")
    assert export(run, "openai", file) == 2
    assert f"{file} exists already; replace it with --force" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert export(run, "openai", file, "--force") == 0
    assert json.loads(file.read_text())[1]["function"]["name"] == "reverse"

    folder = tmp_path / "logs"
    assert export(run, "inspect", folder) == 0
    assert export(run, "inspect", folder) == 2
    (folder / "extra").write_text("")
    assert export(run, "inspect", folder, "--force") == 0
    assert sorted(each.name for each in folder.iterdir()) == [".agentopt-export", "after.eval", "before.eval"]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


@pytest.mark.parametrize("form", ["openai", "inspect", "python"])
def test_a_pipe_is_not_replaced_by_force(
    form: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["export", str(run), "--format", form, "--output", str(tmp_path / "pipe"), "--force"]) == 2
    assert "it is a pipe, not a file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_of_somebody_else_is_never_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    (tmp_path / "thesis.tex").write_text("years of work")
    for form in ("python", "inspect"):
        assert export(run, form, tmp_path, "--force") == 2
        assert "agentopt did not write" in capsys.readouterr().err
    assert main(["import", str(run), "--output", str(tmp_path), "--force"]) == 2
    assert export(run, "openai", tmp_path, "--force") == 2
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_without_functions_has_nothing_to_export(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "config.json", bare)
    for form in ("python", "openai", "mcp"):
        assert main(["export", str(bare), "--format", form]) == 2
        assert f"{bare} has learned no function (yet)" in capsys.readouterr().err
    assert main(["serve-mcp", str(bare)]) == 2
    assert main(["export", str(bare), "--format", "inspect"]) == 2
    assert f"run: agentopt evaluate {bare}" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--format", "openai"]) == 2
    assert "is not a run folder" in capsys.readouterr().err


# Inspect


@pytest.fixture(scope="module")
def logs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("inspect_ai")
    from inspect_ai.log import read_eval_log

    folder = tmp_path_factory.mktemp("inspect") / "logs"
    assert export(run, "inspect", folder) == 0
    return {side: read_eval_log(str(folder / f"{side}.eval")) for side in ("before", "after")}


def test_inspect_reads_both_sides(logs: dict[str, Any], run: Path) -> None:
    test = json.loads((run / "report.json").read_text())["test"]
    for side, log in logs.items():
        assert log.status == "success"
        assert len(log.samples) == log.results.total_samples == test["n"] == 6
        metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
        assert round(metrics["accuracy"], 4) == test[side]["accuracy"]
        assert [round(metrics[f"wilson95_{end}"], 4) for end in ("low", "high")] == test[side]["ci95"]
        usage = log.stats.model_usage["agentopt/a-model"]
        assert usage.output_tokens == test[side]["tokens"]["completion_tokens"]
        assert usage.total_tokens == usage.output_tokens + test[side]["tokens"]["prompt_tokens"]
    assert [each.id for each in logs["before"].samples] == [each.id for each in logs["after"].samples]


def test_a_sample_holds_the_whole_conversation(logs: dict[str, Any]) -> None:
    sample = next(each for each in logs["after"].samples if each.id == "Reverse: tiger")
    assert (sample.input, sample.target) == ("Reverse: tiger", "regit")
    assert [message.role for message in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call, result = sample.messages[2].tool_calls[0], sample.messages[3]
    assert (call.function, call.arguments) == ("reverse", {"word": "tiger"})
    assert (result.tool_call_id, result.function, result.content) == (call.id, "reverse", "regit")
    score = sample.scores["agentopt_grade"]
    assert (score.value, score.answer, score.explanation) == (1.0, "regit", "correct")
    assert sample.model_usage["agentopt/a-model"].output_tokens > 0
    wrong = next(each for each in logs["after"].samples if each.id == "Lucky: 3")
    assert wrong.scores["agentopt_grade"].value == 0.0
    before = next(each for each in logs["before"].samples if each.id == "Reverse: tiger")
    assert [message.role for message in before.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert before.messages[3].content == "Output of the code:\ntiger"


def test_inspect_gets_thoughts_as_reasoning(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.log import read_eval_log
    from inspect_ai.model import ContentReasoning

    from agentopt_local.exporting.inspect_log import write_log

    learned = read_learned(run)
    rollout = next(row.trajectory for row in read_rollouts(run) if row.trajectory.calls)
    steps = [
        each.model_copy(update={"message": each.message.model_copy(update={"thought": f"thought {number}"})})
        for number, each in enumerate(rollout.steps)
    ]
    usage = rollout.usage.model_copy(update={"thought_tokens": 3})
    thinking = rollout.model_copy(update={"steps": tuple(steps), "usage": usage})
    problem = Problem(id="p", question="?", answer="!")
    path, settings = tmp_path / "after.eval", {"agent": {}}
    attempts = [(problem, thinking), (problem.model_copy(update={"id": "q"}), rollout)]
    write_log(path, learned.provenance, learned.functions, attempts, side="after", config=settings, prompt_hashes={})
    log: Any = read_eval_log(str(path))
    turns = [each for each in log.samples[0].messages if each.role == "assistant"]
    plain = [each for each in log.samples[1].messages if each.role == "assistant"]
    for number, (turn, without) in enumerate(zip(turns, plain, strict=True)):
        assert isinstance(turn.content[0], ContentReasoning)
        assert turn.content[0].reasoning == f"thought {number}"
        assert (turn.text, turn.tool_calls) == (without.text, without.tool_calls)
    assert log.samples[0].output.message.text == plain[-1].text
    assert next(iter(log.stats.model_usage.values())).reasoning_tokens == 3


def test_inspects_own_command_reads_a_log(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    assert export(run, "inspect", tmp_path / "logs") == 0
    command = [
        str(Path(sys.executable).with_name("inspect")),
        "log",
        "list",
        "--json",
        "--log-dir",
        str(tmp_path / "logs"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert {each["task"] for each in listed} == {"jsonl:problems.jsonl before", "jsonl:problems.jsonl after"}
