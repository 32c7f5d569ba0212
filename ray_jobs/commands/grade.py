"""``agentopt grade``: grade a file of answers, without a model, a sandbox or Ray."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from agentopt_local.errors import ConfigError
from agentopt_local.plain_files import bounded_lines, plain_lines
from ray_jobs.terminal.printing import say


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    grade = subparsers.add_parser(
        "grade",
        help="grade a file of answers",
        description='Grade rows {"gold": ..., "prediction": ...} and write them with "correct" and "reason", in order.',
    )
    grade.add_argument(
        "task", metavar="TASK", help="a benchmark: math, math_exact, tabmwp, gaia, gsm8k; or numeric, normalized, exact"
    )
    grade.add_argument("file", type=Path, metavar="FILE", help="one JSON object per line; - reads standard input")
    rules = grade.add_mutually_exclusive_group()
    rules.add_argument("--lenient", action="store_true", help="correct the official rule where it is known to be wrong")
    rules.add_argument(
        "--official",
        action="store_true",
        help="apply the official rule to the letter: thoughts, tags, boxes and Markdown are part of the answer",
    )
    grade.add_argument("--output", type=Path, metavar="FILE", help="the file to write (default: standard output)")
    grade.set_defaults(run=run_grade)


def run_grade(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt grade TASK FILE [--lenient | --official] [--output FILE]``."""
    lenient, official = arguments.lenient, arguments.official
    return grade(arguments.task, arguments.file, lenient=lenient, official=official, output=arguments.output)


def grade(task: str, path: Path, *, lenient: bool = False, official: bool = False, output: Path | None = None) -> int:
    """Grade the rows of ``path`` (``-`` is standard input), write them to ``output`` or standard output, and sum up.

    The summary goes to standard error. Raises ConfigError for an unknown task or a file that cannot be read or written.
    """
    from agentopt_local.tasks.catalog import row_grader
    from agentopt_local.tasks.graded_rows import as_line, grade_rows

    grader = row_grader(task, lenient=lenient, official=official)
    with contextlib.suppress(OSError, ValueError):  # one of them does not exist, or is no name at all: said later
        if output is not None and output.samefile(path):
            raise ConfigError(f"--output {output} is the file that is graded; name another one")
    counts: Counter[str] = Counter()
    lines = reading(path)
    first = list(itertools.islice(lines, 1))  # an output is not touched for a file that cannot be read
    with writing(output) as target:
        for row, correct in grade_rows(itertools.chain(first, lines), grader):
            counts["error" if correct is None else str(correct)] += 1
            target.write(as_line(row))
        target.flush()
    total, right = counts["True"] + counts["False"], counts["True"]
    share = f" ({right / total:.1%})" if total else ""
    bad = f"; {counts['error']} bad rows" if counts["error"] else ""
    rule = " (lenient)" if lenient else " (official rule, to the letter)" if official else ""
    say(f"{task}{rule}: {right} of {total} correct{share}{bad}", error=True)
    return 0


def reading(path: Path) -> Iterator[bytes]:
    """The lines of a file, or of standard input for ``-``. Raises ConfigError."""
    try:
        yield from bounded_lines(sys.stdin.buffer) if path == Path("-") else plain_lines(path, follow=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; to read a pipe, give - and redirect it") from None


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[BinaryIO]:
    """Open a new file, or standard output for None. Raises ConfigError."""
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        file = path.open("wb")
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--output {path} cannot be written: {reason}") from error
    try:
        with file:
            yield file
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written: {error.strerror}") from error
