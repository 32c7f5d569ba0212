"""GAIA (Mialon et al., arXiv 2311.12983) from a copy of the user's: questions for assistants, with attached files.

``gaia:PATH`` where PATH is the data set's folder, with ``2023/validation/metadata.jsonl`` (or ``metadata.parquet``)
and the attachments beside it; or ``gaia:hf:gaia-benchmark/GAIA`` with access to that gated data set. Its questions must
not be published again. The answers of the official test questions are withheld, so the official validation questions
are split by a hash of their content: 15 % for training, 10 % for validation, 75 % for the test. Settings: ``level`` (1
to 3), ``lenient`` (mend the official rule of scoring), ``withheld`` (use the official test questions as the test; no
answer to them is graded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.graders.gaia import gaia, gaia_lenient
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.task import Problem, Split, content_key
from agentopt_local.tasks.benchmark import Found, Splits, flag, levels, parse_spec, rows, shown, source, text

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

FORM = (
    "Give the final answer alone: a number in digits without thousands separators, and without unit unless it is asked "
    "for; or as few words as possible, without articles and abbreviations; or a list of these separated by commas."
)
HINT = (
    "Ask for access to the gated data set gaia-benchmark/GAIA on the Hugging Face hub, then use "
    "gaia:hf:gaia-benchmark/GAIA with HF_TOKEN set, or download it and give the folder that holds 2023/: gaia:FOLDER"
)
WITHHELD = "?"
"""What the official test file has for an answer."""
MAX_INLINE_CHARS = 8_000
"""A longer attachment is shown in part."""

_SHARES: tuple[tuple[int, Split], ...] = ((15, "train"), (25, "validation"), (100, "test"))
_TEXT_FILES = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".jsonld", ".py", ".md", ".xml", ".html"})


class GaiaTask:
    """The questions of a copy of GAIA."""

    preload: tuple[str, ...] = ()

    def __init__(self, spec: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Raises ConfigError that names the file, line and key of what is wrong."""
        self.name = f"gaia:{spec}"
        path, options = parse_spec("gaia", spec, settings or {}, ("level", "lenient", "withheld"))
        self._levels = levels(self.name, options, 3)
        self._lenient = flag(self.name, options, "lenient")
        self._withheld = flag(self.name, options, "withheld")
        folder = source(self.name, path, HINT, ("2023/*",))
        self._root = next((each for each in (folder / "2023", folder) if (each / "validation").is_dir()), None)
        if self._root is None:
            raise ConfigError(f"task {self.name!r}: {folder} has no folder 2023/validation. {HINT}")
        self._files: list[Path] = []
        self._splits = Splits(self.name, seed, list(self._read()), self._files)
        self.description = self._splits.description

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` questions of ``split``, in the seed's order, the levels in turn."""
        return self._splits.take(split, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Judge by the official rule, or by the mended one; a withheld answer gives reward 0 and says so."""
        if problem.answer == WITHHELD:
            return Grade(reward=0.0, reason="not graded: the answer is withheld; the leaderboard judges it")
        rule = gaia_lenient if self._lenient else gaia
        return apply_grader("gaia", rule, problem, answer)

    def _read(self) -> Iterator[Found]:
        for official in ("validation", "test") if self._withheld else ("validation",):
            path = self._metadata(official)
            self._files.append(path)
            for where, row in rows(path):
                if official == "test" and _welcomes(row):
                    continue
                problem = self._problem(where, path.parent, row)
                if problem is None:
                    continue
                question = text(where, row, "Question")
                split: Split = "test"
                if official == "validation":
                    percentile = int(content_key(question)[8:16], 16) % 100
                    split = next(name for limit, name in _SHARES if percentile < limit)
                    if self._withheld and split == "test":
                        continue
                yield split, question, problem

    def _metadata(self, official: str) -> Path:
        assert self._root is not None
        for name in ("metadata.jsonl", "metadata.parquet"):
            if (path := self._root / official / name).is_file():
                return path
        raise ConfigError(
            f"task {self.name!r}: {self._root / official} has neither metadata.jsonl nor metadata.parquet. {HINT}"
        )

    def _problem(self, where: str, folder: Path, row: dict[str, Any]) -> Problem | None:
        task_id, question = text(where, row, "task_id"), text(where, row, "Question")
        level = str(row.get("Level", ""))
        if level not in ("1", "2", "3"):
            raise ConfigError(f"{where}, key 'Level': {shown(row.get('Level'))} is not 1, 2 or 3")
        answer = str(row["Final answer"]) if row.get("Final answer") is not None else ""
        if not answer.strip():
            raise ConfigError(
                f"{where}, key 'Final answer': missing or empty; the official files have an answer or '?'"
            )
        if int(level) not in self._levels:
            return None
        attached, file = self._attachment(where, folder, str(row.get("file_name") or ""))
        return Problem(
            id=task_id,
            question=f"{question}\n\n{attached}{FORM}",
            answer=answer.strip(),
            kind=f"level {level}",
            metadata={"level": int(level), "file": file},
        )

    def _attachment(self, where: str, folder: Path, name: str) -> tuple[str, str | None]:
        """What the agent is shown of an attached file, and the file's path."""
        if not name:
            return "", None
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ConfigError(f"{where}, key 'file_name': {path} does not exist. Download the attachments too. {HINT}")
        if path.suffix.lower() not in _TEXT_FILES:
            return f"Attached file: {name} ({path.stat().st_size} bytes, not text).\n\n", str(path)
        content = path.read_text(encoding="utf-8", errors="replace")
        cut = "\n[the rest is cut]" if len(content) > MAX_INLINE_CHARS else ""
        return f"Attached file {name}:\n{content[:MAX_INLINE_CHARS]}{cut}\n\n", str(path)


def _welcomes(row: Mapping[str, Any]) -> bool:
    """Whether a row is the one that the test file begins with: it welcomes the reader and asks nothing."""
    return not str(row.get("task_id", "")).strip("0-") or str(row.get("Question", "")).lower().startswith("welcome")
