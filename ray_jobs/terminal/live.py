"""The live view of a run: its progress, the agent's accuracy, the token rate, the last step and the time left."""

from __future__ import annotations

import time

from rich.table import Table
from rich.text import Text

from agentopt_local.plain_text import printable
from agentopt_local.run.rows import MetricRow, StepRow
from agentopt_local.statistics import wilson


class LiveView:
    """Takes rows of metrics and steps, and draws what they say together."""

    def __init__(self) -> None:
        self.max_steps: int | None = None
        """The most steps there can be; None if that is not known."""
        self._metric: MetricRow | None = None
        self._updated = time.monotonic()
        self._steps: list[StepRow] = []

    def metrics(self, row: MetricRow) -> None:
        """A row of metrics."""
        self._updated = time.monotonic()
        if row.decision is None:
            self._metric = row

    def step(self, row: StepRow) -> bool:
        """A finished step; False if it was given before."""
        if self._steps and row.step <= self._steps[-1].step:
            return False
        self._steps.append(row)
        return True

    def render(self) -> Table:
        """The view as two columns of plain text."""
        grid = Table.grid(padding=(0, 2))
        for name, value in self.facts():
            grid.add_row(Text(name, style="dim"), Text(printable(value)))
        return grid

    def facts(self) -> list[tuple[str, str]]:
        """Pairs of name and value, leaving out what is not known yet."""
        return [(name, value) for name, value in self._facts() if value]

    def _facts(self) -> list[tuple[str, str]]:
        counts = [
            f"{n} {decision.replace('_', ' ')}"
            for decision in ("accepted", "rolled_back", "skipped")
            if (n := sum(row.decision == decision for row in self._steps))
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
        score = last.after if last.decision == "accepted" else last.before
        return f"{percent(score.accuracy, score.n)} on the training problems"

    def _now(self) -> str:
        row = self._metric
        if row is None:
            return ""
        under_way = f", {row.under_way} under way" if row.under_way else ""
        share = f", {percent(row.accuracy, row.done)} so far" if row.accuracy is not None else ""
        return f"{row.stage}{share}{under_way}"

    def _tokens(self) -> str:
        row = self._metric
        if row is None:
            return ""
        parts = speeds(row)
        if row.cached is not None:
            parts.append(f"{100 * row.cached:.0f} % of the prompts from the prefix cache")
        if row.tokens:
            parts.append(f"{row.tokens:,} generated so far")
        return ", ".join(parts)

    def _time(self) -> str:
        if self._metric is None:
            return ""
        since = time.monotonic() - self._updated
        spent = f"{duration(self._metric.seconds + since)} of work"
        left = self._metric.seconds_left
        return spent if left is None else f"{spent}, at most about {duration(max(0.0, left - since))} left"


def speeds(row: MetricRow) -> list[str]:
    """How fast tokens are read and generated, where that is known."""
    parts = []
    if row.tokens_per_s is not None:
        parts.append(f"{row.tokens_per_s:.0f} tokens/s generated")
    if row.read_per_s is not None:
        parts.append(f"{row.read_per_s:.0f} read")
    return parts


def pace(row: MetricRow) -> list[str]:
    """How a stage is going: what is under way, how fast, and how long the run will take."""
    parts = [f"{row.under_way} under way", *speeds(row)]
    if row.seconds_left is not None:
        parts.append(f"at most about {duration(row.seconds_left)} left in all")
    return parts


def last_step(row: StepRow) -> str:
    """A finished step in a line."""
    decision = row.decision.replace("_", " ")
    return f"{decision}: {actions_text(row)}, {100 * row.before.accuracy:.1f} % -> {100 * row.after.accuracy:.1f} %"


def score_text(row: StepRow) -> str:
    """``accuracy 0.25 -> 0.75``, with the mean reward too where answers are partly right."""
    text = f"accuracy {row.before.accuracy:.2f} -> {row.after.accuracy:.2f}"
    if (row.before.reward, row.after.reward) == (row.before.accuracy, row.after.accuracy):
        return text
    return f"{text}, reward {row.before.reward:.2f} -> {row.after.reward:.2f}"


def judged_text(row: StepRow) -> str:
    """`` (15 of them unseen by its author: 4 gained, 1 lost)``; empty where all problems count."""
    judgement = row.candidates[0].judgement if row.candidates else None
    if judgement is None or judgement.n == row.before.n:
        return ""
    return f" ({judgement.n} of them unseen by its author: {judgement.gained} gained, {judgement.lost} lost)"


def actions_text(row: StepRow) -> str:
    """``add reverse_string, revise sort_words``."""
    actions = (f"{each.kind.split('_')[0]} {each.name or ''}".strip() for each in row.actions)
    return ", ".join(actions) or "no action"


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
