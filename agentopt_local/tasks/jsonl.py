"""Problems from a file of your own, one JSON object per line; ``row_task.py`` says what a row may hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError
from agentopt_local.json_text import NotJsonError, read_file
from agentopt_local.plain_files import own_path, plain_lines
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.data_files import BOM, MAX_DATA
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
        self.path = own_path(str(path), f"task 'jsonl:{path}'")
        grader = str(settings.get("grader", DEFAULT_GRADER))
        rows = read_lines(self.path, "Check the path in 'jsonl:PATH'")
        super().__init__(
            f"jsonl:{path}", rows, source=str(self.path), stem=self.path.stem, grader=grader, seed=seed, own=False
        )


def read_lines(path: Path, remedy: str) -> Iterator[GivenRow]:
    """The rows of a JSONL file, not checked yet. Raises ConfigError that names the line, or says ``remedy``."""
    try:
        for number, line in enumerate(plain_lines(path, follow=True, most=MAX_DATA), start=1):
            text = line.removeprefix(BOM) if number == 1 else line
            if text.strip():
                yield GivenRow(Place("line", number), read_file(text))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. {remedy}") from None
    except NotJsonError as error:
        raise ConfigError(
            f"{path}, line {number}: not JSON in UTF-8 ({error}). Write one JSON object per line"
        ) from None


KIND = TaskKind(argument="PATH", open=JsonlTask, reads_path=True)
