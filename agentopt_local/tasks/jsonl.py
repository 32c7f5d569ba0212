"""Problems from a file of your own, one JSON object per line.

A row is ``{"question": ..., "answer": ..., "id"?, "kind"?, "split"?, "grader"?, ...}``; other keys become the problem's
metadata. An answer may be a number or a bool, which becomes text as JSON writes it. The split of a row without
``split`` is decided by the hash of its question: 60 % train, 20 % validation, 20 % test.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.graders.catalog import load_grader
from agentopt_local.grading import Grade, Grader, apply_grader
from agentopt_local.problem import SPLITS, Problem, Split, check_request, content_key, round_robin, split_of
from agentopt_local.record import Record
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.data_files import shown

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

DEFAULT_GRADER = "numeric"
"""Compares numbers by value, and texts as ``normalized`` does if the expected answer is not a number."""

_ROW_KEYS = ("question", "answer", "id", "kind", "split", "grader")


class _Row(Record):
    """One checked line of the file."""

    line: int
    key: str
    split: Split
    problem: Problem


class JsonlTask:
    """The problems of one JSONL file."""

    preload: tuple[str, ...] = ()

    def __init__(self, path: str | Path, *, seed: int = 0, settings: dict[str, Any] | None = None) -> None:
        """Read the whole file. ``settings["grader"]`` is the grader for rows that do not name one.

        Raises :class:`~agentopt_local.errors.ConfigError`, naming file, line, key and value, if something is wrong.
        """
        settings = settings or {}
        for key in settings:
            if key != "grader":
                raise ConfigError(f"task 'jsonl:{path}' has no setting {key!r}; its only setting is 'grader'")
        self.name = f"jsonl:{path}"
        self.path = Path(path).expanduser()
        self._grader = str(settings.get("grader", DEFAULT_GRADER))
        self._graders: dict[str, Grader] = {self._grader: load_grader(self._grader)}
        self._by_split: dict[str, list[Problem]] = defaultdict(list)
        self._read(seed)

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, shuffled by the seed, alternating between its kinds."""
        check_request(split, n)
        available = self._by_split[split]
        if n > len(available):
            counts = ", ".join(f"{len(self._by_split[name])} {name}" for name in SPLITS)
            raise ConfigError(
                f"{self.path} has only {len(available)} distinct {split} problems, not {n} ({counts}). Ask for fewer, "
                f'add rows, or give rows the key "split": "{split}"'
            )
        kinds: dict[str, list[Problem]] = defaultdict(list)
        for problem in available:
            kinds[problem.kind].append(problem)
        return tuple(islice(round_robin(iter(kinds[kind]) for kind in sorted(kinds)), n))

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Apply the problem's grader in this process: user-supplied graders are trusted code.

        Raises :class:`~agentopt_local.errors.ConfigError` if that grader fails.
        """
        name = problem.metadata.get("grader", self._grader)
        return apply_grader(name, self._graders[name], problem, answer)

    def _read(self, seed: int) -> None:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be read: {error.strerror}. Check the path in 'jsonl:PATH'"
            ) from error
        lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
        kept: dict[str, _Row] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = self._row(number, line)
            first = kept.setdefault(row.key, row)
            self._check_repeat(first, row)
        self._check_ids(list(kept.values()))
        for row in sorted(kept.values(), key=lambda row: hashlib.sha256(f"{seed}:{row.key}".encode()).digest()):
            self._by_split[row.split].append(row.problem)

    def _row(self, number: int, line: bytes) -> _Row:
        where = f"{self.path}, line {number}"
        try:
            row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: not JSON in UTF-8 ({error}). Write one JSON object per line") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: found {shown(row)}; write a JSON object with 'question' and 'answer'")
        question, answer = _text(where, row, "question"), _text(where, row, "answer")
        kind = row.get("kind", "")
        if not isinstance(kind, str):
            raise ConfigError(f"{where}, key 'kind': {shown(kind)} is not text. Quote it or leave the key out")
        key = content_key(question)
        split = row.get("split", split_of(key))
        if split not in SPLITS:
            hint = did_you_mean(str(split), SPLITS)
            raise ConfigError(
                f"{where}, key 'split': {shown(split)} is not known{hint}. Use one of: {', '.join(SPLITS)}; or leave "
                f"the key out to split by content"
            )
        metadata = {name: value for name, value in row.items() if name not in _ROW_KEYS}
        if "grader" in row:
            metadata["grader"] = self._load(where, row["grader"])
        given = row.get("id", "")
        if isinstance(given, bool) or not isinstance(given, (str, int)):
            raise ConfigError(f"{where}, key 'id': {shown(given)} is neither text nor a whole number")
        problem_id = str(given) or f"{kind or self.path.stem}-{key[:8]}"
        problem = Problem(id=problem_id, question=question, answer=answer, kind=kind, metadata=metadata)
        return _Row(line=number, key=key, split=split, problem=problem)

    def _load(self, where: str, name: Any) -> str:
        if not isinstance(name, str):
            raise ConfigError(f"{where}, key 'grader': {shown(name)} is not the name of a grader")
        if name not in self._graders:
            try:
                self._graders[name] = load_grader(name)
            except ConfigError as error:
                raise ConfigError(f"{where}, key 'grader': {error}") from error
        return name

    def _check_repeat(self, first: _Row, row: _Row) -> None:
        if first.split != row.split:
            raise ConfigError(
                f"{self.path}, lines {first.line} and {row.line}: the same question is in {first.split} and in "
                f"{row.split}: {shown(row.problem.question)}. Remove one, or give both the same 'split'"
            )
        if first.problem.answer != row.problem.answer:
            raise ConfigError(
                f"{self.path}, lines {first.line} and {row.line}: the same question has the answers "
                f"{shown(first.problem.answer)} and {shown(row.problem.answer)}. Remove the wrong one"
            )

    def _check_ids(self, rows: list[_Row]) -> None:
        counts = Counter(row.problem.id for row in rows)
        for problem_id, count in counts.items():
            if count > 1:
                numbers = [str(row.line) for row in rows if row.problem.id == problem_id]
                raise ConfigError(
                    f"{self.path}, lines {' and '.join(numbers[:2])}, key 'id': {problem_id!r} is used {count} times. "
                    f"Give each row its own id"
                )


def _text(where: str, row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise ConfigError(f"{where}: no key {key!r}{did_you_mean(key, row)}. Every row needs 'question' and 'answer'")
    value = row[key]
    if key == "answer" and isinstance(value, (bool, int, float)):
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        expected = "text" if key == "question" else "text, a number or a bool"
        raise ConfigError(f"{where}, key {key!r}: {shown(value)} is not accepted; write {expected}, not empty")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


KIND = TaskKind(argument="PATH", open=JsonlTask, reads_path=True)
