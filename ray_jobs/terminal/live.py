"""The live view of a run: its progress, the agent's accuracy, the token rate, the last step and the time left."""

from __future__ import annotations

import time
from typing import Any

from rich.table import Table
from rich.text import Text

from agentopt_local.statistics import wilson

Row = dict[str, Any]


class LiveView:
    """Takes rows of metrics.jsonl and steps.jsonl and draws a summary of them."""

    def __init__(self) -> None:
        self.max_steps: int | None = None
        """The most steps the run may make; None if unknown."""
        self._metric: Row = {}
        self._updated = time.monotonic()
        self._steps: list[Row] = []

    def metrics(self, row: Row) -> None:
        """Take a row of metrics.jsonl."""
        self._updated = time.monotonic()
        if "decision" not in row:
            self._metric = row

    def step(self, row: Row) -> bool:
        """Take a row of steps.jsonl; returns False if it is not new."""
        if self._steps and row["step"] <= self._steps[-1]["step"]:
            return False
        self._steps.append(row)
        return True

    def render(self) -> Table:
        """The view as two columns of plain text."""
        grid = Table.grid(padding=(0, 2))
        for name, value in self.facts():
            grid.add_row(Text(name, style="dim"), Text(value))
        return grid

    def facts(self) -> list[tuple[str, str]]:
        """Pairs of name and value, leaving out what is not known yet."""
        return [(name, value) for name, value in self._facts() if value]

    def _facts(self) -> list[tuple[str, str]]:
        counts = [
            f"{n} {decision.replace('_', ' ')}"
            for decision in ("accepted", "rolled_back", "skipped")
            if (n := sum(row["decision"] == decision for row in self._steps))
        ]
        most = f" of at most {self.max_steps}" if self.max_steps else ""
        return [
            ("steps", ", ".join([f"{len(self._steps)}{most}", *counts])),
            ("kept functions", self._kept()),
            ("now", self._now()),
            ("tokens", self._tokens()),
            ("last step", last_step(self._steps[-1]) if self._steps else ""),
            ("time", self._time()),
        ]

    def _kept(self) -> str:
        if not self._steps:
            return ""
        last = self._steps[-1]
        side = last["after" if last["decision"] == "accepted" else "before"]
        return f"{percent(side['accuracy'], side['n'])} on the training problems"

    def _now(self) -> str:
        row = self._metric
        if not row:
            return ""
        known = row["accuracy"] is not None
        under_way = f", {row['under_way']} under way" if row.get("under_way") else ""
        share = f", {percent(row['accuracy'], row['done'])} so far" if known else ""
        return f"{row['stage']}{share}{under_way}"

    def _tokens(self) -> str:
        row = self._metric
        parts = speeds(row)
        if row.get("cached") is not None:
            parts.append(f"{100 * row['cached']:.0f} % of the prompts from the prefix cache")
        if row.get("tokens"):
            parts.append(f"{row['tokens']:,} generated so far")
        return ", ".join(parts)

    def _time(self) -> str:
        if not self._metric:
            return ""
        spent = f"{duration(self._metric['seconds'] + time.monotonic() - self._updated)} of work"
        left = self._metric.get("seconds_left")
        if left is None:
            return spent
        return f"{spent}, at most about {duration(max(0.0, left - (time.monotonic() - self._updated)))} left"


def speeds(row: Row) -> list[str]:
    """How fast tokens are generated and read; rates that are not known yet are left out."""
    parts = []
    if row.get("tokens_per_s") is not None:
        parts.append(f"{row['tokens_per_s']:.0f} tokens/s generated")
    if row.get("read_per_s") is not None:
        parts.append(f"{row['read_per_s']:.0f} read")
    return parts


def pace(row: Row) -> list[str]:
    """A stage's progress: what is under way, how fast it goes and how long it will take."""
    parts = [f"{row['under_way']} under way", *speeds(row)]
    if row.get("seconds_left") is not None:
        parts.append(f"at most about {duration(row['seconds_left'])} left in all")
    return parts


def last_step(row: Row) -> str:
    """A finished step in one line."""
    actions = ", ".join(f"{each['kind'].split('_')[0]} {each['name'] or ''}".strip() for each in row["actions"])
    before, after = row["before"], row["after"]
    return (
        f"{row['decision'].replace('_', ' ')}: {actions or 'no action'}, "
        f"{100 * before['accuracy']:.1f} % -> {100 * after['accuracy']:.1f} %"
    )


def percent(accuracy: float, n: int) -> str:
    """An accuracy with its 95 % interval, as in ``50.0 % (21 to 79)``."""
    low, high = wilson(min(n, round(accuracy * n)), n)
    return f"{100 * accuracy:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def duration(seconds: float) -> str:
    """A duration as ``45 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
