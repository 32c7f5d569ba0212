"""The rules of TabMWP, GAIA and GSM8K, the official ones and the lenient ones."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.graders.gaia import gaia, gaia_lenient
from agentopt_local.graders.gsm8k import gsm8k
from agentopt_local.graders.tabmwp import tabmwp, tabmwp_lenient

SHARED = Path(os.environ.get("AGENTOPT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
YES_NO = {"choices": ["yes", "no"]}
TIMES = {"choices": ["2:45 P.M.", "2:30 P.M."]}
NAMES = {"choices": ["Ann Lee", "Bob Ray", "Cy Day"]}


@pytest.mark.parametrize(
    ("answer", "gold", "row", "official", "lenient"),
    [
        ("18", "18", {}, True, True), ("19", "18", {}, False, False), ("", "18", {}, False, False),
        ("18 stores", "18", {"unit": "stores"}, True, True), ("The answer is 18.", "18", {}, True, True),
        ("So 7 + 11 = 18", "18", {}, True, True), ("\\boxed{18}", "18", {}, True, True),
        ("$25.08", "25.08", {"unit": "$"}, True, True), ("25.080", "25.08", {}, True, True),
        ("25.1", "25.08", {}, False, False), ("1,200", "1200", {}, True, True), ("1200", "1,200", {}, True, True),
        ("-3", "-3", {}, True, True), ("−3", "-3", {}, True, True), ("3", "-3", {}, False, False),
        ("0.5", "1/2", {}, True, True), ("2/4", "1/2", {}, True, True), ("\\frac{1}{2}", "1/2", {}, True, True),
        ("0.333", "1/3", {}, True, True), ("0.34", "1/3", {}, False, False),
        ("0.33", "1/3", {}, False, True),       # repaired: right in all the places that it shows
        ("8.4004", "8.40", {}, True, False),    # repaired: three places are not all places
        ("1/0", "5", {}, False, False),
        ("no", "no", YES_NO, True, True), ("B", "no", YES_NO, True, True), ("(b)", "no", YES_NO, True, True),
        ("(B) no", "no", YES_NO, True, True), ("yes", "no", YES_NO, False, False), ("A", "no", YES_NO, False, False),
        ("No", "no", YES_NO, False, True),                       # repaired: case
        ("I cannot tell", "yes", YES_NO, True, False),           # repaired: nothing in common with any option
        ("The answer is Bob Ray.", "Bob Ray", NAMES, True, True),
        ("The answer is Ann Lee.", "Ann Lee", NAMES, True, True),
        ("The answer is Bob Ray.", "Bob Ray", {"choices": ["Bob Ray", "Ann Lee"]}, False, True),  # repaired
        ("It is 2:30 P.M.", "2:30 P.M.", TIMES, True, True), ("2:30 P.M.", "2:45 P.M.", TIMES, False, False),
    ],
)  # fmt: skip
def test_tabmwp(answer: str, gold: str, row: dict[str, Any], official: bool, lenient: bool) -> None:
    assert tabmwp(answer, gold, **row).correct is official
    assert tabmwp_lenient(answer, gold, **row).correct is lenient


@pytest.mark.parametrize(
    ("answer", "gold", "official", "lenient"),
    [
        ("17", "17", True, True), ("$17.0", "17", True, True), ("1,234", "1234", True, True),
        ("18", "17", False, False),
        ("50%", "50", True, True), ("0.50", ".5", True, True), ("seventeen", "17", False, False),
        ("17 km", "17", False, True),           # repaired: words after the number
        ("1234", "1,234", False, True),         # repaired: the expected answer is no list
        ("nonsense", "inf", True, False),       # repaired: what is no number is not infinity
        ("a, b", "a,b", True, True), ("A;B", "a,b", True, True), ("b, a", "a,b", False, False),
        ("a", "a,b", False, False),
        ("3, x", "3.0, X", True, True), ("2, 3", "2;4", False, False),
        ("Right", "right.", True, True), ("St. Petersburg", "st petersburg", True, True),
        ("left", "right", False, False),
        ("the cat", "cat", False, True), ("Café", "cafe", False, True), ("Final answer: Paris", "Paris", False, True),
        ("", "x", False, False),
    ],
)  # fmt: skip
def test_gaia(answer: str, gold: str, official: bool, lenient: bool) -> None:
    assert gaia(answer, gold).correct is official
    assert gaia_lenient(answer, gold).correct is lenient


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("12", "3 * 4 = <<3*4=12>>12\n#### 12", True), ("13", "#### 12", False), ("The answer is 12.", "12", True),
        ("so 5 - 3 = 2", "2", True), ("-2", "-2", True), ("-$2", "-2", True), ("2", "-2", False), ("10-3", "3", True),
        ("1/2", "0.5", True), ("3 1/2", "3.5", True), ("$1,080.00", "1080", True), ("1080 dollars", "1,080", True),
        ("7.01", "7", False), ("#### 5\nbut maybe 6", "5", True), ("\\boxed{5} of 6", "5", True),
        ("eighteen", "18", True),
        ("7 apples and 8 pears", "8", True), ("The answer is 12. I checked 13 ways", "12", True), ("none", "7", False),
        ("", "7", False), ("9" * 100_000, "7", False), ("2/0", "2", False), ("100,0001", "100000", False),
    ],
)  # fmt: skip
def test_gsm8k(answer: str, gold: str, right: bool) -> None:
    assert gsm8k(answer, gold).correct is right


def test_the_answers_of_the_data_are_right() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}; AGENTOPT_SHARED_DATA names its folder")
    for problem in json.loads((SHARED / "tabmwp" / "problems_dev.json").read_text("utf-8")).values():
        row = {"unit": problem["unit"], "choices": problem["choices"]}
        others = [choice for choice in problem["choices"] or () if choice != problem["answer"]]
        for rule in (tabmwp, tabmwp_lenient):
            assert rule(problem["answer"], problem["answer"], **row).correct
            assert not any(rule(other, problem["answer"], **row).correct for other in others)
    for line in (SHARED / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines():
        answer = json.loads(line)["answer"]
        assert gsm8k(answer, answer).correct
        assert gsm8k(f"The answer is ${answer.rpartition('####')[2].strip()}.00.", answer).correct


@pytest.mark.parametrize("answer", ["$" * 20_000, "1," * 10_000, "- " * 50_000, "(A " * 7000, "answer is " * 9000])
def test_hostile_texts_cost_little(answer: str) -> None:
    started = time.process_time()
    for rule in (tabmwp, tabmwp_lenient, gaia, gaia_lenient, gsm8k):
        assert not rule(answer, "5").correct
    tabmwp(answer, "no", **YES_NO)
    assert time.process_time() - started < 2.0
