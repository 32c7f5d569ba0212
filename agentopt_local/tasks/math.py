"""MATH (Hendrycks et al., arXiv 2103.03874) from a copy of the user's: problems of seven types and five levels.

``math:PATH`` where PATH is a folder with ``train.jsonl`` and ``test.jsonl`` (one object a line with the original fields
problem, level, type and solution), or the official folders ``{train,test}/<subject>/<n>.json``, or parquet files of the
same fields. Settings, in ``[task.settings]`` or as ``?type=Number Theory&level=1-3``: ``type`` (one or a list) and
``level``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.graders.extract import last_box
from agentopt_local.graders.math import math, math_exact
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.task import Problem, Split, did_you_mean
from agentopt_local.tasks.benchmark import (
    Found,
    Splits,
    levels,
    parse_spec,
    problem_id,
    rows,
    source,
    text,
    validation_or_train,
)

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

TYPES = (
    "Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra",
    "Precalculus",
)  # fmt: skip

FORM = (
    "Give the final answer as the problem asks for it, in LaTeX and exact: fractions such as \\frac{3}{4} and roots "
    "such as \\sqrt{2}, no rounded decimals."
)
"""What the agent is told about the form of an answer."""

HINT = (
    "Download the data set (train and test) and give its folder: math:FOLDER with train.jsonl and test.jsonl, or with "
    "the official train/<subject>/<n>.json and test/<subject>/<n>.json"
)


class MathTask:
    """The problems of a copy of MATH."""

    preload: tuple[str, ...] = ()

    def __init__(self, spec: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Raises ConfigError that names the file, line and key of what is wrong."""
        self.name = f"math:{spec}"
        path, options = parse_spec("math", spec, settings or {}, ("type", "level"))
        self._types = self._wanted_types(options.get("type"))
        self._levels = levels(self.name, options, 5)
        folder = source(self.name, path, HINT, ("*.json", "*.jsonl", "*.parquet"))
        self._files = list(split_files(self.name, folder, HINT))
        self._splits = Splits(
            self.name, seed, self._read(), [path for _, path in self._files if path.suffix != ".json"]
        )
        self.description = self._splits.description

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, in the seed's order, the types in turn."""
        return self._splits.take(split, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Judge by mathematical equivalence; the grade also says whether the paper's exact match holds."""
        grade = apply_grader("math", math, problem, answer)
        return grade.model_copy(update={"exact": bool(answer) and math_exact(answer or "", problem.answer).correct})

    def _wanted_types(self, value: Any) -> frozenset[str]:
        if value is None:
            return frozenset(TYPES)
        found = set()
        folded = {_folded(name): name for name in TYPES}
        for item in value if isinstance(value, list) else str(value).split(","):
            name = folded.get(_folded(str(item)))
            if name is None:
                hint = did_you_mean(str(item), TYPES)
                raise ConfigError(f"task {self.name!r}: type {str(item)!r} is not known{hint}. Use: {', '.join(TYPES)}")
            found.add(name)
        return frozenset(found)

    def _read(self) -> Iterator[Found]:
        for official, path in self._files:
            for where, row in rows(path):
                question, kind = text(where, row, "problem"), text(where, row, "type")
                level, solution = text(where, row, "level"), text(where, row, "solution")
                if kind not in TYPES:
                    raise ConfigError(f"{where}, key 'type': {kind!r} is not known{did_you_mean(kind, TYPES)}")
                number = re.fullmatch(r"Level ([1-5?])", level)
                if number is None:
                    raise ConfigError(f"{where}, key 'level': {level!r} is not 'Level 1' to 'Level 5'")
                # Two problems of the full set have "Level ?"; they belong to no level.
                if kind not in self._types or number[1] == "?" or int(number[1]) not in self._levels:
                    continue
                answer = last_box(solution)
                if answer is None:
                    raise ConfigError(f"{where}, key 'solution': no \\boxed{{...}} holds the answer")
                if not answer:
                    continue  # two solutions of the full set box nothing
                split: Split = "test" if official == "test" else validation_or_train(question)
                yield (
                    split,
                    question,
                    Problem(
                        id=problem_id(kind, question),
                        question=f"{question}\n\n{FORM}",
                        answer=answer,
                        kind=kind,
                        metadata={"level": int(number[1])},
                    ),
                )


def split_files(name: str, folder: Path, hint: str) -> Iterator[tuple[str, Path]]:
    """The files of a folder with their official split: train.jsonl, train/**/*.json or train*.parquet, and so for test.

    Raises ConfigError if one of the two splits has none.
    """
    folder = folder / "MATH" if (folder / "MATH" / "train").is_dir() else folder  # as the official archive unpacks
    for split in ("train", "test"):
        files = [path for path in (folder / f"{split}.jsonl",) if path.is_file()]
        files = files or sorted((folder / split).rglob("*.json"), key=_numbered)
        files = files or sorted(path for path in folder.rglob(f"{split}*.parquet") if "socratic" not in path.parts)
        if not files:
            raise ConfigError(
                f"task {name!r}: {folder} has no {split}.jsonl, no {split}/ and no {split}*.parquet. {hint}"
            )
        for path in files:
            yield split, path


def _numbered(path: Path) -> tuple[str, int, str]:
    return path.parent.name, int(path.stem) if path.stem.isdigit() else -1, path.stem


def _folded(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower().replace("and", ""))
