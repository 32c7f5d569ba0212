"""The splits of benchmarks: the official test problems are our test, the official training problems the rest.

A hash of its content decides whether an official training problem is for training or for validation. A training problem
whose question is also a test problem's is dropped.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError
from agentopt_local.problem import SPLITS, Problem, Split, alternating, check_request, content_key
from agentopt_local.tasks.data_files import read

log = logging.getLogger(__name__)

VALIDATION_PERCENT = 20
"""Percentage of the official training problems used for validation if there is no official validation set."""

Found = tuple[Split, str, Problem]
"""A problem with its split and its question as the file has it, by which problems are identified."""


class Splits:
    """The problems of a benchmark by split, in an order fixed by the seed."""

    def __init__(self, name: str, seed: int, found: Iterable[Found], files: Iterable[Path]) -> None:
        """Raises ConfigError if ``found`` is empty."""
        self.name = name
        by_key: dict[Split, dict[str, Problem]] = {split: {} for split in SPLITS}
        repeated = 0
        for split, question, problem in found:
            repeated += content_key(question) in by_key[split]
            by_key[split].setdefault(content_key(question), problem)
        dropped = 0
        for index, split in enumerate(SPLITS):
            for key in list(by_key[split]):
                if any(key in by_key[later] for later in SPLITS[index + 1 :]):
                    del by_key[split][key]
                    dropped += 1
        if dropped:
            log.warning(
                "%s: %d training problems are also test or validation problems; they were dropped", name, dropped
            )
        self._problems: dict[str, list[Problem]] = {
            split: [problems[key] for key in sorted(problems, key=lambda key: _order(seed, key))]
            for split, problems in by_key.items()
        }
        if not any(self._problems.values()):
            raise ConfigError(f"task {name!r}: no problem is left. Check the requested types and levels")
        self.description: dict[str, Any] = {
            "files": {str(path): hashlib.sha256(read(path)).hexdigest()[:16] for path in files},
            "problems": {split: len(problems) for split, problems in self._problems.items()},
            "dropped_from_train": dropped,
            "repeated": repeated,
            "seed": seed,
        }
        """What was found in which files, for the run's records."""

    def take(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, alternating between its kinds. ConfigError if there are fewer."""
        check_request(split, n)
        available = self._problems[split]
        if n > len(available):
            counts = ", ".join(f"{len(self._problems[each])} {each}" for each in SPLITS)
            raise ConfigError(
                f"task {self.name!r} has only {len(available)} distinct {split} problems, not {n} ({counts}). "
                f"Ask for fewer, or for more types or levels"
            )
        return alternating(available, n)


def _order(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def validation_or_train(question: str, percent: int = VALIDATION_PERCENT) -> Split:
    """The split of an official training problem."""
    # Other digits than split_of uses, so that the two divisions are independent.
    return "validation" if int(content_key(question)[8:16], 16) % 100 < percent else "train"


def problem_id(kind: str, question: str) -> str:
    """A short id, the same in every run."""
    return f"{kind.lower().replace('&', 'and').replace(' ', '_')}-{content_key(question)[:12]}"
