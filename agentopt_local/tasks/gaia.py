"""GAIA (Mialon et al., arXiv 2311.12983), read from your copy: questions for assistants, with attached files.

In ``gaia:PATH``, PATH is the data set's folder, with ``2023/validation/metadata.jsonl`` (or ``metadata.parquet``) and
the attachments next to it. ``gaia:hf:gaia-benchmark/GAIA`` downloads it, given access to that gated data set. Its
questions must not be republished.

The answers to the official test questions are withheld, so the official validation questions are split by a hash of
their content: 15 % for training, 10 % for validation, 75 % for the test. Settings: ``level`` (1 to 3), ``lenient``
(repair the official scoring rule), ``withheld`` (use the official test questions as the test; answers to them are not
graded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.graders.gaia import GRADERS, gaia
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.problem import Problem, Split, content_key
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.data_files import read, read_rows, shown, source, text
from agentopt_local.tasks.graded_rows import by_texts
from agentopt_local.tasks.options import flag, levels, parse_spec
from agentopt_local.tasks.splits import Found, Splits

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox

FORM = (
    "Give the final answer alone: a number in digits without thousands separators, and without unit unless it is asked "
    "for; or as few words as possible, without articles and abbreviations; or a list of these separated by commas."
)
HINT = (
    "Request access to the gated data set gaia-benchmark/GAIA on the Hugging Face hub, then use "
    "gaia:hf:gaia-benchmark/GAIA with HF_TOKEN set, or download it and give the folder that contains 2023/: gaia:FOLDER"
)
WITHHELD = "?"
"""The answer to every question in the official test file."""
MAX_INLINE_CHARS = 8_000
"""Longer attachments are cut."""

_SHARES: tuple[tuple[int, Split], ...] = ((15, "train"), (25, "validation"), (100, "test"))
_TEXT_FILES = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".jsonld", ".py", ".md", ".xml", ".html"})


class GaiaTask:
    """The questions in a copy of GAIA."""

    preload: tuple[str, ...] = ()

    def __init__(self, spec: str, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Raises ConfigError, naming the file, line and key, if something is wrong."""
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
        """The first ``n`` questions of ``split``, in the seed's order, alternating between the levels."""
        return self._splits.take(split, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Grade by the official rule or the lenient one. If the expected answer is withheld, the reward is 0."""
        if problem.answer == WITHHELD:
            return Grade(reward=0.0, reason="not graded: the answer is withheld; submit to the leaderboard")
        name = "gaia_lenient" if self._lenient else "gaia"
        return apply_grader(name, GRADERS[name], problem, answer)

    def _read(self) -> Iterator[Found]:
        for official in ("validation", "test") if self._withheld else ("validation",):
            path = self._metadata(official)
            self._files.append(path)
            for where, row in read_rows(path):
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
        """An attached file as the agent sees it, and the file's path."""
        if not name:
            return "", None
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ConfigError(f"{where}, key 'file_name': {path} does not exist. Download the attachments too. {HINT}")
        real, own = path.resolve(), folder.resolve()
        if real.parent != own and not (real.parent.name == "blobs" and real.parents[1] in own.parents):
            raise ConfigError(  # the question with the file goes to the model; the hub's cache is made of such links
                f"{where}, key 'file_name': {path} is a link that leads out of its folder; put the file itself there"
            )
        if path.suffix.lower() not in _TEXT_FILES:
            return f"Attached file: {name} ({path.stat().st_size} bytes, not text).\n\n", str(path)
        content = read(path).decode("utf-8", "replace")
        cut = "\n[the rest is cut]" if len(content) > MAX_INLINE_CHARS else ""
        return f"Attached file {name}:\n{content[:MAX_INLINE_CHARS]}{cut}\n\n", str(path)


def _welcomes(row: Mapping[str, Any]) -> bool:
    """Whether a row is the first one of the test file, which welcomes the reader and asks nothing."""
    return not str(row.get("task_id", "")).strip("0-") or str(row.get("Question", "")).lower().startswith("welcome")


KIND = TaskKind(
    argument="PATH",
    open=GaiaTask,
    reads_path=True,
    row_graders={"gaia": by_texts(GRADERS["gaia"])},
    lenient_row_graders={"gaia": by_texts(GRADERS["gaia_lenient"])},
    official_row_graders={"gaia": by_texts(gaia)},
)
