"""A model behind an OpenAI-compatible endpoint, and a callback that prints costs.

The key is read from the variable OPENAI_API_KEY and is never written down; a server without keys needs none.

python docs/examples/own_endpoint.py http://127.0.0.1:8000/v1 NAME
"""

from __future__ import annotations

import random
import sys

import agentopt_local as ao


def check_digit(digits: str) -> int:
    """The last digit of an EAN-13 number with these first twelve."""
    return -sum(int(digit) * (3 if index % 2 else 1) for index, digit in enumerate(digits)) % 10


def rows(n: int) -> list[dict[str, object]]:
    """``n`` numbers to complete."""
    draw = random.Random(0)
    numbers = ["".join(draw.choices("0123456789", k=12)) for _ in range(n)]
    return [
        {"question": f"What is the check digit of the EAN-13 number {number}?", "answer": check_digit(number)}
        for number in numbers
    ]


class Costs(ao.Callback):
    """Prints what each step and the whole run cost."""

    def on_step(self, row: ao.StepRow) -> None:
        """A step ended."""
        print(
            f"step {row.step}: {row.decision}, {row.tokens.optimizer.completion_tokens} tokens written by the optimizer"
        )

    def on_evaluation(self, report: ao.Report) -> None:
        """The evaluation ended."""
        print(f"{report.costs.agent.tokens.requests} requests of the agent, {report.costs.money:.4f} paid in all")


def main(url: str, name: str) -> ao.Run:
    """Train on 12 numbers and evaluate on 10 others, at most four requests at once."""
    model = ao.Endpoint(url, name, max_concurrency=4, prices={"input": 0.5, "output": 1.5})
    task = ao.task(rows(100), name="check digits")
    run = ao.train(
        task, model=model, n_train=12, n_test=10, callbacks=[Costs()], trainer={"max_epochs": 2}, budget={"max_cost": 5}
    )
    print(run.accuracy)
    return run


if __name__ == "__main__":
    main(*sys.argv[1:3])
