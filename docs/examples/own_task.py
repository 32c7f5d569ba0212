"""A task as a class: problems are generated, as many as you like, and answers are graded by a rule.

python docs/examples/own_task.py [MODEL]
"""

from __future__ import annotations

import random
import sys
from typing import Any

import agentopt_local as ao

NUMERALS = {
    1000: "M",
    900: "CM",
    500: "D",
    400: "CD",
    100: "C",
    90: "XC",
    50: "L",
    40: "XL",
    10: "X",
    9: "IX",
    5: "V",
    4: "IV",
    1: "I",
}
SPLITS = {"train": 0, "validation": 1, "test": 2}


def roman(number: int) -> str:
    """``number`` as a Roman numeral."""
    text = ""
    for value, letters in NUMERALS.items():
        text += letters * (number // value)
        number %= value
    return text


class RomanNumerals:
    """Numbers to write in Roman numerals. All that a task needs are ``problems`` and ``grade``."""

    name = "roman numerals"

    def problems(self, split: str, n: int) -> list[ao.Problem]:
        """The first ``n`` problems of a split; no number is in two splits, and a larger ``n`` extends a smaller one."""
        numbers = [number for number in range(1, 4000) if number % len(SPLITS) == SPLITS[split]]
        random.Random(split).shuffle(numbers)
        return [
            ao.Problem(id=f"roman-{number}", question=f"Write {number} as a Roman numeral.", answer=roman(number))
            for number in numbers[:n]
        ]

    async def grade(self, problem: ao.Problem, answer: str | None, sandbox: Any) -> ao.Grade:
        """Lower case is right too."""
        given = (answer or "").strip().upper()
        if given == problem.answer:
            return ao.Grade(reward=1.0, reason="correct")
        return ao.Grade(reward=0.0, reason=f"{given or 'nothing'} is not {problem.answer}")


def main(model: Any = "qwen2.5-coder-1.5b") -> ao.Run:
    """Train on 12 numbers and evaluate on 20 others."""
    task = ao.task(RomanNumerals())
    run = ao.train(task, model=model, n_train=12, n_test=20, trainer={"max_epochs": 2})
    print(run.accuracy)
    print(run.functions.source)
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])
