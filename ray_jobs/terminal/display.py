"""What a user sees while a run works: a live view with bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from agentopt_local.callback import Callback
from agentopt_local.plain_text import printable
from agentopt_local.reasons import step_reasons
from agentopt_local.run.report import NoiseFloor
from agentopt_local.run.rows import MetricRow, StepRow
from agentopt_local.stage import Stage
from ray_jobs.terminal.live import LiveView, actions_text, judged_text, pace, score_text
from ray_jobs.terminal.printing import floor_lines

log = logging.getLogger("agentopt")
PLAIN_S = 15.0
"""Seconds between two lines about a stage's progress where there is no terminal."""


class Display(Callback):
    """Shows stages and steps; every line also goes to the run's log."""

    def __init__(self, console: Console | None = None) -> None:
        """``console`` is standard error by default, which leaves standard output to results."""
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.view = LiveView()
        self._tasks: dict[Stage, TaskID] = {}
        self._since: dict[Stage, float] = {}
        self._shown: set[Stage] = set()
        self._plain_at = -PLAIN_S
        self._floor: NoiseFloor | None = None

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
        text = printable(text)
        log.info("%s", text)
        self.console.print(text)

    def on_progress(self, stage: Stage, done: int, total: int) -> None:
        """``done`` of ``total`` in ``stage``; ``total`` 0: a stage without a count has begun."""
        now = time.monotonic()
        if total == 0 and stage in self._since:
            return  # a watcher reports it again and again
        if done == 0 or stage not in self._since:
            self._since[stage] = now
        since = self._since[stage]
        if self.console.is_terminal and total:
            self._draw(stage, done, total)
        elif total == 0 or done in (0, total):
            counted = f": {done}/{total}" if total else " ..."
            self.line(f"{stage}{counted}" + (f" in {now - since:.0f} s" if total and done == total else ""))

    def _draw(self, stage: Stage, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(printable(str(stage)), total=total)
        self.bars.update(self._tasks[stage], completed=done, total=total)
        if done == total:
            self.bars.remove_task(self._tasks.pop(stage))
            self.line(f"{stage}: {total} in {time.monotonic() - self._since[stage]:.0f} s")

    def on_metrics(self, row: MetricRow) -> None:
        """A row of metrics; without a terminal, a line every PLAIN_S."""
        self.view.metrics(row)
        if self.console.is_terminal or row.decision is not None or row.done == row.total != 0:
            return
        now = time.monotonic()
        if now - self._plain_at >= PLAIN_S or row.stage not in self._shown:
            self._plain_at = now
            self._shown.add(row.stage)
            counted = f" {row.done}/{row.total}," if row.total else ""
            self.line(f"{row.stage}:{counted} {', '.join(pace(row))}")

    def on_noise_floor(self, floor: NoiseFloor) -> None:
        """The noise floor, in plain lines; one that was shown already is passed over."""
        if floor != self._floor:
            self._floor = floor
            for text in floor_lines(floor):
                self.line(text)

    def on_step(self, row: StepRow) -> None:
        """A finished step; one that was shown already is passed over."""
        if not self.view.step(row):
            return
        self.line(
            f"step {row.step}: {row.decision.replace('_', ' ')}  {score_text(row)} on the same "
            f"{row.before.n} problems{judged_text(row)}  [{actions_text(row)}]  {row.seconds:.0f} s"
        )
        for reason in step_reasons(row) if row.decision == "skipped" else ():
            self.line(f"  nothing was applied: {reason}")
