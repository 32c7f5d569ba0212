"""How fast and how accurate the MATH grader is, compared with math-verify if that is installed.

    python -m benchmarks.grading MATH_FOLDER            seconds; a table on stderr, JSON on stdout
    python -m benchmarks.grading MATH_FOLDER --differ   also every disagreement with math-verify

MATH_FOLDER contains train.jsonl and test.jsonl. There are four sets of pairs: every expected answer with itself,
rewrites with the same meaning, changes with a different meaning, and the hand-checked cases of the tests. For
math-verify the answers are put between dollar signs, as its documentation requires, and its time limit is switched off
(it raises in threads, and makes verdicts depend on the load).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from agentopt_local.boxed import last_box
from agentopt_local.graders.final_answer import final_answer
from agentopt_local.graders.math.grader import math

CASES = Path(__file__).resolve().parents[1] / "tests" / "core" / "math_cases.txt"

Pair = tuple[str, str, bool]
"""``(gold, prediction, right)``."""


def golds(folder: Path) -> list[str]:
    """The expected answers of both files."""
    rows = [
        json.loads(line)
        for name in ("train", "test")
        for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
    ]
    return [last_box(row["solution"], "solution") or "" for row in rows]


def rewrites(gold: str) -> Iterator[str]:
    """The same answer, written differently."""
    yield f"The answer is $\\boxed{{{gold}}}$."
    yield re.sub(r"\\[dt]?frac(?![a-z])", r"\\dfrac", gold)
    yield re.sub(r"\\sqrt\{(\d+)\}", r"sqrt(\1)", gold)
    yield re.sub(r"\\text\{([^}]*)\}", r"\1", gold)
    yield re.sub(r"\\text\{([^}]*)\}", r"\\mathrm{\1}", gold)
    yield gold.replace("pmatrix", "bmatrix")
    yield gold.replace("^\\circ", "°").replace("\\pi", "π").replace("\\infty", "∞")
    yield gold.replace("-", "−")
    yield gold.replace(",\\!", ",")
    yield "\\displaystyle " + gold
    if not re.search(r"\\(?:cos|tan|sin|sec)", gold):
        yield gold.replace("\\$", "").replace("\\%", "").replace("^\\circ", "")


def changes(gold: str) -> Iterator[str]:
    """Different answers that are written similarly."""
    for match in re.finditer(r"\d+", gold):
        yield gold[: match.start()] + str(int(match[0]) + 1) + gold[match.end() :]
    if re.fullmatch(r"[\d\\].*", gold) and gold.strip("0") and "," not in gold and not re.search("begin|text", gold):
        yield f"-{gold}"
    for old, new in (("+", "-"), ("\\pi", "\\pi^2"), ("(-\\infty", "(\\infty"), ("\\cup", "\\cap"), ("_", "")):
        if old in gold:
            yield gold.replace(old, new, 1)
    if re.fullmatch(r"\([^()A-Za-z]*,[^()A-Za-z]*\)", gold):
        yield f"[{gold[1:]}"
        yield gold.replace("(", "\\{").replace(")", "\\}")


def pairs(folder: Path) -> dict[str, list[Pair]]:
    """All pairs, by set."""
    known = sorted(set(golds(folder)))
    return {
        "itself": [(gold, gold, True) for gold in golds(folder)],
        "rewritten": [(gold, text, True) for gold in known for text in dict.fromkeys(rewrites(gold)) if text != gold],
        "changed": [(gold, text, False) for gold in known for text in dict.fromkeys(changes(gold)) if text != gold],
        "hand-checked": list(hand_checked()),
    }


def hand_checked() -> Iterator[Pair]:
    """The cases of the tests."""
    for line in CASES.read_text(encoding="utf-8").splitlines():
        if line[:2] in ("+ ", "- "):
            gold, _, prediction = line[2:].partition(" ~~ ")
            yield gold, prediction, line[0] == "+"


def ours(gold: str, prediction: str) -> bool:
    """Our verdict."""
    return math(prediction, gold).correct


def theirs() -> Callable[[str, str], bool] | None:
    """math-verify's verdict; None if it is not installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None
    logging.disable(logging.ERROR)

    def enclosed(text: str) -> str:
        return text if "$" in text.replace("\\$", "") or "boxed" in text else f"${text}$"

    def verdict(gold: str, prediction: str) -> bool:
        expected = parse(enclosed(gold), parsing_timeout=None)
        return bool(verify(expected, parse(enclosed(prediction), parsing_timeout=None), timeout_seconds=None))

    return verdict


def measure(grade: Callable[[str, str], bool], cases: Iterable[Pair]) -> dict[str, Any]:
    """The number of right verdicts, answers per CPU second, and the wrong verdicts."""
    started = time.process_time()
    wrong, n, slowest = [], 0, 0.0
    for gold, prediction, right in cases:
        before = time.process_time()
        n += 1
        try:
            verdict = grade(gold, prediction)
        except Exception as error:  # noqa: BLE001 - raising is a wrong verdict
            wrong.append((gold, prediction, f"{type(error).__name__}"))
        else:
            if verdict != right:
                wrong.append((gold, prediction, f"said {verdict}"))
        slowest = max(slowest, time.process_time() - before)
    spent = time.process_time() - started
    return {
        "n": n,
        "right": n - len(wrong),
        "per_s": round(n / max(spent, 1e-9)),
        "slowest_ms": round(slowest * 1000, 1),
        "wrong": wrong,
    }


def hostile(gold: str, prediction: str, right: bool) -> bool:
    """Whether a pair could hang a grader without limits."""
    return "9^{9^{9" in prediction + gold or "10^{10^{10" in prediction or ")!)!" in prediction


def main() -> None:
    """Print a table to stderr and JSON to stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, help="pairs per set, chosen evenly")
    parser.add_argument("--differ", action="store_true", help="list every wrong verdict of either grader")
    arguments = parser.parse_args()
    other = theirs()
    report: dict[str, Any] = {}
    print(
        "| set | pairs | ours right | per CPU s | math-verify right | per CPU s |\n|---|---|---|---|---|---|",
        file=sys.stderr,
    )
    for name, cases in pairs(arguments.folder).items():
        step = max(1, len(cases) // arguments.limit) if arguments.limit else 1
        cases = cases[::step]  # noqa: PLW2901
        mine = measure(ours, cases)
        rest = [case for case in cases if not hostile(*case)]
        its = measure(other, rest) if other else None
        report[name] = {"ours": mine, "math_verify": its}
        columns = f"{its['right']} of {its['n']} | {its['per_s']}" if its else "not installed | "
        print(f"| {name} | {mine['n']} | {mine['right']} | {mine['per_s']} | {columns} |", file=sys.stderr)
        if arguments.differ:
            for who, found in (("ours", mine), ("math-verify", its or {"wrong": []})):
                for gold, prediction, said in found["wrong"]:
                    print(
                        f"{name}: {who} {said}: gold {gold!r}, prediction {final_answer(prediction)!r}", file=sys.stderr
                    )
    print(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    main()
