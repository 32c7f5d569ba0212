"""Answers as real models write them: the same verdict in every wrapping, and none for what only looks like the answer.

``answer_cases.jsonl`` has a row for each expected answer: the kind of fault (``G1`` ...), right texts and wrong ones.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.boxed import last_box
from agentopt_local.grading import Grade
from agentopt_local.problem import Problem
from agentopt_local.tasks.catalog import load_task, row_grader
from agentopt_local.tasks.graded_rows import RowGrader
from agentopt_local.tasks.row_task import Columns, GivenRow, Place, RowsTask

CASES = [json.loads(line) for line in Path(__file__).with_name("answer_cases.jsonl").read_text("utf-8").splitlines()]
SHARED = Path(os.environ.get("AGENTOPT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

AROUND = {
    "tags": "<answer>{}</answer>",
    "G3-thought": "<think>Is it 99 or \\boxed{{98}}? <answer>97</answer></think><answer>{}</answer>",
    "thought begun in the prompt": "maybe 99\n</think>\n\n<answer>{}</answer>",
    "thought and box": "<think>99</think>\n\n$\\boxed{{{}}}$",
    "harmony": "<|channel|>analysis<|message|>99<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "box": "So it is $\\boxed{{{}}}$.",
    "box in tags": "<answer>\\boxed{{{}}}</answer>",
    "tag that was cut": "<answer>{}",
    "tag that was mentioned": "I write <answer>your answer</answer>. <answer>{}</answer>",
    "bold in tags": "<answer>**{}**</answer>",
    "bold": "**{}**",
    "code": "`{}`",
    "end of turn": "{}<|im_end|>",
}
"""What may stand around an answer for any rule, also an official one."""
LABELS = {"label": "Final Answer: {}", "G2-bold label": "**Final Answer**: {}", "bold label:": "**Final Answer:** {}"}
SENTENCES = {
    "G2-bold answer": "The final answer is **{}**.",
    "bold sentence": "**The answer is {}**",
    "heading": "## Final Answer\n\n{}",
    "hash": "#### {}",
    "formula": "The answer is \\({}\\)",
    "display": "Final answer:\n$$\n{}\n$$",
    "quotation": "> **Answer:** {}",
    "G6-box": "\\boxed{{\\text{{The answer is }} {}}}",
    "remark": "**Answer:** {}\n\n**Check:** the answer is correct.",
}
MARKDOWN = ("bold in tags", "bold", "code")


def rule(name: str) -> RowGrader:
    task, _, lenient = name.partition("_lenient")
    return row_grader(name) if task == name else row_grader(task, lenient=not lenient)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['row']}-{case['grader']}-{case['gold']}")
def test_answers_that_were_misread(case: dict[str, Any]) -> None:
    grade, row = rule(case["grader"]), {"choices": case.get("choices")}
    found = {text: grade(text, case["gold"], row).correct for text in (*case["right"], *case["wrong"])}
    assert found == {text: text in case["right"] for text in found}


def test_the_cases_go_both_ways() -> None:
    assert sum(len(case["right"]) for case in CASES) > 350
    assert sum(len(case["wrong"]) for case in CASES) > 150


@pytest.mark.parametrize(
    ("name", "gold", "other", "row"),
    [
        ("math", "\\frac{1}{2}", "\\frac{1}{3}", {}),
        ("math", "(1,2)", "(2,1)", {}),
        ("gsm8k", "1,080", "1,008", {}),
        ("tabmwp_lenient", "no", "yes", {"choices": ["yes", "no"]}),
        ("tabmwp_lenient", "3.50", "3.05", {"unit": "$"}),
        ("tabmwp", "no", "yes", {"choices": ["yes", "no"]}),
        ("tabmwp", "12", "21", {}),
        ("gaia_lenient", "3, 4", "4, 3", {}),
        ("gaia", "12", "21", {}),
        ("gaia", "Paris", "Rome", {}),
        ("numeric", "12", "21", {}),
        ("normalized", "Paris", "Rome", {}),
        ("math_exact", "x^2", "x^3", {}),
    ],
)
def test_what_stands_around_an_answer_does_not_decide(name: str, gold: str, other: str, row: dict[str, Any]) -> None:
    around = dict(AROUND)
    if name in ("math", "gsm8k", "tabmwp_lenient", "gaia_lenient"):
        around |= LABELS | SENTENCES
    elif name in ("numeric", "normalized"):
        around |= LABELS
    elif name == "math_exact":
        around = {how: form for how, form in around.items() if how not in MARKDOWN}
    verdicts = {how: rule(name)(form.format(gold), gold, row).correct for how, form in around.items()}
    assert verdicts == dict.fromkeys(verdicts, True)
    verdicts = {how: rule(name)(form.format(other), gold, row).correct for how, form in around.items()}
    assert verdicts == dict.fromkeys(verdicts, False)


@pytest.mark.parametrize("text", ["<think>12", "<think>12</think>", "<think>12</think><answer></answer>", "12</think>"])
@pytest.mark.parametrize("name", ["math", "gsm8k", "tabmwp", "gaia", "gaia_lenient", "numeric", "exact", "math_exact"])
def test_a_thought_is_not_an_answer(name: str, text: str) -> None:
    assert not rule(name)(text, "12", {}).correct


@pytest.mark.parametrize(
    ("name", "gold", "texts"),
    [
        ("gaia", "12", ["**12**", "<answer>12</answer>", "\\boxed{12}", "Final Answer: 12", "<think>a</think>12"]),
        ("tabmwp", "no", ["**no**", "<answer>no</answer>", "\\boxed{no}", "No"]),
    ],
)
def test_the_official_rule_is_there_to_the_letter(name: str, gold: str, texts: list[str]) -> None:
    official = row_grader(name, official=True)
    assert official(gold, gold, {"choices": ["yes", "no"]}).correct
    assert not any(official(text, gold, {"choices": ["yes", "no"]}).correct for text in texts)


def graded(task: Any, problem: Problem, answer: str) -> Grade:
    grade: Grade = asyncio.run(task.grade(problem, answer, None))  # these graders use no sandbox
    return grade


def test_rows_decide_the_same_in_training_and_in_a_file() -> None:
    wrong = "21"
    for name in ("numeric", "normalized", "exact", "math", "gsm8k", "gaia", "gaia_lenient", "math_exact"):
        given = GivenRow(Place("row", 0), {"question": "?", "answer": "12", "grader": name, "split": "train"})
        task = RowsTask("python:rows", [given], source="rows", stem="rows", columns=Columns())
        (problem,) = task.problems("train", 1)
        for how, form in AROUND.items():
            for answer in ("12", wrong):
                text = form.format(answer)
                assert graded(task, problem, text).correct == rule(name)(text, "12", {}).correct, (name, how, answer)


def test_real_problems_decide_the_same_in_training_and_in_a_file() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}; AGENTOPT_SHARED_DATA names its folder")
    for spec, name in (
        ("gsm8k:{}/gsm8k", "gsm8k"),
        ("tabmwp:{}/tabmwp", "tabmwp"),
        ("tabmwp:{}/tabmwp?lenient=true", "tabmwp_lenient"),
        ("math:{}/math", "math"),
    ):
        task = load_task(spec.format(SHARED))
        for problem in task.problems("test", 60):
            for form in AROUND.values():
                text = form.format(problem.answer)
                assert graded(task, problem, text).correct
                assert rule(name)(text, problem.answer, problem.metadata).correct


def test_real_answers_are_right_in_every_wrapping() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}; AGENTOPT_SHARED_DATA names its folder")
    rows = [json.loads(line) for line in (SHARED / "math" / "test.jsonl").read_text("utf-8").splitlines()]
    grade = row_grader("math")
    for gold in {last_box(row["solution"], "solution") or "" for row in rows}:
        for how, form in (AROUND | LABELS | SENTENCES).items():
            assert grade(form.format(gold), gold, {}).correct, (how, gold)
