"""GSM8K (Cobbe et al., arXiv 2110.14168) from a copy of the user's: word problems with whole-number answers.

``gsm8k:PATH`` where PATH is a folder with ``train.jsonl`` and ``test.jsonl`` (one object a line with question and
answer, whose last line is ``#### `` and the number), or with the hub's parquet files; or ``gsm8k:hf:openai/gsm8k``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.graders.gsm8k import final_number, gsm8k
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.task import Problem, Split
from agentopt_local.tasks.benchmark import (
    Found,
    Splits,
    parse_spec,
    problem_id,
    rows,
    source,
    text,
    validation_or_train,
)
from agentopt_local.tasks.math import split_files

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

FORM = "Give the final answer as a number alone."

HINT = (
    "Download grade_school_math/data/train.jsonl and test.jsonl of openai/grade-school-math into one folder and give "
    "it: gsm8k:FOLDER; or use gsm8k:hf:openai/gsm8k where the Hugging Face hub can be reached"
)


class Gsm8kTask:
    """The problems of a copy of GSM8K."""

    preload: tuple[str, ...] = ()

    def __init__(self, spec: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Raises ConfigError that names the file, line and key of what is wrong."""
        self.name = f"gsm8k:{spec}"
        path, _ = parse_spec("gsm8k", spec, settings or {}, ())
        folder = source(self.name, path, HINT, ("*.jsonl", "main/*.parquet"))
        self._files = list(split_files(self.name, folder, HINT))
        self._splits = Splits(self.name, seed, self._read(), [path for _, path in self._files])
        self.description = self._splits.description

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, in the seed's order."""
        return self._splits.take(split, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Compare the final numbers."""
        return apply_grader("gsm8k", gsm8k, problem, answer)

    def _read(self) -> Iterator[Found]:
        for official, path in self._files:
            for where, row in rows(path):
                question, solution = text(where, row, "question"), text(where, row, "answer")
                _, mark, answer = solution.rpartition("####")
                if not mark or final_number(answer) is None:
                    raise ConfigError(f"{where}, key 'answer': its last line is not '#### ' and a number")
                split: Split = "test" if official == "test" else validation_or_train(question)
                yield (
                    split,
                    question,
                    Problem(
                        id=problem_id("gsm8k", question),
                        question=f"{question}\n\n{FORM}",
                        answer=answer.strip(),
                        kind="gsm8k",
                    ),
                )
