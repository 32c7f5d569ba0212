"""A task made of rows, from a file (``jsonl.py``) or from Python (``python.py``).

A row is ``{"question": ..., "answer": ..., "id"?, "kind"?, "split"?, "grader"?, ...}``; other keys become the problem's
metadata. An answer may be a number or a bool, which becomes text as JSON writes it. The split of a row without
``split`` is decided by the hash of its question: 60 % train, 20 % validation, 20 % test.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from agentopt_local.errors import ConfigError
from agentopt_local.graders.catalog import load_grader
from agentopt_local.grading import Grade, Grader, apply_grader, takes_row
from agentopt_local.problem import SPLITS, Problem, Split, alternating, check_request, content_key, split_of
from agentopt_local.record import Record
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.data_files import shown

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

DEFAULT_GRADER = "numeric"
"""Compares numbers by value, and texts as ``normalized`` does if the expected answer is not a number."""
GRADER = "grader"
"""The key of a row's own grader."""


class Columns(Record):
    """The keys of a row that describe the problem."""

    question: str = "question"
    answer: str = "answer"
    id: str = "id"
    kind: str = "kind"
    split: str = "split"

    def keys(self) -> frozenset[str]:
        """All of them, with the key of a row's own grader."""
        return frozenset((self.question, self.answer, self.id, self.kind, self.split, GRADER))


class Place(NamedTuple):
    """A row's place, as errors name it: ``line 3``, ``train row 0``."""

    noun: str
    number: int

    def __str__(self) -> str:
        return f"{self.noun} {self.number}"

    def together_with(self, other: Place) -> str:
        """Two places: ``lines 1 and 2``."""
        if self.noun == other.noun:
            return f"{self.noun}s {self.number} and {other.number}"
        return f"{self} and {other}"


class GivenRow(NamedTuple):
    """A row before it is checked."""

    place: Place
    row: Any
    split: Split | None = None
    """The split it belongs to, whatever the row says; None: the row or its question decides."""


class _Checked(NamedTuple):
    place: Place
    key: str
    split: Split
    problem: Problem
    fixed: bool
    """Whether its split was given with the row and not in it."""
    given: dict[str, Any]
    """The row's values for the keys of :class:`Columns`, except the question, which the problem has unchanged."""


class RowsTask:
    """The problems in rows."""

    preload: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        rows: Iterable[GivenRow],
        *,
        source: str,
        stem: str,
        grader: str | Grader = DEFAULT_GRADER,
        columns: Columns = Columns(),  # noqa: B008 - a frozen value
        seed: int = 0,
        own: bool = True,
    ) -> None:
        """``source`` names the rows in errors, ``stem`` problems without ``id`` and ``kind``.

        ``grader`` is a name or a function, for rows that name no grader. ``seed`` decides the order of the problems.
        ``own``: whether the rows are the user's own program's; those of a file, which others may have written, name no
        module to import.

        Raises :class:`~agentopt_local.errors.ConfigError`, naming source, place, key and value, if something is wrong.
        """
        self.name = name
        self.columns = columns
        self._source = source
        self._stem = stem
        if not isinstance(grader, str) and not callable(grader):
            raise ConfigError(
                f"{source}: grader has the type {type(grader).__name__}; give a grader's name or a function"
            )
        # The brackets keep a function apart from the grader of that name, which a row may ask for.
        self.grader = grader if isinstance(grader, str) else f"{getattr(grader, '__name__', type(grader).__name__)}()"
        """The name of the grader of rows that name none; ``NAME()`` if it is a function."""
        self.named_graders = isinstance(grader, str)
        """Whether all graders have names by which they are found again."""
        self._own = own
        self._graders: dict[str, Grader] = {}
        self._add_grader(self.grader, load_grader(grader) if isinstance(grader, str) else grader)
        self._rows = self._checked(rows)
        self._given = {each.problem.id: each.given for each in self._rows}
        self._by_split = self._ordered(seed)

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, shuffled by the seed, alternating between its kinds."""
        check_request(split, n)
        available = self._by_split.get(split, [])
        if n > len(available):
            counts = ", ".join(f"{len(self._by_split.get(name, []))} {name}" for name in SPLITS)
            raise ConfigError(
                f"{self._source} has only {len(available)} distinct {split} problems, not {n} ({counts}). Ask for "
                f'fewer, add rows, or give rows the key "{self.columns.split}": "{split}"'
            )
        return alternating(available, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Apply the problem's grader in this process: user-supplied graders are trusted code.

        Raises :class:`~agentopt_local.errors.ConfigError` if that grader fails.
        """
        name = problem.metadata.get(GRADER, self.grader)
        return apply_grader(name, self._graders[name], problem, answer, row=self.row(problem))

    def row(self, problem: Problem) -> dict[str, Any]:
        """The row that ``problem`` was made from, with its original values."""
        return {self.columns.question: problem.question, **self._given.get(problem.id, {}), **problem.metadata}

    def rows(self) -> list[dict[str, Any]]:
        """All rows in order, without repeats. A split given beside a row is added under its key."""
        own = ({self.columns.split: each.split} if each.fixed else {} for each in self._rows)
        return [{**self.row(each.problem), **split} for each, split in zip(self._rows, own, strict=True)]

    def with_seed(self, seed: int) -> RowsTask:
        """The same problems in the order of another seed."""
        other = copy.copy(self)
        other._by_split = self._ordered(seed)
        return other

    def for_grading(self) -> RowsTask:
        """This task without its problems: all that a grading process needs, and small to send."""
        other = copy.copy(self)
        other._rows, other._by_split = [], {}
        if not any(takes_row(name, grader) for name, grader in self._graders.items()):
            other._given = {}
        return other

    def _ordered(self, seed: int) -> dict[str, list[Problem]]:
        found: dict[str, list[Problem]] = defaultdict(list)
        for row in sorted(self._rows, key=lambda row: hashlib.sha256(f"{seed}:{row.key}".encode()).digest()):
            found[row.split].append(row.problem)
        return dict(found)

    def _checked(self, rows: Iterable[GivenRow]) -> list[_Checked]:
        kept: dict[str, _Checked] = {}
        for given in rows:
            row = self._check(given)
            self._check_repeat(kept.setdefault(row.key, row), row)
        self._check_ids(list(kept.values()))
        return list(kept.values())

    def _check(self, given: GivenRow) -> _Checked:
        where, row = f"{self._source}, {given.place}", given.row
        columns = self.columns
        if not isinstance(row, Mapping):
            form = "JSON object" if given.place.noun == "line" else "dict"
            raise ConfigError(
                f"{where}: found {shown(row)}; write a {form} with {columns.question!r} and {columns.answer!r}"
            )
        question, answer = self._text(where, row, columns.question), self._text(where, row, columns.answer)
        kind = row.get(columns.kind, "")
        if not isinstance(kind, str):
            raise ConfigError(
                f"{where}, key {columns.kind!r}: {shown(kind)} is not text. Quote it or leave the key out"
            )
        key = content_key(question)
        split = given.split or row.get(columns.split, split_of(key))
        if split not in SPLITS:
            hint = did_you_mean(str(split), SPLITS)
            raise ConfigError(
                f"{where}, key {columns.split!r}: {shown(split)} is not known{hint}. Use one of: {', '.join(SPLITS)}; "
                "or leave the key out to split by content"
            )
        own = columns.keys()
        metadata = {name: value for name, value in row.items() if name not in own}
        if unnamed := [name for name in metadata if not isinstance(name, str)]:
            raise ConfigError(f"{where}: the key {shown(unnamed[0])} is not text. Name every column")
        if GRADER in row:
            metadata[GRADER] = self._named_grader(where, row[GRADER])
        given_id = row.get(columns.id, "")
        if isinstance(given_id, bool) or not isinstance(given_id, (str, int)):
            raise ConfigError(f"{where}, key {columns.id!r}: {shown(given_id)} is neither text nor a whole number")
        problem_id = str(given_id) or f"{kind or self._stem}-{key[:8]}"
        problem = Problem(id=problem_id, question=question, answer=answer, kind=kind, metadata=metadata)
        kept = {name: row[name] for name in own - {columns.question, GRADER} if name in row}
        return _Checked(given.place, key, split, problem, given.split is not None, kept)

    def _text(self, where: str, row: Mapping[str, Any], key: str) -> str:
        columns = self.columns
        if key not in row:
            raise ConfigError(
                f"{where}: no key {key!r}{did_you_mean(key, [str(name) for name in row])}. Every row needs "
                f"{columns.question!r} and {columns.answer!r}"
            )
        value = row[key]
        endless = isinstance(value, float) and not math.isfinite(value)
        if key == columns.answer and isinstance(value, (bool, int, float)) and not endless:
            value = json.dumps(value)
        if not isinstance(value, str) or not value.strip():
            expected = "text" if key == columns.question else "text, a number or a bool"
            raise ConfigError(f"{where}, key {key!r}: {shown(value)} is not accepted; write {expected}, not empty")
        return value

    def _named_grader(self, where: str, name: Any) -> str:
        if not isinstance(name, str):
            raise ConfigError(f"{where}, key 'grader': {shown(name)} is not the name of a grader")
        if name not in self._graders:
            if ":" in name and not self._own:
                raise ConfigError(
                    f"{where}, key 'grader': {shown(name)} would import a module that a file names. Set it as the "
                    "task's grader (task.settings.grader), or give the rows in Python"
                )
            try:
                self._add_grader(name, load_grader(name))
            except ConfigError as error:
                raise ConfigError(f"{where}, key 'grader': {error}") from error
        return name

    def _add_grader(self, name: str, grader: Grader) -> None:
        takes_row(name, grader)  # a grader that cannot be called is found before the first answer
        self._graders[name] = grader

    def _check_repeat(self, first: _Checked, row: _Checked) -> None:
        places = f"{self._source}, {first.place.together_with(row.place)}"
        if first.split != row.split:
            raise ConfigError(
                f"{places}: the same question is in {first.split} and in {row.split}: "
                f"{shown(row.problem.question)}. Remove one, or give both the same {self.columns.split!r}"
            )
        if first.problem.answer != row.problem.answer:
            raise ConfigError(
                f"{places}: the same question has the answers {shown(first.problem.answer)} and "
                f"{shown(row.problem.answer)}. Remove the wrong one"
            )

    def _check_ids(self, rows: list[_Checked]) -> None:
        counts = Counter(row.problem.id for row in rows)
        for problem_id, count in counts.items():
            if count > 1:
                first, second = [row.place for row in rows if row.problem.id == problem_id][:2]
                raise ConfigError(
                    f"{self._source}, {first.together_with(second)}, key {self.columns.id!r}: {problem_id!r} is used "
                    f"{count} times. Give each row its own id"
                )
