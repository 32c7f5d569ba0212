"""TabMWP (Lu et al., arXiv 2209.14610), read from your copy: word problems about a table, for grades 1 to 8.

In ``tabmwp:PATH``, PATH is a folder with the official ``problems_train.json``, ``problems_dev.json`` (or ``_dev1k``)
and ``problems_test.json`` (or ``_test1k``), each one object from ids to problems, and optionally ``splits.json``. If
the training file is missing or empty, the dev problems are split into training and validation. Settings: ``lenient``
(repair the official scoring rule), ``ques_type`` (``free_text`` or ``multi_choice``), ``grade`` (``"3-5"``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.graders.tabmwp import tabmwp, tabmwp_bare, tabmwp_lenient
from agentopt_local.grading import Grade, no_answer, quote
from agentopt_local.problem import Problem, Split
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.data_files import parsed, read, shown, source, text
from agentopt_local.tasks.graded_rows import RowError, RowGrader
from agentopt_local.tasks.options import flag, levels, parse_spec
from agentopt_local.tasks.splits import Found, Splits, problem_id, validation_or_train

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

HINT = (
    "Download problems_train.json, problems_dev.json, problems_test.json and splits.json (data/tabmwp of "
    "lupantech/PromptPG) into one folder and give it: tabmwp:FOLDER"
)
QUESTION_TYPES = ("free_text", "multi_choice")

_Raw = dict[str, dict[str, Any]]


class TabmwpTask:
    """The problems in a copy of TabMWP."""

    preload: tuple[str, ...] = ()

    def __init__(self, spec: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Raises ConfigError, naming the file, problem and key, if something is wrong."""
        self.name = f"tabmwp:{spec}"
        path, options = parse_spec("tabmwp", spec, settings or {}, ("lenient", "ques_type", "grade"))
        self._lenient = flag(self.name, options, "lenient")
        self._grades = levels(self.name, {"level": options.get("grade")}, 8)
        self._type = options.get("ques_type")
        if self._type not in (None, *QUESTION_TYPES):
            raise ConfigError(f"task {self.name!r}: ques_type = {self._type!r}; use {' or '.join(QUESTION_TYPES)}")
        self._folder = source(self.name, path, HINT, ("*.json",))
        self._files: list[Path] = []
        self._splits = Splits(self.name, seed, list(self._read()), self._files)
        self.description = self._splits.description

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, in the seed's order, alternating between the types of answers."""
        return self._splits.take(split, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Grade by the official rule or the lenient one."""
        answer = answer or ""
        if missing := no_answer(answer):
            return missing
        rule = tabmwp_lenient if self._lenient else tabmwp_bare
        return rule(answer, problem.answer, unit=problem.metadata["unit"], choices=problem.metadata["choices"])

    def _read(self) -> Iterator[Found]:
        official = {split: self._load(split) for split in ("train", "dev", "test")}
        self._check_splits({split: set(raw) for split, (_, raw) in official.items()})
        for split, (path, raw) in official.items():
            for key, row in raw.items():
                problem = self._problem(f"{path}, problem {key}", key, row)
                if problem is None:
                    continue
                identity = f"{row['table']}\n{row['question']}\n{row.get('choices')}"
                ours: Split = "test" if split == "test" else "validation" if split == "dev" else "train"
                if split == "dev" and not official["train"][1]:
                    ours = validation_or_train(identity)
                yield ours, identity, problem

    def _load(self, split: str) -> tuple[Path, _Raw]:
        for name in (f"problems_{split}.json", f"problems_{split}1k.json"):
            path = self._folder / name
            if path.is_file():
                value = parsed(str(path), read(path))
                if not isinstance(value, dict) or not all(isinstance(row, dict) for row in value.values()):
                    raise ConfigError(f"{path}: expected one JSON object from ids to problems")
                self._files.append(path)
                return path, value
        if split != "train":
            raise ConfigError(f"task {self.name!r}: {self._folder} has no problems_{split}.json. {HINT}")
        return self._folder / "problems_train.json", {}

    def _check_splits(self, ids: dict[str, set[str]]) -> None:
        path = self._folder / "splits.json"
        if not path.is_file():
            return
        listed = parsed(str(path), read(path))
        if not isinstance(listed, dict) or not all(isinstance(each, list) for each in listed.values()):
            raise ConfigError(f"{path}: expected one JSON object from 'train', 'dev' and 'test' to lists of ids")
        for split, found in ids.items():
            for other in {"train", "dev", "test"} - {split}:
                if wrong := found & {str(each) for each in listed.get(other, ())}:
                    raise ConfigError(
                        f"{path} lists problem {min(wrong)} under {other!r}, but it is in problems_{split}.json"
                    )

    def _problem(self, where: str, key: str, row: dict[str, Any]) -> Problem | None:
        question, answer, table = (text(where, row, name) for name in ("question", "answer", "table"))
        kind, answer_type = text(where, row, "ques_type"), text(where, row, "ans_type")
        unit, choices, title, grade = (row.get(name) for name in ("unit", "choices", "table_title", "grade"))
        if unit is not None and not isinstance(unit, str):
            raise ConfigError(f"{where}, key 'unit': {shown(unit)} is not text")
        if choices is not None and not (isinstance(choices, list) and all(isinstance(each, str) for each in choices)):
            raise ConfigError(f"{where}, key 'choices': {shown(choices)} is not a list of texts")
        if self._type not in (None, kind) or (grade is not None and grade not in self._grades):
            return None
        parts = [f"Table{f' ({title})' if title else ''}:\n{table}", f"Question: {question}"]
        if choices:
            parts.append("Options: " + ", ".join(choices) + "\nGive one of the options, word for word.")
        else:
            in_unit = f" in the unit {unit}" if unit else ""
            parts.append(f"Give the final answer as a number alone{in_unit}: 12, 3.50 or 3/10.")
        return Problem(
            id=problem_id(f"tabmwp-{key}", question),
            question="\n\n".join(parts),
            answer=answer,
            kind=answer_type,
            metadata={"unit": unit, "choices": choices, "ques_type": kind, "grade": grade},
        )


def _row_grader(grade: Callable[..., Grade]) -> RowGrader:
    """Rows may have the keys ``unit`` and ``choices``, as in the official files."""
    return lambda prediction, gold, row: grade(prediction, gold, unit=_unit(row), choices=_choices(row))


def _unit(row: dict[str, Any]) -> str | None:
    unit = row.get("unit")
    if unit is not None and not isinstance(unit, str):
        raise RowError(f"key 'unit': {quote(repr(unit))} is not text")
    return unit or None


def _choices(row: dict[str, Any]) -> Sequence[str] | None:
    choices = row.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(each, str) for each in choices)):
        raise RowError(f"key 'choices': {quote(repr(choices))} is not a list of texts")
    return choices or None


KIND = TaskKind(
    argument="PATH",
    open=TabmwpTask,
    reads_path=True,
    row_graders={"tabmwp": _row_grader(tabmwp_bare)},
    lenient_row_graders={"tabmwp": _row_grader(tabmwp_lenient)},
    official_row_graders={"tabmwp": _row_grader(tabmwp)},
)
