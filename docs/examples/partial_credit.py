"""Partial credit: a grader that returns a reward from 0 to 1 with a reason, and uses the whole row.

An update is kept if the mean reward rises, so half-right answers count; the optimizer reads the reasons.

python docs/examples/partial_credit.py [MODEL]
"""

from __future__ import annotations

import random
import sys
from typing import Any

import agentopt_local as ao

WORDS = [
    "apple",
    "banana",
    "cherry",
    "date",
    "elderberry",
    "fig",
    "grape",
    "honeydew",
    "kiwi",
    "lemon",
    "lime",
    "mango",
    "nectarine",
    "orange",
    "papaya",
    "peach",
    "pear",
    "plum",
    "quince",
    "raspberry",
]


def rows(n: int) -> list[dict[str, Any]]:
    """``n`` lists of five words with the same words in order: shorter ones first, equally long ones by the alphabet."""
    draw = random.Random(0)
    found = []
    for _ in range(n):
        words = draw.sample(WORDS, 5)
        prompt = f"Sort by length, equally long words by the alphabet: {', '.join(words)}"
        found.append({"prompt": prompt, "words": words, "sorted": ", ".join(sorted(words, key=lambda w: (len(w), w)))})
    return found


def places(answer: str, expected: str, row: dict[str, Any]) -> tuple[float, str]:
    """The share of words in their right place."""
    given, wanted = [word.strip() for word in answer.split(",")], expected.split(", ")
    if sorted(given) != sorted(row["words"]):
        return 0.0, f"these are not the words of the question: {answer}"
    right = sum(one == other for one, other in zip(given, wanted, strict=True))
    return right / len(wanted), f"{right} of {len(wanted)} words are in their place; expected {expected}"


def main(model: Any = "qwen2.5-coder-1.5b") -> ao.Run:
    """Train on 12 lists and evaluate on 10 others."""
    task = ao.task(rows(100), question="prompt", answer="sorted", grader=places, name="sorting")
    run = ao.train(task, model=model, n_train=12, n_test=10, trainer={"max_epochs": 2})
    if run.report is not None and run.report.test is not None:
        print(f"mean reward {run.report.test.before.reward} -> {run.report.test.after.reward}")
    print(run.accuracy)
    print(run.rollouts[["stage", "answer", "reward", "reason"]].tail().to_string())
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])
