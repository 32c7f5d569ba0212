"""A finished run to export: real training, rollouts and sandbox, with a scripted model."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from ray_jobs.config import build
from ray_jobs.runs import new_run
from ray_jobs.start_functions import read_start_functions
from ray_jobs.training import train

REVERSE = 'def reverse(word: str) -> str:\n    """Return word reversed."""\n    return word[::-1]\n'
SHORT_ONLY = REVERSE.replace("return word[::-1]", "return word[::-1] if len(word) < 4 else word")
FACTOR = (
    'def factor(n: int) -> str:\n    """Return the prime factors of n, such as `2^2*3`."""\n    import sympy\n\n'
    '    return "*".join(f"{p}^{e}" if e > 1 else str(p) for p, e in sympy.factorint(n).items())\n'
)
LUCKY = (
    'import random\n\n\ndef lucky(x: int, more: int = 0) -> str:\n    """Return x and a bit."""\n'
    "    return str(x + more + random.random())\n"
)
WORDS = ("ab", "cat", "horse", "zebra", "monkey")
NUMBERS = (12, 18, 20, 45)
HELD_OUT = {"Reverse": ("tiger", "ox", "bee"), "Factor": (50, 75), "Lucky": (3,)}
CALL = {"Reverse": ("reverse", "word"), "Factor": ("factor", "n"), "Lucky": ("lucky", "x")}
FACTORS = {12: "2^2*3", 18: "2*3^2", 20: "2^2*5", 45: "3^2*5", 50: "2*5^2", 75: "3*5^2"}


def rows() -> list[dict[str, Any]]:
    def row(kind: str, given: Any, split: str) -> dict[str, Any]:
        answers = {"Reverse": lambda: given[::-1], "Factor": lambda: FACTORS[given], "Lucky": lambda: "never"}
        question = f"{kind}: {given}"
        return {"id": question, "kind": kind, "question": question, "answer": answers[kind](), "split": split}

    trained = [("Reverse", word) for word in WORDS] + [("Factor", n) for n in NUMBERS] + [("Lucky", 1), ("Lucky", 2)]
    held_out = [(kind, given) for kind, values in HELD_OUT.items() for given in values]
    return [row(*each, "train") for each in trained] + [row(*each, "test") for each in held_out]


def optimizer(request: ChatRequest) -> str:
    """Adds a half-right ``reverse``, mends it, adds ``factor``."""
    prompt, last = request.messages[0].content, request.messages[-1].content
    if "Reverse: " in prompt:
        known = "`reverse(" in prompt
        name, source = "reverse", REVERSE if known else SHORT_ONLY
        action = "revise_function" if known else "add_function"
    else:
        name, source, action = "factor", FACTOR, "add_function"
    assert request.constraint is not None
    if request.constraint.kind == "json_schema":
        kind, parameter = ("Reverse", "word") if name == "reverse" else ("Factor", "n")
        found = re.findall(rf"(problem_\d+): {kind}: (\w+)", last)
        return json.dumps({key: {parameter: int(x) if name == "factor" else x} for key, x in found})
    return source if f'"def {name}(' in request.constraint.value else json.dumps({"action": action, "name": name})


def brain(request: ChatRequest) -> str:
    """The whole script."""
    if (request.conversation or "").startswith("optimizer/"):
        return optimizer(request)
    last = request.messages[-1]
    if last.role == "tool":
        return f"<answer>{last.content}</answer>"
    if last.content.startswith("Output of the code:\n"):
        return f"<answer>{last.content.partition(chr(10))[2]}</answer>"
    kind, _, given = last.content.partition(": ")
    name, parameter = CALL[kind]
    if name not in {tool.name for tool in request.tools}:
        return f"```python\nprint({given!r})\n```"
    value = given if kind == "Reverse" else int(given)
    return f"I call it.\n<tool_call>{json.dumps({'name': name, 'arguments': {parameter: value}})}</tool_call>"


def train_in(folder: Path, **changes: Any) -> Path:
    """Train with the script in ``folder``; the run's folder."""
    problems = folder / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    values: dict[str, Any] = {
        "task": {"spec": f"jsonl:{problems}", "n_train": 11, "n_test": 6, "settings": {"grader": "exact"}},
        "run_dir": str(folder),
        "run_name": "Words & numbers",
        "optimizer": {"n_samples": 1, "max_actions": 1, "max_retries": 0, "min_matches": 0},
        "sandbox": {"workers": 1},
        "trainer": {"max_epochs": 3, "patience": 3},
        "model": {"name": "a-model"},
    }
    config = build(values | changes, "test")
    run_dir = new_run(config, asyncio.run(read_start_functions(config)))
    try:
        job = train(config, run_dir, model=ScriptedChatModel(brain))
        asyncio.run(job)
    finally:
        run_dir.close()
    return run_dir.path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that starts from ``lucky`` and learns ``reverse`` and ``factor``."""
    folder = tmp_path_factory.mktemp("runs")
    start = folder / "start.py"
    start.write_text(LUCKY)
    return train_in(folder, start_functions=str(start))


@pytest.fixture(scope="session")
def functions() -> FunctionSet:
    """What that run ends with, without source questions."""
    return FunctionSet.of(LUCKY, REVERSE, FACTOR)
