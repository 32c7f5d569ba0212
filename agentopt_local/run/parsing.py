"""How one file of a run folder is read: strictly, for what is built on it, or leniently, for a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from agentopt_local.errors import FunctionError, RunDirError
from agentopt_local.json_text import read_kept
from agentopt_local.plain_files import MAX_JSON, MAX_SOURCE, plain_lines, read_plain
from agentopt_local.record import Record

T = TypeVar("T")
R = TypeVar("R", bound=Record)
Row = dict[str, Any]
MAX_WRONG = 10_000
"""Wrong rows of a file after which the rest of it is left out, too: a file may have billions."""


# Strictly


def validated(
    kind: type[R], value: Any, place: str, remedy: str = "", *, extra: Literal["forbid", "ignore"] = "forbid"
) -> R:
    """``value`` as a record. Raises RunDirError that names ``place`` if it does not fit."""
    try:
        return kind.model_validate(value, extra=extra)
    except (ValidationError, FunctionError) as error:
        raise RunDirError(f"{place} was written by another version ({reason(error)}){remedy}") from None


def json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The numbered rows of a JSONL file, without a last line that is torn or still being written.

    Raises RunDirError if the file cannot be read or a row is not a JSON object.
    """
    try:
        for number, line in enumerate(plain_lines(path), 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = read_kept(line)
            except ValueError as error:
                raise RunDirError(
                    f"{path}, line {number} is not JSON ({error}); restore the file or delete that line"
                ) from None
            if not isinstance(row, dict):
                raise RunDirError(f"{path}, line {number} is not a JSON object; restore the file or delete that line")
            yield number, row
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunDirError(f"{path} cannot be read: {error.strerror}") from None


def read_folder(folder: Path) -> dict[str, str]:
    """The sources in a folder of functions by their files' names. Raises RunDirError if one cannot be read."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        try:
            found[path.name] = read_plain(path, MAX_SOURCE).decode("utf-8", "replace")
        except OSError as error:
            raise RunDirError(f"{path} cannot be read: {error.strerror}; restore it or remove it") from None
    return found


# Leniently


def lenient(kind: type[R]) -> Callable[[Any], R]:
    """A parser that passes over fields which ``kind`` does not have: a newer version may have written them."""
    return partial(kind.model_validate, extra="ignore")


def read_value(path: Path, parse: Callable[[Any], T], notes: list[str]) -> T | None:
    """A JSON file's content; None, with a note if it is damaged, where there is nothing to read."""
    try:
        return parse(read_kept(tolerant(read_plain(path, MAX_JSON))))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, FunctionError, OSError) as error:
        notes.append(f"{path.name} cannot be read and is left out ({reason(error)}).")
        return None


def read_rows(path: Path, parse: Callable[[Any], T], notes: list[str]) -> list[T]:
    """The rows of a JSONL file. A torn last line, as a kill or a writer at work leaves it, is passed over."""
    rows, wrong, first = [], 0, (0, "")
    try:
        for number, line in enumerate(plain_lines(path), 1):
            if not line.endswith(b"\n"):
                notes.append(f"{path.name} ends in the middle of a line; that line is left out.")
                break
            try:
                rows.append(parse(read_kept(tolerant(line))))
            except (ValueError, TypeError, KeyError, FunctionError) as error:
                wrong += 1
                if wrong == 1:
                    first = number, reason(error)
                if wrong > MAX_WRONG:
                    break
    except FileNotFoundError:
        pass
    except OSError as error:
        notes.append(f"{path.name} cannot be read further and is left out ({error.strerror}).")
    if wrong:
        more = f" and {wrong - 1} more" if wrong > 1 else ""
        more = more if wrong <= MAX_WRONG else f"{more}, and all after them,"
        notes.append(f"{path.name}, line {first[0]}{more} cannot be read and is left out ({first[1]}).")
    return rows


def tolerant(data: bytes) -> bytes:
    """``data`` as UTF-8, with marks in place of what is not."""
    return data.decode("utf-8", "replace").encode()


def reason(error: Exception) -> str:
    """What was wrong, briefly."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    return (str(error).splitlines() or [type(error).__name__])[0]


def mapping(value: Any) -> Row:
    """``value`` if it is a JSON object."""
    if not isinstance(value, dict):
        raise TypeError("a JSON object was expected")
    return value


def text_in(values: Any, *keys: str) -> str:
    """The text at nested keys of what was written down; empty if there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, str) else ""
