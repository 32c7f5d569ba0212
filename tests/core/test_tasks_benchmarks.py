"""The benchmark tasks: official files, the same problems in every run, errors that name file and line."""

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from agentopt_local.grading import Grade
from agentopt_local.problem import Problem, content_key
from agentopt_local.tasks.catalog import load_task
from agentopt_local.tasks.options import levels

SHARED = Path(os.environ.get("AGENTOPT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no data in {SHARED}; AGENTOPT_SHARED_DATA names its folder"
)


def grade(task: Any, problem: Problem, answer: str | None) -> Grade:
    result: Grade = asyncio.run(task.grade(problem, answer, None))  # these graders use no sandbox
    return result


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def math_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "problem": f"What is {number} + 1?", "level": f"Level {number % 5 + 1}",
        "solution": f"So $\\boxed{{{number + 1}}}$.",
        "type": ("Algebra", "Number Theory")[number % 2],
    } | changes  # fmt: skip


def math_folder(folder: Path) -> Path:
    lines(folder / "train.jsonl", *map(math_row, range(50)))
    lines(folder / "test.jsonl", *map(math_row, range(45, 90)))
    return folder


@needs_data
@pytest.mark.parametrize(
    ("spec", "train", "test"),
    [("math:{}/math", 300, 420), ("math:{}/math/official_layout", 8, 14), ("gsm8k:{}/gsm8k", 200, 300),
     ("tabmwp:{}/tabmwp", 250, 400), ("math:{}/math?type=Number Theory&level=1-3", 15, 27)],
)  # fmt: skip
def test_official_files_load_and_their_answers_are_right(spec: str, train: int, test: int) -> None:
    task = load_task(spec.format(SHARED), seed=3)
    problems = task.problems("train", train) + task.problems("test", test)
    assert len({problem.id for problem in problems}) == train + test
    assert not {p.question for p in task.problems("train", train)} & {p.question for p in task.problems("test", test)}
    for problem in problems[:40]:
        assert grade(task, problem, problem.answer).correct
        assert not grade(task, problem, None).correct
    assert task.problems("test", 14)[:7] == task.problems("test", 7)


def test_the_seed_decides_the_order_and_not_the_split(tmp_path: Path) -> None:
    spec = f"math:{math_folder(tmp_path)}"
    first, again, other = (load_task(spec, seed=seed).problems("test", 45) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert set(map(repr, first)) == set(map(repr, other))


def test_a_training_problem_that_is_a_test_problem_is_dropped_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = load_task(f"math:{math_folder(tmp_path)}")
    found = task.description  # type: ignore[attr-defined]
    assert found["dropped_from_train"] == 5
    assert found["problems"]["train"] + found["problems"]["validation"] == 45
    assert "5 training problems are also" in caplog.text
    questions = {p.question for p in task.problems("test", 45)}
    assert not questions & {p.question for p in task.problems("train", found["problems"]["train"])}


def test_types_and_levels_are_chosen_by_the_spec_or_the_settings(tmp_path: Path) -> None:
    folder = math_folder(tmp_path)
    by_spec = load_task(f"math:{folder}?type=Number Theory&level=1-2")
    by_settings = load_task(f"math:{folder}", settings={"type": ["number_theory"], "level": [1, 2]})
    problems = by_spec.problems("test", 9)
    assert problems == by_settings.problems("test", 9)
    assert {p.kind for p in problems} == {"Number Theory"}
    assert {p.metadata["level"] for p in problems} <= {1, 2}


@pytest.mark.parametrize(("value", "found"), [(3, {3}), ("1-3", {1, 2, 3}), ("1,5", {1, 5}), ([2, "4"], {2, 4})])
def test_levels(value: Any, found: set[int]) -> None:
    assert levels("t", {"level": value}, 5) == found


def test_a_math_grade_reports_exact_match_beside_equivalence(tmp_path: Path) -> None:
    task = load_task(f"math:{math_folder(tmp_path)}")
    problem = task.problems("test", 1)[0]
    same, other = grade(task, problem, problem.answer), grade(task, problem, f"\\frac{{{problem.answer}}}{{1}}")
    assert (same.correct, same.exact) == (True, True)
    assert (other.correct, other.exact) == (True, False)


def test_the_question_asks_for_a_form_and_never_holds_the_solution(tmp_path: Path) -> None:
    problem = load_task(f"math:{math_folder(tmp_path)}").problems("test", 1)[0]
    assert "LaTeX" in problem.question
    assert "boxed" not in problem.model_dump_json(exclude={"answer"})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("not JSON", "train.jsonl, line 2: not JSON"), ("[1]", "line 2: found [1]"),
        (math_row(1, level="Level 9"), "line 2, key 'level'"), (math_row(1, type="Algebr"), "did you mean 'Algebra'"),
        (math_row(1, solution="no box"), "line 2, key 'solution'"), (math_row(1, problem=""), "line 2, key 'problem'"),
        ({"problem": "?", "type": "Algebra", "solution": "\\boxed{1}"}, "line 2: no key 'level'"),
    ],
)  # fmt: skip
def test_broken_rows_are_named(row: Any, says: str, tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", math_row(0), row)
    lines(tmp_path / "test.jsonl", math_row(2))
    with pytest.raises(ConfigError) as error:
        load_task(f"math:{tmp_path}")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("spec", "settings", "says"),
    [
        ("math:/no/such/folder", {}, "does not exist. Download"), ("math:{}?type=Algebr", {}, "did you mean 'Algebra'"),
        ("math:{}?levl=3", {}, "did you mean 'level'"), ("math:{}", {"level": "7"}, "levels from 1 to 5"),
        ("math:{}/empty", {}, "no train.jsonl"), ("tabmwp:{}", {}, "problems_dev.json"), ("gaia:{}", {}, "gated"),
        ("gsm8k:{}", {}, "no key 'question'"), ("tabmwp:{}", {"lenient": "maybe"}, "neither true nor false"),
        ("maths:{}", {}, "did you mean 'math'"), ("gaia:{}", {"level": 4}, "levels from 1 to 3"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(spec: str, settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    math_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        load_task(spec.format(tmp_path), settings=settings)
    assert says in str(error.value)


def table_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "question": f"How much are {number} pens?", "choices": None, "answer": str(number * 2), "unit": "$",
        "table_title": "Prices", "table": "pen | $2", "ques_type": "free_text", "ans_type": "integer_number",
        "grade": 3,
    } | changes  # fmt: skip


def test_tabmwp_shows_table_and_options_and_checks_its_splits(tmp_path: Path) -> None:
    rows = {str(n): table_row(n) for n in range(20)}
    choice = table_row(
        30, choices=["yes", "no"], answer="no", ques_type="multi_choice", ans_type="boolean_text", unit=None
    )
    for name, part in (
        ("train", dict(list(rows.items())[:10])),
        ("dev", dict(list(rows.items())[10:])),
        ("test", {"30": choice}),
    ):
        (tmp_path / f"problems_{name}.json").write_text(json.dumps(part))
    task = load_task(f"tabmwp:{tmp_path}")
    assert len(task.problems("train", 10)) == len(task.problems("validation", 10)) == 10
    problem = task.problems("test", 1)[0]
    for shown in ("pen | $2", "Prices", "How much are 30 pens?", "yes, no"):
        assert shown in problem.question
    assert not grade(task, problem, "No").correct
    assert grade(load_task(f"tabmwp:{tmp_path}?lenient=true"), problem, "No").correct
    (tmp_path / "splits.json").write_text(json.dumps({"train": [30], "dev": [], "test": []}))
    with pytest.raises(ConfigError, match="lists problem 30 under 'train'"):
        load_task(f"tabmwp:{tmp_path}")


def gaia_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": f"{number:08x}-1111-2222-3333-444455556666", "Question": f"Which city is number {number}?",
        "Level": number % 3 + 1, "Final answer": f"City {number}", "file_name": "",
        "Annotator Metadata": {"Steps": f"1. City {number}", "Tools": "none"},
    } | changes  # fmt: skip


def gaia_folder(folder: Path) -> Path:
    rows = [gaia_row(n) for n in range(60)]
    rows[0]["file_name"], rows[1]["file_name"] = "cities.csv", "map.png"
    lines(folder / "2023" / "validation" / "metadata.jsonl", *rows)
    (folder / "2023" / "validation" / "cities.csv").write_text("a,b\n1,2\n")
    (folder / "2023" / "validation" / "map.png").write_bytes(b"\x89PNG")
    welcome = {"task_id": "0-0-0-0-0", "Question": "Welcome to the test set!", "Level": "", "Final answer": ""}
    lines(
        folder / "2023" / "test" / "metadata.jsonl",
        welcome,
        *(gaia_row(n, **{"Final answer": "?"}) for n in range(100, 130)),
    )
    return folder


def everything(task: Any) -> list[Problem]:
    counts = task.description["problems"]
    return [problem for split, n in counts.items() for problem in task.problems(split, n)]


def test_gaia_splits_the_validation_questions_and_shows_attachments(tmp_path: Path) -> None:
    task = load_task(f"gaia:{gaia_folder(tmp_path)}")
    problems = everything(task)
    assert len(problems) == 60
    counts = task.description["problems"]  # type: ignore[attr-defined]
    assert counts["test"] > counts["train"] > 0
    by_id = {problem.id[:8]: problem for problem in problems}
    assert "a,b\n1,2" in by_id["00000000"].question
    assert "map.png (4 bytes, not text)" in by_id["00000001"].question
    for problem in problems:
        assert problem.answer not in problem.question
        assert "Steps" not in problem.model_dump_json()
        assert grade(task, problem, problem.answer.upper()).correct
    assert {p.metadata["level"] for p in everything(load_task(f"gaia:{tmp_path}/2023?level=1-2"))} == {1, 2}


def test_gaia_test_questions_are_withheld(tmp_path: Path) -> None:
    task = load_task(f"gaia:{gaia_folder(tmp_path)}", settings={"withheld": True})
    problems = task.problems("test", 30)
    assert not any("Welcome" in problem.question for problem in problems)
    verdict = grade(task, problems[0], "?")
    assert not verdict.correct
    assert "withheld" in verdict.reason


def test_gaia_names_a_missing_attachment_and_a_broken_level(tmp_path: Path) -> None:
    path = tmp_path / "2023" / "validation" / "metadata.jsonl"
    lines(path, gaia_row(0), gaia_row(1, file_name="gone.pdf"))
    with pytest.raises(ConfigError, match=r"line 2, key 'file_name'.*gone.pdf does not exist"):
        load_task(f"gaia:{tmp_path}")
    lines(path, gaia_row(0), gaia_row(1, file_name="../../../etc/passwd"))
    with pytest.raises(ConfigError, match="file_name"):
        load_task(f"gaia:{tmp_path}")
    (tmp_path / "mine.txt").write_text("not for a model")
    (path.parent / "link.txt").symlink_to(tmp_path / "mine.txt")
    lines(path, gaia_row(0), gaia_row(1, file_name="link.txt"))
    with pytest.raises(ConfigError, match=r"link\.txt is a link that leads out of its folder"):
        load_task(f"gaia:{tmp_path}")
    lines(path, gaia_row(0), gaia_row(1, Level=5))
    with pytest.raises(ConfigError, match="line 2, key 'Level'"):
        load_task(f"gaia:{tmp_path}")


def test_gaia_from_parquet(tmp_path: Path) -> None:
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    folder = tmp_path / "2023" / "validation"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist([gaia_row(n) for n in range(20)]), folder / "metadata.parquet")
    assert len(everything(load_task(f"gaia:{tmp_path}"))) == 20


def test_no_parquet_without_pyarrow_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    folder = tmp_path / "2023" / "validation"
    folder.mkdir(parents=True)
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="needs the package pyarrow"):
        load_task(f"gaia:{tmp_path}")


def test_content_decides_what_is_the_same_question(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", math_row(1), math_row(1, problem="WHAT is  1 + 1?"), math_row(3))
    lines(tmp_path / "test.jsonl", math_row(8))
    task = load_task(f"math:{tmp_path}")
    assert task.description["repeated"] == 1  # type: ignore[attr-defined]
    assert content_key("WHAT is  1 + 1?") == content_key("What is 1 + 1?")
