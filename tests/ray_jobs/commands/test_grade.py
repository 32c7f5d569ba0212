"""``agentopt grade``: every row gets a verdict or an error, in order."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from ray_jobs.cli import main
from ray_jobs.config import load_config

CONFIGS = Path(__file__).resolve().parents[3] / "ray_jobs" / "configs"

ROWS = [
    b'{"gold": "\\\\frac12", "prediction": "so \\\\boxed{0.5}", "id": 3}',
    b"no JSON",
    b"",
    b'{"gold": "1"}',
    b'{"gold": ["1"], "prediction": "1"}',
    b"[1]",
    b'{"gold": "5", "prediction": null}',
    b'{"gold": "5", "prediction": "9^{9^{9^9}}"}',
    b'{"gold": "5", "prediction": "\xff"}',
    b'{"gold": 5, "prediction": 5.0}',
]


def graded(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def test_rows_in_order_with_errors_in_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", "math", str(write(tmp_path, *ROWS))]) == 0
    rows = graded(capsys)
    assert [row.get("correct") for row in rows] == [True, None, None, None, None, False, False, None, True]
    assert rows[0] == {"gold": "\\frac12", "prediction": "so \\boxed{0.5}", "id": 3} | {
        "correct": True, "reason": rows[0]["reason"]
    }  # fmt: skip
    assert [row.get("line") for row in rows] == [None, 2, 4, 5, 6, None, None, 9, None]
    assert rows[1]["input"] == "no JSON"
    assert "'prediction'" in rows[2]["error"]
    assert rows[2]["gold"] == "1"


def test_the_unit_and_the_choices_of_a_row_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path,
        {"gold": "no", "prediction": "B", "choices": ["yes", "no"], "unit": None, "ques_type": "multi_choice"},
        {"gold": "5", "prediction": "5 books", "unit": "books", "choices": None},
        {"gold": "no", "prediction": "No", "choices": ["yes", "no"]},
        {"gold": "no", "prediction": "No", "choices": "yes, no"},
    )
    assert main(["grade", "tabmwp", str(path)]) == 0
    assert [row.get("correct") for row in graded(capsys)] == [True, True, False, None]
    assert main(["grade", "tabmwp", str(path), "--lenient"]) == 0
    assert [row.get("correct") for row in graded(capsys)] == [True, True, True, None]


def test_the_official_rule_to_the_letter_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path,
        {"gold": "12", "prediction": "12"},
        {"gold": "12", "prediction": "<think>1</think><answer>12</answer>"},
    )
    assert main(["grade", "gaia", str(path), "--official"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["correct"] for line in captured.out.splitlines()] == [True, False]
    assert "gaia (official rule, to the letter): 1 of 2 correct" in captured.err
    assert main(["grade", "gaia", str(path)]) == 0
    assert [row["correct"] for row in graded(capsys)] == [True, True]


def test_graders_for_any_task_grade_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {"gold": "[1, 2]", "prediction": "<think>[3]</think><answer>[1,2]</answer>"})
    for name, right in (("numeric", True), ("normalized", True), ("exact", False)):
        assert main(["grade", name, str(path)]) == 0
        assert [row["correct"] for row in graded(capsys)] == [right]


def test_an_output_file_and_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {"gold": "1", "prediction": "1"}, {"gold": "1", "prediction": "2"}, b"x")
    out = tmp_path / "out.jsonl"
    assert main(["grade", "gsm8k", str(path), "--output", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1 of 2 correct (50.0%); 1 bad rows" in captured.err
    assert len(out.read_text("utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["maths", "FILE"], "did you mean 'math'"),
        (["math", "missing.jsonl"], "cannot be read"),
        (["math", "FILE", "--lenient"], "no lenient variant"),
        (["math", "FILE", "--official"], "no official rule of its own; only gaia and tabmwp"),
        (["math", "FILE", "--output", "FILE"], "is the file that is graded"),
        (["math", "FILE", "--output", "no/such/folder/out.jsonl"], "cannot be written"),
        (["math", "FILE", "--output", "a\0b"], "cannot be written"),
    ],
)
def test_mistakes_end_with_2(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, {"gold": "1", "prediction": "1"}))
    assert main(["grade", *(path if each == "FILE" else each for each in arguments)]) == 2
    assert says in capsys.readouterr().err


def test_rows_are_shown_without_controls_and_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"gold": "\u202e1", "prediction": "\x9b2J\x1b"}
    assert main(["grade", "exact", str(write(tmp_path, row))]) == 0
    shown = capsys.readouterr().out
    assert not {"\u202e", "\x9b", "\x1b"} & set(shown)
    assert row.items() <= json.loads(shown).items()


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    path, out = write(tmp_path, b'{"gold": "1", "prediction": "\\ud800"}'), tmp_path / "out.jsonl"
    assert main(["grade", "gaia", str(path), "--output", str(out)]) == 0
    assert json.loads(out.read_bytes())["correct"] is False


def test_it_needs_no_engine_and_no_sympy(tmp_path: Path) -> None:
    path = write(tmp_path, {"gold": "\\sqrt{8}", "prediction": "2\\sqrt{2}"})
    code = (
        "import sys; from ray_jobs.cli import main; main(sys.argv[1:]); "
        "sys.exit(sorted({'ray', 'vllm', 'torch', 'sympy', 'numpy', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "grade", "math", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["correct"] is True


@pytest.mark.parametrize("name", ["math", "tabmwp", "gsm8k", "gaia"])
def test_the_example_settings_are_valid(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.toml")
    assert config.task.spec == f"{name}:data/{name}"
    task = importlib.import_module(f"agentopt_local.tasks.{name}")
    loader = next(value for key, value in vars(task).items() if key.lower() == f"{name}task")
    with pytest.raises(ConfigError, match="does not exist"):  # the settings are known; only the data is not here
        loader(f"no/such/{name}", settings=config.task.settings)
