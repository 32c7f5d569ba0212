"""``agentopt watch``: follow a run from another terminal, without a lock and without writing anything."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.terminal.display import Display
from ray_jobs.terminal.text import report_text

POLL_S = 1.0
"""Seconds between two readings of the run's files."""
Row = dict[str, Any]


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    watch = subparsers.add_parser("watch", help="follow a run from another terminal, or view a finished one")
    watch.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    watch.set_defaults(run=run_watch)


def run_watch(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt watch RUN``."""
    try:
        return watch(arguments.run_dir)
    except KeyboardInterrupt:
        return 0  # the usual way to stop watching


def watch(run: Path, *, display: Display | None = None, poll_s: float = POLL_S) -> int:
    """Show a run until it has ended, then print its report. Raises RunDirError if ``run`` is not a run folder."""
    from ray_jobs.runs import read_config

    config = read_config(run)
    display = display or Display()
    display.view.max_steps = None if config.trainer.count_accepted else config.trainer.max_epochs
    with display.live():
        report = follow(run, display, poll_s)
    print(report_text(report))
    return 0


def follow(run: Path, display: Display, poll_s: float) -> Row:
    """Show what is appended to the run's files until the run has ended, and return its report."""
    metrics, steps = Tail(run / "metrics.jsonl"), Tail(run / "steps.jsonl")
    begun = idle_shown = False
    while True:
        used = in_use(run)  # checked before the files are read, so that a process's last rows are shown
        for step in steps.rows():
            display.step(step)
        for row in metrics.rows() if begun else latest(metrics.rows()):
            show(display, row)
        begun = True
        if not used and (ended := read_report(run)) is not None:
            return ended
        if used is False and not idle_shown:
            display.line(f"no process works on this run (agentopt resume {run} continues it); Ctrl-C stops watching")
        idle_shown = used is False
        time.sleep(poll_s)


def latest(rows: Iterator[Row]) -> list[Row]:
    """The last of the rows written before we started, from which the display goes on."""
    return [row for row in rows if "decision" not in row][-1:]


def show(display: Display, row: Row) -> None:
    """Show a row of metrics.jsonl."""
    display.metrics(row)
    if "decision" not in row:
        display.progress(row["stage"], row["done"], row["total"])


def read_report(run: Path) -> Row | None:
    """The report of a run that has ended; None if training has not stopped or was not evaluated yet."""
    from agentopt_local.run_dir import read_json

    state = read_json(run / "state.json")
    if not isinstance(state, dict) or state.get("stopped") is None:
        return None
    report = read_json(run / "report.json")
    return report if isinstance(report, dict) else None


def in_use(run: Path) -> bool | None:
    """Whether a process holds the run's lock, from the kernel's list of locks; None if the list is not available.

    Trying to take the lock instead could make a resume fail.
    """
    try:
        inode = (run / ".lock").stat().st_ino
        return any(f":{inode} " in line for line in Path("/proc/locks").read_text(encoding="ascii").splitlines())
    except OSError:
        return None


class Tail:
    """Reads the rows that are appended to a JSONL file, complete lines only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._inode = 0

    def rows(self) -> Iterator[Row]:
        """The rows since the last call. A file that was replaced or truncated is read from its start."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return
        self._offset += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            try:
                row = json.loads(line.decode("utf-8", "replace"))
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row
