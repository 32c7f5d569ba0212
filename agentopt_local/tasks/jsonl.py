"""Problems from a file of your own, one JSON object per line; ``row_task.py`` says what a row may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.row_task import DEFAULT_GRADER, GivenRow, Place, RowsTask


class JsonlTask(RowsTask):
    """The problems of one JSONL file."""

    def __init__(self, path: str | Path, *, seed: int = 0, settings: dict[str, Any] | None = None) -> None:
        """Read the whole file. ``settings["grader"]`` is the grader for rows that do not name one.

        Raises :class:`~agentopt_local.errors.ConfigError`, naming file, line, key and value, if something is wrong.
        """
        settings = settings or {}
        for key in settings:
            if key != "grader":
                raise ConfigError(f"task 'jsonl:{path}' has no setting {key!r}; its only setting is 'grader'")
        self.path = Path(path).expanduser()
        grader = str(settings.get("grader", DEFAULT_GRADER))
        rows = read_lines(self.path, "Check the path in 'jsonl:PATH'")
        super().__init__(f"jsonl:{path}", rows, source=str(self.path), stem=self.path.stem, grader=grader, seed=seed)


def read_lines(path: Path, remedy: str) -> Iterator[GivenRow]:
    """The rows of a JSONL file, not checked yet. Raises ConfigError that names the line, or says ``remedy``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}, line {number}: not JSON in UTF-8 ({error}). Write one JSON object per line"
            ) from error
        yield GivenRow(Place("line", number), row)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


KIND = TaskKind(argument="PATH", open=JsonlTask, reads_path=True)
