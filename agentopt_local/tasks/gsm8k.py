"""GSM8K (Cobbe et al., arXiv 2110.14168), read from your copy: word problems with whole-number answers.

In ``gsm8k:PATH``, PATH is a folder with ``train.jsonl`` and ``test.jsonl`` (one object per line with question and
answer, the last line of which is ``#### `` and the number) or with the hub's parquet files. ``gsm8k:hf:openai/gsm8k``
downloads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.graders.gsm8k import final_number, gsm8k
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.problem import Problem, Split
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.data_files import read_rows, source, split_files, text
from agentopt_local.tasks.graded_rows import by_texts
from agentopt_local.tasks.options import parse_spec
from agentopt_local.tasks.splits import Found, Splits, problem_id, validation_or_train

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

FORM = "Give the final answer as a number alone."

HINT = (
    "Download grade_school_math/data/train.jsonl and test.jsonl of openai/grade-school-math into one folder and give "
    "it: gsm8k:FOLDER; or use gsm8k:hf:openai/gsm8k if the Hugging Face hub can be reached"
)


class Gsm8kTask:
    """The problems in a copy of GSM8K."""

    preload: tuple[str, ...] = ()

    def __init__(self, spec: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Raises ConfigError, naming the file, line and key, if something is wrong."""
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
            for where, row in read_rows(path):
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


KIND = TaskKind(argument="PATH", open=Gsm8kTask, reads_path=True, row_graders={"gsm8k": by_texts(gsm8k)})
