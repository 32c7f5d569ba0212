"""``agentopt watch``: follow a run from another terminal, without a lock and without writing anything."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopt_local.run.files import in_use
from agentopt_local.run.report import Report
from agentopt_local.run.rows import MetricRow
from agentopt_local.run.tail import RunTail
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import report_text, say

POLL_S = 1.0


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
    say(report_text(report))
    return 0


def follow(run: Path, display: Display, poll_s: float) -> Report:
    """Show what is appended to the run's files until the run has ended; its report."""
    tail = RunTail(run)
    begun = reported = False
    while True:
        used = in_use(run)  # before the files are read, so that the last lines of a process are shown
        if (floor := tail.noise_floor()) is not None:
            display.on_noise_floor(floor)
        for step in tail.steps():
            display.on_step(step)
        for row in tail.metrics() if begun else latest(tail.metrics()):
            show(display, row)
        begun = True
        if not used and (ended := tail.report()) is not None:
            return ended
        if used is False and not reported:
            display.line(f"no process works on this run (agentopt resume {run} continues it); Ctrl-C ends the waiting")
        reported = used is False
        time.sleep(poll_s)


def latest(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """The last of the rows from before we looked: the run continues from there."""
    return [row for row in rows if row.decision is None][-1:]


def show(display: Display, row: MetricRow) -> None:
    """One row of metrics."""
    display.on_metrics(row)
    if row.decision is None:
        display.on_progress(row.stage, row.done, row.total)
