"""``agentopt watch``: follow a run folder from another terminal, without a lock and without a trace."""

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
Row = dict[str, Any]


def add_commands(commands: Any) -> None:
    """Add the command to the command line."""
    watch = commands.add_parser("watch", help="follow a run from another terminal, or look at a finished one")
    watch.add_argument("run_dir", type=Path, metavar="RUN")
    watch.set_defaults(run=run_watch)


def run_watch(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt watch RUN``."""
    try:
        return watch(arguments.run_dir)
    except KeyboardInterrupt:
        return 0  # how one stops looking


def watch(run: Path, *, display: Display | None = None, poll_s: float = POLL_S) -> int:
    """Show a run until it has ended. Raises RunDirError if ``run`` is no run folder."""
    from ray_jobs.runs import read_config

    config = read_config(run)
    display = display or Display()
    display.view.max_steps = None if config.trainer.count_accepted else config.trainer.max_epochs
    with display.live():
        report = follow(run, display, poll_s)
    print(report_text(report))
    return 0


def follow(run: Path, display: Display, poll_s: float) -> Row:
    """Tell ``display`` what is appended to the run's files until the run has ended; its report."""
    metrics, steps = Tail(run / "metrics.jsonl"), Tail(run / "steps.jsonl")
    begun = told = False
    while True:
        used = in_use(run)  # before the files are read, so that the last lines of a process are shown
        for step in steps.rows():
            display.step(step)
        for row in metrics.rows() if begun else latest(metrics.rows()):
            show(display, row)
        begun = True
        if not used and (ended := read_report(run)) is not None:
            return ended
        if used is False and not told:
            display.line(f"no process works on this run (agentopt resume {run} continues it); Ctrl-C ends the waiting")
        told = used is False
        time.sleep(poll_s)


def latest(rows: Iterator[Row]) -> list[Row]:
    """Of rows from before we looked, the last one: the run goes on from there."""
    return [row for row in rows if "decision" not in row][-1:]


def show(display: Display, row: Row) -> None:
    """One row of metrics.jsonl."""
    display.metrics(row)
    if "decision" not in row:
        display.progress(row["stage"], row["done"], row["total"])


def read_report(run: Path) -> Row | None:
    """The evaluation of a run that has ended; None if there is none yet, or training has not stopped."""
    from agentopt_local.run_dir import read_json

    state = read_json(run / "state.json")
    if not isinstance(state, dict) or state.get("stopped") is None:
        return None
    report = read_json(run / "report.json")
    return report if isinstance(report, dict) else None


def in_use(run: Path) -> bool | None:
    """Whether a process has the run's lock, from the kernel's list of locks; None if the kernel does not tell.

    Trying the lock instead could get in the way of a resume.
    """
    try:
        inode = (run / ".lock").stat().st_ino
        return any(f":{inode} " in line for line in Path("/proc/locks").read_text(encoding="ascii").splitlines())
    except OSError:
        return None


class Tail:
    """The rows that are appended to a JSONL file, whole lines only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._inode = 0

    def rows(self) -> Iterator[Row]:
        """The rows since the last call. A file that was replaced or cut is read from its start."""
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
