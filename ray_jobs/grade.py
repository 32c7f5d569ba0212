"""``agentopt grade``: the verdicts on a file of answers. Needs no model, no sandbox and no Ray."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agentopt_local.errors import ConfigError
from agentopt_local.tasks.catalog import row_grader
from agentopt_local.tasks.rows import as_line, grade_rows


def grade(task: str, path: Path, *, lenient: bool = False, output: Path | None = None) -> int:
    """Grade the rows of ``path`` (``-``: standard input) to ``output`` or standard output; the summary to stderr.

    Raises ConfigError for an unknown task and a file that cannot be read or written.
    """
    grader = row_grader(task, lenient=lenient)
    if output is not None and path != Path("-") and output.resolve() == path.resolve():
        raise ConfigError(f"--output {output} is the file that is graded; name another one")
    counts: Counter[str] = Counter()
    with reading(path) as rows, writing(output) as target:
        for row, correct in grade_rows(rows, grader):
            counts["error" if correct is None else str(correct)] += 1
            target.write(as_line(row))
        target.flush()
    total, right = counts["True"] + counts["False"], counts["True"]
    share = f" ({right / total:.1%})" if total else ""
    bad = f"; {counts['error']} bad rows" if counts["error"] else ""
    print(f"{task}{' (lenient)' if lenient else ''}: {right} of {total} correct{share}{bad}", file=sys.stderr)
    return 0


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, or of standard input."""
    if path == Path("-"):
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[BinaryIO]:
    """A new file, or standard output."""
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written: {error.strerror}") from error
    with file:
        yield file
