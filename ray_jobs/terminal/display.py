"""What a user sees while a run works: a live view with bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ray_jobs.terminal.live import LiveView, pace

log = logging.getLogger("agentopt")
PLAIN_S = 15.0
"""Seconds between two lines about a stage's progress where there is no terminal."""


class Display:
    """Shows stages and steps; every line also goes to the run's log."""

    def __init__(self, console: Console | None = None) -> None:
        """``console`` is standard error by default, which leaves standard output to results."""
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.view = LiveView()
        self._tasks: dict[str, TaskID] = {}
        self._since: dict[str, float] = {}
        self._shown: set[str] = set()
        self._last_line = -PLAIN_S

    @contextmanager
    def live(self) -> Iterator[Display]:
        """While open, draw the live view and the bars if the console is a terminal."""
        if self.console.is_terminal:
            with Live(
                get_renderable=lambda: Group(self.view.render(), self.bars.get_renderable()),
                console=self.console,
                refresh_per_second=2,
                transient=True,
            ):
                yield self
        else:
            yield self

    def line(self, text: str) -> None:
        """Print a line that stays on the screen, and log it."""
        log.info("%s", text)
        self.console.print(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` in ``stage``; a ``total`` of 0 starts a stage that has no count."""
        now = time.monotonic()
        if total == 0 and stage in self._since:
            return  # `watch` reports a running stage again and again
        if done == 0 or stage not in self._since:
            self._since[stage] = now
        since = self._since[stage]
        if self.console.is_terminal and total:
            self._draw(stage, done, total)
        elif total == 0 or done in (0, total):
            counted = f": {done}/{total}" if total else " ..."
            self.line(f"{stage}{counted}" + (f" in {now - since:.0f} s" if total and done == total else ""))

    def _draw(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(stage, total=total)
        self.bars.update(self._tasks[stage], completed=done, total=total)
        if done == total:
            self.bars.remove_task(self._tasks.pop(stage))
            self.line(f"{stage}: {total} in {time.monotonic() - self._since[stage]:.0f} s")

    def metrics(self, row: dict[str, Any]) -> None:
        """Show a row of metrics.jsonl; without a terminal, as a line every PLAIN_S seconds."""
        self.view.metrics(row)
        if self.console.is_terminal or "decision" in row or row["done"] == row["total"] != 0:
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_S or row["stage"] not in self._shown:
            self._last_line = now
            self._shown.add(row["stage"])
            counted = f" {row['done']}/{row['total']}," if row["total"] else ""
            self.line(f"{row['stage']}:{counted} {', '.join(pace(row))}")

    def step(self, row: dict[str, Any]) -> None:
        """Show a finished step, unless it was shown before."""
        if not self.view.step(row):
            return
        actions = ", ".join(f"{each['kind'].split('_')[0]} {each['name'] or ''}".strip() for each in row["actions"])
        before, after = row["before"], row["after"]
        self.line(
            f"step {row['step']}: {row['decision'].replace('_', ' ')}  accuracy {before['accuracy']:.2f} -> "
            f"{after['accuracy']:.2f} on the same {before['n']} problems  [{actions or 'no action'}]  "
            f"{row['seconds']:.0f} s"
        )
