"""The MATH grader: hand-checked verdicts, real answers and hostile ones."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopt_local.boxed import last_box
from agentopt_local.graders.catalog import load_grader
from agentopt_local.graders.final_answer import final_answer
from agentopt_local.graders.math.grader import math, math_exact

CASES = Path(__file__).with_name("math_cases.txt")
SHARED = Path(os.environ.get("AGENTOPT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def cases() -> Iterator[tuple[str, bool, str, str]]:
    section = ""
    for line in CASES.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            section = line[2:]
        elif line[:2] in ("+ ", "- "):
            gold, _, prediction = line[2:].partition(" ~~ ")
            yield section, line[0] == "+", gold, prediction


SECTIONS = sorted({section for section, *_ in cases()})


@pytest.fixture(scope="module")
def golds() -> list[str]:
    path = SHARED / "math"
    if not path.is_dir():
        pytest.skip(f"no copy of MATH in {path}; AGENTOPT_SHARED_DATA names the folder that holds math/")
    rows = [
        json.loads(line)
        for name in ("train", "test")
        for line in (path / f"{name}.jsonl").read_text("utf-8").splitlines()
    ]
    return [last_box(row["solution"], "solution") or "" for row in rows]


@pytest.mark.parametrize("section", SECTIONS)
def test_hand_checked_verdicts(section: str) -> None:
    wrong = []
    for name, right, gold, prediction in cases():
        if name == section and math(prediction, gold).correct != right:
            wrong.append((gold, prediction, math(prediction, gold).reason))
    assert wrong == []


def test_there_are_several_hundred_cases_in_both_directions() -> None:
    rights = [right for _, right, _, _ in cases()]
    assert len(rights) > 600
    assert min(rights.count(True), rights.count(False)) > 200


def test_verdicts_do_not_depend_on_which_answer_is_expected() -> None:
    one_way = {"box", "assignments", "equations"}  # the prediction is a text, or its equation names a value
    for section, right, gold, prediction in cases():
        if section not in one_way and final_answer(prediction) == prediction and prediction.strip():
            assert math(gold, prediction).correct == right, (gold, prediction)


def test_every_real_answer_equals_itself_and_its_rewrites(golds: list[str]) -> None:
    assert len(golds) == 840
    for gold in set(golds):
        assert math(gold, gold).correct
        for rewrite in (
            f"So the answer is $\\boxed{{{gold}}}$.",
            f"${gold}$.",
            re.sub(r"\\[dt]?frac(?![a-z])", r"\\dfrac", gold),
            gold.replace("pmatrix", "bmatrix"),
            gold.replace("^\\circ", "^{\\circ}").replace("-", "−"),
            re.sub(r"\\sqrt\{(\d+)\}", r"sqrt(\1)", gold),
            re.sub(r"\\text\{([^}]*)\}", r"\1", gold),
            gold.replace(",\\!", ","),
        ):
            assert math(rewrite, gold).correct, (gold, rewrite)


def test_no_real_answer_equals_one_with_a_changed_number(golds: list[str]) -> None:
    for gold in set(golds):
        for match in re.finditer(r"\d+", gold):
            changed = gold[: match.start()] + str(int(match[0]) + 1) + gold[match.end() :]
            assert not math(changed, gold).correct, (gold, changed)


def test_real_answers_are_graded_fast(golds: list[str]) -> None:
    started = time.process_time()
    assert all(math(gold, gold).correct for gold in golds)
    assert len(golds) / (time.process_time() - started) > 500


HOSTILE = [
    "9^{9^{9^9}}", "x^{9^{9^9}}", "((2000!)!)!", "10^{10^{10}}", "2^{30000}" + "+2^{30000}" * 60, "\\sin(10^{10^{9}})",
    "(" * 5000 + "1" + ")" * 5000, "{" * 100_000, "9" * 100_000, "1+" * 1900 + "1", "1/" * 1900 + "7", "-" * 3999,
    "\\sqrt{" * 58 + "2" + "}" * 58, "\\log(" * 50 + "7" + ")" * 50, "(x+1)^{" * 30 + "9" + "}" * 30,
    "A, " * 1000 + "B",
    "\\boxed{" * 50_000, "\\boxed{1}" * 50_000, "answer is " * 50_000, "\\begin{pmatrix}" * 100, "|" * 3000,
    ",".join(f"\\sqrt{{{n}}}" for n in range(59)), "\\pm" * 500 + "1", "Az " * 1300, "1,000" * 700, "\n" * 100_000,
    "(-8)^{1/" + "3" * 1500 + "}", "\\gcd(10^{9000},6^{9000})", "2000!" + "\\cdot 2000!" * 400, "\\text{" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer[:20])
def test_a_hostile_answer_costs_little_and_is_wrong(answer: str) -> None:
    started = time.process_time()
    for gold in ("5", "x^3+\\sqrt{x}", "\\sqrt{2},\\sqrt{3}", "(2,\\infty)", "2^{30000}", "\\text{Bob}"):
        assert not math(answer, gold).correct
        assert not math(gold, answer).correct
    assert time.process_time() - started < 6.0


def test_the_stack_of_the_caller_does_not_decide() -> None:
    def deep(levels: int) -> bool:
        return deep(levels - 1) if levels else math("(" * 40 + "7" + ")" * 40, "7").correct

    assert deep(sys.getrecursionlimit() // 5)


@given(st.text(max_size=60) | st.text(alphabet="\\{}()[]^_,.!|$%&123xy frac sqrt pm cup text boxed", max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_has_a_verdict(text: str) -> None:
    assert math(text, "\\frac{1}{2}").reason
    if text.strip() and final_answer(text) == text.strip():
        assert math(text, text).correct


def test_a_grade_says_why() -> None:
    assert "equals" in math("0.5", "\\frac12").reason
    assert "expected '5'" in math("\\boxed{6}", "5").reason
    assert "no answer" in math("\\boxed{}", "5").reason
    assert "too large" in math("9^{9^{9^9}}", "5").reason


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("\\boxed{7.0}", "7", True),
        ("\\frac12", "\\frac{1}{2}", False),
        ("7", "7", True),
        ("7.5", "\\frac{15}{2}", False),
    ],
)
def test_exact_match_is_of_characters(answer: str, gold: str, right: bool) -> None:
    assert math_exact(answer, gold).correct is right


def test_graders_of_benchmarks_are_known_by_name() -> None:
    assert load_grader("math") is math
