"""MATH (Hendrycks et al., arXiv 2103.03874), read from your copy: problems of seven types and five levels.

In ``math:PATH``, PATH is a folder with ``train.jsonl`` and ``test.jsonl`` (one object per line with the original fields
problem, level, type and solution), with the official ``{train,test}/<subject>/<n>.json``, or with parquet files of the
same fields. Settings, in ``[task.settings]`` or as ``?type=Number Theory&level=1-3``: ``type`` (one or a list) and
``level``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentopt_local.boxed import last_box
from agentopt_local.errors import ConfigError
from agentopt_local.graders.math.grader import math, math_exact
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.problem import Problem, Split
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.data_files import read_rows, source, split_files, text
from agentopt_local.tasks.graded_rows import by_texts
from agentopt_local.tasks.options import levels, parse_spec
from agentopt_local.tasks.splits import Found, Splits, problem_id, validation_or_train

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
"""The instruction about the form of an answer, added to each question."""

HINT = (
    "Download the data set (train and test) and give its folder: math:FOLDER with train.jsonl and test.jsonl, or with "
    "the official train/<subject>/<n>.json and test/<subject>/<n>.json"
)


class MathTask:
    """The problems in a copy of MATH."""

    preload: tuple[str, ...] = ()

    def __init__(self, spec: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Raises ConfigError, naming the file, line and key, if something is wrong."""
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
        """The first ``n`` problems of ``split``, in the seed's order, alternating between the types."""
        return self._splits.take(split, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Grade by mathematical equivalence. The grade also says whether the answer is the paper's exact match."""
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
            for where, row in read_rows(path):
                question, kind = text(where, row, "problem"), text(where, row, "type")
                level, solution = text(where, row, "level"), text(where, row, "solution")
                if kind not in TYPES:
                    raise ConfigError(f"{where}, key 'type': {kind!r} is not known{did_you_mean(kind, TYPES)}")
                number = re.fullmatch(r"Level ([1-5?])", level)
                if number is None:
                    raise ConfigError(f"{where}, key 'level': {level!r} is not 'Level 1' to 'Level 5'")
                # Two problems of the full data set have "Level ?": they are not of any level.
                if kind not in self._types or number[1] == "?" or int(number[1]) not in self._levels:
                    continue
                answer = last_box(solution, "solution")
                if answer is None:
                    raise ConfigError(f"{where}, key 'solution': there is no \\boxed{{...}} with the answer")
                if not answer:
                    continue  # two solutions of the full data set have an empty box
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


def _folded(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower().replace("and", ""))


KIND = TaskKind(
    argument="PATH",
    open=MathTask,
    reads_path=True,
    row_graders={"math": by_texts(math), "math_exact": by_texts(math_exact)},
)
