"""The user's own files: what rows may contain, how they are split, and the messages for broken ones."""

import asyncio
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from agentopt_local.grading import Grade
from agentopt_local.problem import SPLITS, Problem, content_key, split_of
from agentopt_local.sandbox.base import Execution
from agentopt_local.tasks.catalog import load_task
from agentopt_local.tasks.jsonl import JsonlTask

ROWS = [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(200)]


class NoSandbox:
    """These graders run nothing in a sandbox."""

    async def call(self, *arguments: Any, **options: Any) -> Execution:
        raise AssertionError("the sandbox was used")

    call_many = run = aclose = call  # type: ignore[assignment]


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def everything(task: JsonlTask) -> dict[str, tuple[Problem, ...]]:
    found = {}
    for split in SPLITS:
        n = 0
        while True:
            try:
                found[split] = task.problems(split, n)
                n += 1
            except ConfigError:
                break
    return found


def grade(task: Any, problem: Problem, answer: str | None) -> Grade:
    result: Grade = asyncio.run(task.grade(problem, answer, NoSandbox()))
    return result


def test_rows_are_split_by_content(tmp_path: Path) -> None:
    found = everything(JsonlTask(write(tmp_path, *ROWS)))
    assert sum(map(len, found.values())) == len(ROWS)
    for split, problems in found.items():
        assert problems
        assert all(split_of(content_key(problem.question)) == split for problem in problems)


def test_a_larger_request_extends_a_smaller_one(tmp_path: Path) -> None:
    task = load_task(f"jsonl:{write(tmp_path, *ROWS)}", seed=5)
    assert task.problems("train", 50)[:20] == task.problems("train", 20)


def test_the_seed_decides_the_order_and_not_the_split(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    first, again, other = (everything(JsonlTask(path, seed=seed))["test"] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert set(map(repr, first)) == set(map(repr, other))


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    forward = JsonlTask(write(tmp_path, *ROWS)).problems("train", 30)
    assert JsonlTask(write(tmp_path, *reversed(ROWS))).problems("train", 30) == forward


def test_a_split_of_the_row_is_obeyed(tmp_path: Path) -> None:
    rows = [row | {"split": "validation"} for row in ROWS[:7]]
    found = everything(JsonlTask(write(tmp_path, *rows)))
    assert {split: len(problems) for split, problems in found.items()} == {"train": 0, "validation": 7, "test": 0}


def test_kinds_come_in_turn_as_long_as_they_last(tmp_path: Path) -> None:
    kinds = ["algebra"] * 5 + ["number theory"] * 2
    rows = [{"question": f"{k} {i}", "answer": "x", "kind": k, "split": "test"} for i, k in enumerate(kinds)]
    problems = JsonlTask(write(tmp_path, *rows)).problems("test", 7)
    assert [problem.kind[0] for problem in problems] == ["a", "n", "a", "n", "a", "a", "a"]
    assert problems[1].id.startswith("number theory-")


def test_answers_become_text_and_other_keys_metadata(tmp_path: Path) -> None:
    answers = [("a", "a"), (7, "7"), (0.1, "0.1"), (True, "true"), (-3, "-3")]
    rows = [
        {"question": f"q{i}", "answer": value, "split": "test", "id": i, "table": [[1, 2]], "level": None}
        for i, (value, _) in enumerate(answers)
    ]
    problems = JsonlTask(write(tmp_path, *rows)).problems("test", len(rows))
    assert {problem.id: problem.answer for problem in problems} == {str(i): text for i, (_, text) in enumerate(answers)}
    assert all(problem.metadata == {"table": [[1, 2]], "level": None} for problem in problems)


def test_graders_of_rows_of_settings_and_by_default(tmp_path: Path) -> None:
    row = {"question": "a?", "answer": "3/4", "split": "test"}
    default = load_task(f"jsonl:{write(tmp_path, row)}")
    assert grade(default, default.problems("test", 1)[0], "0.75").correct
    path = write(tmp_path, row, row | {"question": "b?", "grader": "numeric"})
    task = load_task(f"jsonl:{path}", settings={"grader": "exact"})
    by_question = {problem.question: problem for problem in task.problems("test", 2)}
    assert not grade(task, by_question["a?"], "0.75").correct
    assert grade(task, by_question["a?"], "3/4").correct
    assert grade(task, by_question["b?"], "0.75").correct
    assert grade(task, by_question["b?"], None).reward == 0.0


def test_a_true_answer_is_right_however_it_is_written(tmp_path: Path) -> None:
    task = JsonlTask(write(tmp_path, {"question": "q", "answer": True, "split": "test"}))
    assert grade(task, task.problems("test", 1)[0], "True").correct


def test_repeated_rows_count_once(tmp_path: Path) -> None:
    row = {"question": "Again?", "answer": "yes", "split": "train"}
    task = JsonlTask(write(tmp_path, row, row | {"question": " again? "}))
    assert len(task.problems("train", 1)) == 1
    with pytest.raises(ConfigError, match="only 1 distinct train problems, not 2"):
        task.problems("train", 2)


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "q\xe2\x80\xa8r", "answer": "a", "split": "test"}\r\n\r\n\n')
    assert JsonlTask(path).problems("test", 1)[0].question == "q\u2028r"


def test_a_task_can_be_sent_to_another_process(tmp_path: Path) -> None:
    task = JsonlTask(write(tmp_path, *ROWS))
    assert pickle.loads(pickle.dumps(task)).problems("test", 5) == task.problems("test", 5)


GOOD = {"question": "q", "answer": "a", "split": "train"}


@pytest.mark.parametrize(
    ("row", "pieces"),
    [
        ('{"question": "q", ', ["line 2", "not JSON"]),
        ("[1, 2]", ["line 2", "[1, 2]", "JSON object"]),
        ('{"question": "q2", "answer": NaN}', ["line 2", "NaN"]),
        ("[" * 100_000, ["line 2", "not JSON"]),
        ({"answer": "a"}, ["line 2", "no key 'question'"]),
        ({"question": "q2", "anwser": "a"}, ["line 2", "no key 'answer'", "did you mean 'anwser'"]),
        ({"question": "q2", "answer": None}, ["line 2", "key 'answer'", "null", "text, a number or a bool"]),
        ({"question": "q2", "answer": ["a"]}, ["line 2", "key 'answer'", '["a"]']),
        ({"question": "q2", "answer": " "}, ["line 2", "key 'answer'", "not empty"]),
        ({"question": 5, "answer": "a"}, ["line 2", "key 'question'", "5"]),
        (GOOD | {"question": "q2", "split": "tets"}, ["line 2", "key 'split'", "tets", "did you mean 'test'"]),
        (GOOD | {"question": "q2", "split": ["test"]}, ["line 2", "key 'split'"]),
        (GOOD | {"question": "q2", "kind": 3}, ["line 2", "key 'kind'", "3"]),
        (GOOD | {"question": "q2", "id": 1.5}, ["line 2", "key 'id'", "1.5"]),
        (GOOD | {"question": "q2", "grader": "exct"}, ["line 2", "key 'grader'", "did you mean 'exact'"]),
        (GOOD | {"question": "q2", "grader": 3}, ["line 2", "key 'grader'", "3"]),
        (
            GOOD | {"question": "q2", "grader": "os:system"},
            ["line 2", "key 'grader'", "os:system", "would import a module"],
        ),
        (GOOD | {"question": "q2", "grader": "no_such_module_here:f"}, ["line 2", "would import a module"]),
        (GOOD | {"split": "test"}, ["lines 1 and 2", "in train and in test"]),
        (GOOD | {"answer": "b"}, ["lines 1 and 2", '"a" and "b"']),
    ],
)
def test_a_broken_row_names_file_line_key_and_value(tmp_path: Path, row: Any, pieces: list[str]) -> None:
    path = write(tmp_path, GOOD, row)
    with pytest.raises(ConfigError) as error:
        JsonlTask(path)
    for piece in [str(path), *pieces]:
        assert piece in str(error.value)


def test_a_repeated_id_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "a", "answer": "1", "id": "x"}, {"question": "b", "answer": "1", "id": "x"})
    with pytest.raises(ConfigError, match=r"lines 1 and 2, key 'id': 'x' is used 2 times"):
        JsonlTask(path)


def test_the_same_question_with_and_without_a_split(tmp_path: Path) -> None:
    row = {"question": "What is 3 + 1?", "answer": "4"}
    other = next(split for split in SPLITS if split != split_of(content_key(row["question"])))
    with pytest.raises(ConfigError, match="lines 1 and 2: the same question"):
        JsonlTask(write(tmp_path, row, row | {"split": other}))


def test_too_few_problems_say_how_many_there_are(tmp_path: Path) -> None:
    task = JsonlTask(write(tmp_path, GOOD))
    with pytest.raises(ConfigError, match=r"only 0 distinct test problems, not 5 \(1 train, 0 validation, 0 test\)"):
        task.problems("test", 5)


def test_a_missing_file_and_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read.*Check the path"):
        load_task(f"jsonl:{tmp_path}/none.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_task(f"jsonl:{tmp_path}")
    with pytest.raises(ConfigError, match="no setting 'graders'"):
        load_task(f"jsonl:{write(tmp_path, GOOD)}", settings={"graders": "exact"})
    with pytest.raises(ConfigError, match="did you mean 'exact'"):
        load_task(f"jsonl:{write(tmp_path, GOOD)}", settings={"grader": "exat"})


def test_a_grader_named_by_its_module_may_see_the_row_as_it_is_written(tmp_path: Path) -> None:
    module = types.ModuleType("graders_that_see_rows")
    sys.modules[module.__name__] = module
    seen: list[dict[str, Any]] = []

    def judge(answer: str, expected: str, row: dict[str, Any]) -> tuple[float, str]:
        seen.append(row)
        return 0.5, f"level {row['level']}"

    module.judge = judge  # type: ignore[attr-defined]
    try:
        row = {"question": "q", "answer": 7, "split": "test", "id": 3, "level": 2}
        task = JsonlTask(write(tmp_path, row), settings={"grader": "graders_that_see_rows:judge"})
        result = grade(task, task.problems("test", 1)[0], "x")
    finally:
        del sys.modules[module.__name__]
    assert (result.reward, result.reason) == (0.5, "level 2")
    assert seen == [row]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"question": "q", "answer": 1e999}', "Out of range float"),
        (b'{"question": "q", "answer": "a", "more": [1e999]}', "Out of range float"),
        (b'{"question": "q", "answer": NaN}', "NaN is not JSON"),
        (b'{"question": "\\ud800", "answer": "a"}', "surrogate"),
        (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 100"),
        (b"[" * 100_000, "nested more than 100"),
        (b'{"question": "\xff"}', "not UTF-8"),
    ],
)
def test_a_row_that_could_not_be_kept_or_sent_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    """DEFECTS 13."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\r\n\r\n" + line + b"\n")
    with pytest.raises(ConfigError, match=f"line 3: .*{said}"):
        load_task(f"jsonl:{path}")
