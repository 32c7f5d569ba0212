"""Problems that reasoning_gym generates, in any number, and grades with its own scorers.

Several scorers hand the model's answer to ``eval`` or to sympy's ``parse_expr``, so an answer is scored inside the
sandbox, unless it equals the expected one, which needs no code. Partial credit stays as the scorer gives it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError, SandboxError
from agentopt_local.grading import Grade, no_answer
from agentopt_local.task import Problem, Split, check_request, content_key, did_you_mean, split_of
from agentopt_local.tasks.reasoning_gym_child import CHUNK

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Execution, Sandbox

REFUSED = {
    "composite": "name its parts instead: reasoning_gym:NAME,NAME",
    "boxnet": "it gives no right answer to check its scorer with",
    "rush_hour": "it gives no right answer to check its scorer with",
    "coin_flip": "its scorer takes 0 for right, as a prefix of every probability",
    "propositional_logic": "its scorer takes a repeated premise for a conclusion",
    "puzzle24": "its scorer does not check that the numbers of the problem are used",
    "game_of_life_halting": "its scorer takes every answer that is not empty for right",
}
"""Data sets whose results could not be trusted, each with the reason."""

SCORE_TIMEOUT_S = 10.0
"""Wall-clock seconds for scoring one answer."""

MAX_ANSWER_CHARS = 20_000
"""A longer answer has reward 0."""

_MAX_BARREN = 400
"""A data set is exhausted for a split after so many entries without a new problem; a fifth of all are in each."""

_BATCH = 25
"""Entries per request to the generator; divides ``CHUNK``."""

_SCORER = '''
def score(dataset: str, options: dict, entry: str, question: str, answer: str) -> float:
    """The reward that reasoning_gym gives to an answer."""
    import ast
    import reasoning_gym

    scored = ast.literal_eval(entry)
    scored["question"] = question
    return float(reasoning_gym.create_dataset(dataset, seed=0, size=10, **options).score_answer(answer, scored))
'''

_CUT_OFF = ("cancelled", "worker_lost")
"""Statuses that say nothing about the answer."""

_EVALUATES_ALGEBRA = {"countdown", "intermediate_integration", "polynomial_multiplication", "simple_integration"}
_EVALUATES_LISTS = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
_NOT_ARITHMETIC = re.compile(r"[^0-9\s+\-*/()]|\*\*|//")
_NOT_ALGEBRA = re.compile(r"[^A-Za-z0-9\s+\-*/^().]|\.\s*[A-Za-z]|\b[A-Za-z]\s*\(|\)\s*\(")
_FUNCTION = re.compile(r"a?(sin|cos|tan)h?|arc(sin|cos|tan)|sec|csc|cot|exp|log|ln|sqrt|pi|Abs")


class ReasoningGymTask:
    """Problems of one or several reasoning_gym data sets, in turn."""

    preload: tuple[str, ...] = ("reasoning_gym",)

    def __init__(self, names: str, *, seed: int = 0, settings: dict[str, Any] | None = None) -> None:
        """``names`` are separated by commas; ``settings`` maps a name to the options of its data set.

        Raises :class:`~agentopt_local.errors.ConfigError` if a name, an option or its value is wrong.
        """
        self.kinds = tuple(name.strip() for name in names.split(",") if name.strip())
        self.name = f"reasoning_gym:{','.join(self.kinds)}"
        self.seed = seed
        self.settings = settings or {}
        self._entries: dict[str, list[Problem | str]] = {kind: [] for kind in self.kinds}
        self._check_settings()
        with self._generator():
            pass

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, the data sets in turn."""
        check_request(split, n)
        seen: set[str] = set()
        with self._generator() as generator:
            streams = [self._stream(kind, split, seen, generator) for kind in self.kinds]
            return tuple(next(streams[i % len(streams)]) for i in range(n))

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Score ``answer`` in ``sandbox``; a scorer that fails on it gives reward 0.

        Raises :class:`~agentopt_local.errors.SandboxError` if the machine cannot score it.
        """
        missing = no_answer(answer)
        if answer is None or missing is not None:
            return missing or Grade(reward=0.0, reason="no answer was given")
        answer = answer.strip()
        if answer == problem.answer.strip():
            return Grade(reward=1.0, reason="correct")
        if refusal := _refusal(problem, answer):
            return Grade(reward=0.0, reason=refusal)
        arguments = {
            "dataset": problem.kind,
            "options": problem.metadata["options"],
            "entry": problem.metadata["entry"],
            "question": problem.question,
            "answer": answer,
        }
        execution = await sandbox.call(_SCORER, "score", arguments, timeout_s=SCORE_TIMEOUT_S)
        if execution.status in _CUT_OFF:
            execution = await sandbox.call(_SCORER, "score", arguments, timeout_s=SCORE_TIMEOUT_S)
        if execution.status in _CUT_OFF:
            raise SandboxError(f"scoring problem {problem.id!r} was cut off twice: {execution.error}")
        grade = _grade(execution, f"{answer[:80]!r}; expected {problem.answer[:80]!r}")
        if grade.correct and problem.kind == "spell_backward" and len(answer) != len(problem.answer):
            # The scorer means to give 0.8 to a right word with letters after it, but compares a rounded sum with 1.
            return Grade(reward=0.8, reason="the right word is followed by other letters (partial credit 0.8)")
        return grade

    def _check_settings(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(f"task {self.name!r}: name each data set once, as in 'reasoning_gym:gcd,lcm'")
        for key, options in self.settings.items():
            if key not in self.kinds:
                raise ConfigError(f"settings of {key!r}: the task is {self.name!r}{did_you_mean(key, self.kinds)}")
            if not isinstance(options, dict):
                raise ConfigError(f"settings of {key!r}: expected a table of options, found {options!r}")
            for option in ("seed", "size"):
                if option in options:
                    raise ConfigError(f"settings of {key!r}: {option!r} is set by the task; remove it")

    def _generator(self) -> _Generator:
        return _Generator({kind: self.settings.get(kind, {}) for kind in self.kinds})

    def _stream(self, kind: str, split: Split, seen: set[str], generator: _Generator) -> Iterator[Problem]:
        """The new problems of ``kind`` in ``split``. Raises ``ConfigError`` where they end."""
        found, barren, index = 0, 0, 0
        reason = ""
        while barren < _MAX_BARREN:
            entry = self._entry(kind, index, generator)
            index += 1
            barren += 1
            if isinstance(entry, str):
                reason = entry
                continue
            key = content_key(entry.question)
            # Eight digits are what the id shows: a question that shares them counts as the same one.
            if key[:8] in seen or split_of(key) != split:
                continue
            seen.add(key[:8])
            found += 1
            barren = 0
            yield entry
        skipped = f" Entries were skipped; the last because {reason}." if reason else ""
        raise ConfigError(
            f"reasoning_gym:{kind} has only {found} distinct {split} problems among the first {index:,} that it "
            f"generates with seed {self.seed}.{skipped} Ask for fewer {split} problems, add other data sets, or change "
            f"its settings so that it has more"
        )

    def _entry(self, kind: str, index: int, generator: _Generator) -> Problem | str:
        """The problem at ``index``, or why there is none."""
        entries = self._entries[kind]
        while len(entries) <= index:
            chunk, start = divmod(len(entries), CHUNK)
            # Entry i of a data set is often made from seed + i, so neighbouring seeds would overlap.
            digest = hashlib.sha256(f"{kind}:{self.seed}:{chunk}".encode()).hexdigest()
            for raw in generator.ask(
                {"name": kind, "seed": int(digest[:7], 16), "start": start, "stop": start + _BATCH}
            ):
                entries.append(raw["skipped"] if "skipped" in raw else self._problem(kind, raw))
        return entries[index]

    def _problem(self, kind: str, raw: dict[str, str]) -> Problem:
        return Problem(
            id=f"{kind}-{content_key(raw['question'])[:8]}",
            question=raw["question"],
            answer=raw["answer"],
            kind=kind,
            metadata={"options": self.settings.get(kind, {}), "entry": raw["entry"]},
        )


class _Generator:
    """The child process that generates entries; a context manager."""

    def __init__(self, options: dict[str, dict[str, Any]]) -> None:
        self._options = options

    def __enter__(self) -> _Generator:
        self._errors = tempfile.TemporaryFile()
        # -P keeps this folder off the child's path, where this module would hide the package of its name.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("reasoning_gym_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
            encoding="utf-8",
        )
        try:
            for name, options in self._options.items():
                _check_reply(name, self.ask({"name": name, "options": options}))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, request: dict[str, Any]) -> Any:
        """The child's reply to one request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._errors.seek(0)
            tail = self._errors.read()[-500:].decode("utf-8", "replace").strip()
            raise ConfigError(
                f"reasoning_gym cannot generate problems of {request['name']!r}: its process ended with "
                f"{self._process.returncode}. Check the package with 'pip install reasoning-gym==0.1.25'. {tail}"
            )
        return json.loads(line)


def _check_reply(name: str, reply: dict[str, Any]) -> None:
    if "known" in reply:
        raise ConfigError(
            f"reasoning_gym has no data set {name!r}{did_you_mean(name, reply['known'])}. It has: "
            f"{', '.join(known for known in reply['known'] if known not in REFUSED)}"
        )
    if name in REFUSED:
        raise ConfigError(f"reasoning_gym:{name} cannot be used: {REFUSED[name]}")
    if "unknown" in reply:
        hint = did_you_mean(reply["unknown"], reply["known_options"])
        raise ConfigError(
            f"settings of {name!r}: no option {reply['unknown']!r}{hint}. It has: {', '.join(reply['known_options'])}"
        )
    if "error" in reply:
        raise ConfigError(f"settings of {name!r} are not accepted: {reply['error']}")


def _grade(execution: Execution, shown: str) -> Grade:
    """The grade that the scorer's execution stands for; ``shown`` quotes the answer and the expected one."""
    if not execution.ok:
        error = (execution.error or "").strip().rpartition("\n")[2][:200]
        return Grade(reward=0.0, reason=f"the scorer failed on {shown} ({execution.status}: {error})")
    reward = execution.value
    if isinstance(reward, bool) or not isinstance(reward, (int, float)) or not 0.0 <= reward <= 1.0 + 1e-9:
        return Grade(reward=0.0, reason=f"the scorer returned {reward!r} for {shown}")
    if reward >= 1.0 - 1e-9:
        return Grade(reward=1.0, reason="correct")
    partial = f" (partial credit {reward:g})" if reward else ""
    return Grade(reward=float(reward), reason=f"answered {shown}{partial}")


def _refusal(problem: Problem, answer: str) -> str:
    """Why ``answer`` must not reach a scorer that evaluates it; empty if it may.

    The sandbox protects the machine, not the score: evaluated code could change the scorer that judges it.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return f"the answer has {len(answer):,} characters, more than {MAX_ANSWER_CHARS:,}"
    if problem.kind in _EVALUATES_LISTS and "(" in answer:
        return "the answer holds '(', which no right answer has"
    if problem.kind in _EVALUATES_ALGEBRA:
        forbidden = _NOT_ARITHMETIC if problem.kind == "countdown" else _NOT_ALGEBRA
        if found := forbidden.search(answer):
            return f"the answer holds {found[0]!r}, which is not allowed in an expression"
        for word in re.findall(r"[A-Za-z]+", answer):
            # An Integral( is not solved, and other names of sympy's could reach the scorer.
            if len(word) > 1 and not _FUNCTION.fullmatch(word):
                return f"the answer holds {word!r}, which is neither a variable nor a known function"
    return ""
