"""``ao.task``: a task from data or objects in a program."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from agentopt_local.errors import ConfigError
from agentopt_local.grading import Grader
from agentopt_local.problem import SPLITS
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.base import Problems
from agentopt_local.tasks.python import rows_task
from agentopt_local.tasks.row_task import DEFAULT_GRADER, GRADER, Columns, GivenRow, Place

FORMS = "a list of dicts, a pandas DataFrame, a Hugging Face data set, or a dict of these by split"


def task(
    data: Any,
    *,
    grader: str | Grader = DEFAULT_GRADER,
    question: str = "question",
    answer: str = "answer",
    id: str = "id",  # noqa: A002 - the column's name in files too
    kind: str = "kind",
    split: str = "split",
    name: str = "task",
) -> Problems:
    """A task for ``ao.train``: problems, and a way to grade answers to them.

    ``data``: rows, as a list (or any iterable) of dicts, a pandas DataFrame or a Hugging Face data set; or a dict of
    these with the keys ``train``, ``validation`` and ``test``, such as a DatasetDict. Every row needs a question (text)
    and an answer (text, a number or a bool). Other columns are for the grader.

    ``grader``: how an answer is compared with the expected one. Either a name (``numeric``, ``normalized``, ``exact``,
    ``math``, ``module:function``, ...) or a function ``(answer, expected)`` or ``(answer, expected, row)``, where both
    answers are text and ``row`` is the whole row as a dict. It returns a bool, a reward from 0 to 1, a pair
    ``(reward, reason)``, or an ``ao.Grade``; the optimizer reads the reason. It runs in this process, outside the
    sandbox.

    ``question``, ``answer``, ``id``, ``kind``, ``split``: the names of the columns. The last three are optional:
    ``id`` names a problem, ``kind`` groups failures, and ``split`` is ``train``, ``validation`` or ``test``; without
    it, a hash of the question decides (60, 20 and 20 %). A column called ``grader`` names a row's own grader.

    ``name``: the task's name in the run folder and in reports.

    If the grader has a name and all values are JSON, the rows are kept in the run folder, and ``agentopt resume`` can
    continue the run; otherwise only ``ao.resume(run, task=...)`` can.

    ``data`` may also be an instance of your own class with ``problems(split, n)``, which returns the first ``n``
    ``ao.Problem`` of a split, and ``async grade(problem, answer, sandbox)``, which returns an ``ao.Grade``. It is
    returned unchanged.

    Raises ConfigError that names the row (counted from 0), the key and the value if something is wrong.

    ::

        ao.task([{"question": "What is 2 + 3?", "answer": 5}, ...])
        ao.task(frame, question="prompt", answer="gold", grader=lambda answer, expected: expected in answer)
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ConfigError(f"ao.task: name = {name!r} is not a line of text")
    if is_task(data):
        if grader != DEFAULT_GRADER:
            raise ConfigError(f"ao.task: {type(data).__name__} has its own grade(); leave grader out")
        return check_task(data)
    columns = Columns(question=question, answer=answer, id=id, kind=kind, split=split)
    optional = frozenset((columns.id, columns.kind, columns.split, GRADER))
    return rows_task(name, given_rows(data, optional), grader=grader, columns=columns)


def is_task(data: Any) -> bool:
    """Whether ``data`` is an object with ``problems`` and ``grade``. Raises ConfigError if it has only one of them."""
    found = [each for each in ("problems", "grade") if callable(getattr(data, each, None))]
    if len(found) == 1:
        raise ConfigError(f"ao.task: {type(data).__name__} has {found[0]}() only; a task has problems() and grade()")
    return bool(found)


def check_task(data: Any) -> Problems:
    """``data`` if its methods can be called as a task's. Raises ConfigError."""
    if isinstance(data, type):
        raise ConfigError(f"ao.task: {data.__name__} is a class; give an object of it, such as {data.__name__}()")
    for name, parameters in (("problems", ("split", "n")), ("grade", ("problem", "answer", "sandbox"))):
        try:
            inspect.signature(getattr(data, name)).bind(*parameters)
        except TypeError as error:
            raise ConfigError(
                f"ao.task: {type(data).__name__}.{name} cannot be called as {name}({', '.join(parameters)}): {error}"
            ) from None
    checked: Problems = data
    return checked


def given_rows(data: Any, optional: frozenset[str]) -> Iterator[GivenRow]:
    """The rows in ``data`` with their places; missing values of ``optional`` columns are left out."""
    if not isinstance(data, Mapping):
        for number, row in enumerate(rows_in(data)):
            yield GivenRow(Place("row", number), plain(row, optional))
        return
    for key in data:
        if key not in SPLITS:
            hint = did_you_mean(str(key), SPLITS)
            raise ConfigError(f"ao.task: {key!r} is not a split{hint}; a dict has {', '.join(SPLITS)}. Or give {FORMS}")
    for split in SPLITS:
        for number, row in enumerate(rows_in(data.get(split, ()))):
            yield GivenRow(Place(f"{split} row", number), plain(row, optional), split)


def rows_in(data: Any) -> Iterable[Any]:
    """The rows of a frame or of anything that is iterable, one after another."""
    if isinstance(data, (str, bytes, PurePath)):
        raise ConfigError(
            f"ao.task: {str(data)[:80]!r} is text, not rows; ao.train takes the spec of a task as it is, such as "
            "'jsonl:my_rows.jsonl'"
        )
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        return [{key: None if is_missing(value) else value for key, value in row.items()} for row in records(data)]
    if hasattr(data, "to_dicts"):  # polars
        rows: Iterable[Any] = data.to_dicts()
        return rows
    if not isinstance(data, Iterable):
        raise ConfigError(f"ao.task: data has the type {type(data).__name__}; give {FORMS}")
    return data


def records(frame: Any) -> list[dict[Any, Any]]:
    """The rows of a pandas DataFrame."""
    found: list[dict[Any, Any]] = frame.to_dict("records")
    return found


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or what pandas has for times and nullable types."""
    if type(value).__name__ in ("NaTType", "NAType"):
        return True
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124 - only NaN differs from itself


def plain(row: Any, optional: frozenset[str]) -> Any:
    """A row with Python's own numbers in place of numpy's."""
    if not isinstance(row, Mapping):
        return row
    values = {key: value.item() if is_scalar(value) else value for key, value in row.items()}
    return {key: value for key, value in values.items() if value is not None or key not in optional}


def is_scalar(value: Any) -> bool:
    """Whether ``value`` is a number of numpy's."""
    return hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 and hasattr(value, "item")
