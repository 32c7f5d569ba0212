"""The program that generates reasoning_gym problems in its own process.

Several generators iterate over Python sets, so what they generate depends on ``PYTHONHASHSEED``. The parent starts this
file with that variable fixed, so that a run, its resumption and a later evaluation see the same problems.

Protocol: one JSON request per line on stdin, one JSON reply per line on stdout, until stdin ends.
"""

from __future__ import annotations

import ast
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK = 200
"""Entries generated from one data set seed."""

_EXAMPLES = ("example_answer", "example_correct_answer", "possible_answer")
"""Where an entry without an answer has an example of a right one."""


def main() -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # some generators print
    for line in sys.stdin:
        request = json.loads(line)
        reply: Any = describe(**request) if "options" in request else generate(**request)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


_datasets: dict[tuple[str, int], Any] = {}
_options: dict[str, dict[str, Any]] = {}


def describe(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Check the data set ``name`` and its ``options``, and keep them for later requests.

    The reply has ``known`` names if the name is wrong, ``unknown`` and ``known_options`` if an option is wrong, and
    ``error`` if a value is.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        return {"known": sorted(DATASETS)}
    known = [field.name for field in fields(DATASETS[name][1]) if field.name not in ("seed", "size")]
    if unknown := sorted(set(options) - set(known)):
        return {"unknown": unknown[0], "known_options": known}
    _, error = _tried(lambda: reasoning_gym.create_dataset(name, seed=0, size=CHUNK, **options))
    if error:
        return {"error": error}
    _options[name] = options
    return {}


def generate(name: str, seed: int, start: int, stop: int) -> list[dict[str, str]]:
    """The entries from ``start`` to ``stop`` of the data set with this ``seed``, within one chunk.

    Each is ``{"question", "answer", "entry"}``, where ``entry`` is a Python literal of what the scorer reads; or
    ``{"skipped": reason}`` if it could not be generated or is unsound, that is, its own answer does not get reward 1.
    """
    import reasoning_gym

    if (name, seed) not in _datasets:
        _datasets.clear()
        _datasets[name, seed] = reasoning_gym.create_dataset(name, seed=seed, size=CHUNK, **_options[name])
    dataset = _datasets[name, seed]
    return [_one(dataset, index) for index in range(start, stop)]


def _one(dataset: Any, index: int) -> dict[str, str]:
    import numpy as np

    # list_functions and codeio draw from the global generators, which nothing else seeds.
    random.seed(dataset.seed + index)
    np.random.seed((dataset.seed + index) % 2**32)
    found, error = _tried(lambda: _scored(dataset, index))
    if found is None:
        return {"skipped": error}
    entry, answer, literal, reward = found
    if "Integral(" in answer:
        return {"skipped": "its own answer leaves an integral unsolved"}
    if not answer.strip() or not reward >= 1.0 - 1e-9:
        return {"skipped": f"its scorer gives its own answer {answer[:60]!r} reward {reward}"}
    return {"question": entry["question"], "answer": answer, "entry": literal}


def _scored(dataset: Any, index: int) -> tuple[dict[str, Any], str, str, float]:
    """An entry, its answer, a literal of what the scorer reads, and the reward of its own answer."""
    entry = dataset[index]
    answer = _answer(entry)
    literal = repr(_plain({"answer": entry["answer"], "metadata": entry["metadata"]}))
    scored = ast.literal_eval(literal) | {"question": entry["question"]}
    return entry, answer, literal, dataset.score_answer(answer, scored)


def _tried(call: Callable[[], T]) -> tuple[T | None, str]:
    """What ``call`` returns, or the error that it raises as text."""
    try:
        return call(), ""
    except Exception as error:  # noqa: BLE001 - the library's generators and scorers raise anything
        return None, f"{type(error).__name__}: {error}"


def _plain(value: Any) -> Any:
    """``value`` in built-in types only. Tuples and sets are kept: the scorers compare with them."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    for container in (list, tuple, set):
        if isinstance(value, container):
            return container(_plain(item) for item in value)
    for scalar in (bool, int, float, str):
        if isinstance(value, scalar):
            return scalar(value)
    return value.tolist() if hasattr(value, "tolist") else value  # numpy's


def _answer(entry: dict[str, Any]) -> str:
    candidates = [entry["answer"], *(entry["metadata"].get(key) for key in _EXAMPLES)]
    answer = next((value for value in candidates if value is not None), "")
    return answer if isinstance(answer, str) else json.dumps(answer)


if __name__ == "__main__":
    main()
