"""Tasks given in Python as rows. Their spec is ``python:NAME``; there is no file behind it.

If the grader has a name and the rows are JSON values, the rows are kept in the run folder, so that the command line can
open the task again. Otherwise only the program can, because it has the grader or the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentopt_local.errors import ConfigError, outcome
from agentopt_local.grading import Grader
from agentopt_local.tasks.base import IN_PYTHON
from agentopt_local.tasks.jsonl import read_lines
from agentopt_local.tasks.row_task import DEFAULT_GRADER, Columns, GivenRow, RowsTask


def rows_task(name: str, rows: Iterable[GivenRow], *, grader: str | Grader, columns: Columns) -> RowsTask:
    """The task called ``name``. Raises ConfigError that names the row and the key if something is wrong."""
    return RowsTask(f"{IN_PYTHON}{name}", rows, source=f"task {name!r}", stem=name, grader=grader, columns=columns)


def settings_of(task: RowsTask) -> dict[str, Any]:
    """The task's entry in a run's settings: the grader, and the columns with names of their own."""
    return {"grader": task.grader, **task.columns.model_dump(exclude_defaults=True)}


def rows_text(task: RowsTask) -> str | None:
    """The rows as JSONL, from which :func:`reopened` makes the task again; None if they cannot be written that way."""
    if not task.named_graders:
        return None
    text, _ = outcome(
        lambda: "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in task.rows())
    )
    return text


def reopened(spec: str, path: Path, settings: Mapping[str, Any], seed: int) -> RowsTask:
    """The task whose rows are in ``path``. Raises ConfigError if the file or a setting is wrong."""
    columns = {key: value for key, value in settings.items() if key in Columns.model_fields}
    return RowsTask(
        spec,
        read_lines(path, "It should hold the rows of the task"),
        source=str(path),
        stem=spec.removeprefix(IN_PYTHON),
        grader=str(settings.get("grader", DEFAULT_GRADER)),
        columns=columns_of(columns, str(path)),
        seed=seed,
        own=False,
    )


def columns_of(values: Mapping[str, Any], source: str) -> Columns:
    """The columns in a run's settings. Raises ConfigError that names ``source``."""
    try:
        return Columns.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ConfigError(f"{source}: task.settings.{wrong['loc'][0]}: {wrong['msg']}") from None


def only_in_python(spec: str, run: Path | None = None) -> ConfigError:
    """The error for a task that only Python can give again; it says how."""
    where = "RUN" if run is None else repr(str(run))
    return ConfigError(
        f"the task {spec.removeprefix(IN_PYTHON)!r} was given in Python and cannot be opened here; from Python, "
        f"continue with ao.resume({where}, task=...) after 'import agentopt_local as ao'"
    )
