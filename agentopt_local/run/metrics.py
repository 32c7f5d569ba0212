"""What a run does while it does it: a MetricRow per finished step, and one every few seconds of work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from agentopt_local.chat import Usage
from agentopt_local.run.rows import MetricRow, StepRow
from agentopt_local.stage import Stage
from agentopt_local.statistics import wilson
from agentopt_local.trajectory import Trajectory

EVERY_S = 5.0
"""Least time between two rows of one stage."""
WINDOW_S = 30.0
"""Over which throughput is averaged: replies come in bursts."""


class Metrics:
    """Counts, and hands a row to ``write`` when it is time for one."""

    def __init__(
        self,
        write: Callable[[MetricRow], None],
        *,
        last: MetricRow | None = None,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        under_way: Callable[[Stage], int] | None = None,
        left: Callable[[], float | None] | None = None,
    ) -> None:
        """``last``: the last row of an earlier process on the same run; sums continue from there.

        ``under_way`` returns how many rollouts of a stage are running, ``left`` the seconds until the run ends, or
        None while that is not known.
        """
        last = last or MetricRow(seconds=0.0, stage=Stage(), tokens=0)
        self._write = write
        self._every_s = every_s
        self._under_way = under_way or (lambda stage: 0)
        self._left = left or (lambda: None)
        self._clock = clock
        self._started = clock() - last.seconds
        self._step = last.step
        self._tokens = last.tokens
        self._prompt = last.prompt_tokens
        self._cached = 0
        self._stages: dict[Stage, Counts] = {}
        self._written: dict[Stage, float] = {}
        self._window: deque[tuple[float, int, int, int]] = deque([self._sums()])
        self._engine: deque[tuple[float, int, int]] = deque()
        """(seconds, prompt tokens, generated tokens) of the engines, as long as they report them."""

    def progress(self, stage: Stage, done: int, total: int) -> None:
        """``done`` of ``total`` rollouts of ``stage``; 0 of 0 begins a stage without a count.

        Equal stages that run at once, as those of several candidates, count as one.
        """
        counts = self._stages.get(stage)
        if done == 0:
            if stage.step is not None:
                self._end_uncounted()
            if counts is not None and stage in self._stages:
                counts.total += total
            else:
                self._stages[stage] = Counts(total)
                self._written[stage] = self._clock()
        elif counts is not None and counts.done >= counts.total:
            self._row(stage)
            del self._stages[stage], self._written[stage]
        elif counts is not None and self._is_due(stage):
            self._row(stage)

    def rollout(self, stage: Stage, trajectory: Trajectory) -> None:
        """A rollout of ``stage`` ended."""
        counts = self._stages[stage]
        counts.done += 1
        counts.right += trajectory.correct

    def spent(self, usage: Usage) -> None:
        """A model's reply came."""
        self._tokens += usage.completion_tokens
        self._prompt += usage.prompt_tokens
        self._cached += usage.cached_tokens
        for stage, counts in self._stages.items():
            if counts.total == 0 and self._is_due(stage):  # no rollout will end to bring a row
                self._row(stage)

    def beat(self, engines: tuple[int, int] | None = None) -> None:
        """Time has passed, with or without a reply. ``engines``: prompt tokens and tokens that they have computed so
        far, including those of replies that are not complete yet."""
        if engines is not None:
            self._engine.append((self._clock() - self._started, *engines))
        for stage in [stage for stage in self._stages if self._is_due(stage)]:
            self._row(stage)

    def step(self, row: StepRow) -> None:
        """A step ended."""
        self._step = row.step
        self._end_uncounted()
        counts = Counts(row.after.n, row.after.n, round(row.after.accuracy * row.after.n))
        values = self._values(Stage(step=row.step), counts)
        update = {"decision": row.decision, "accuracy_before": row.before.accuracy}
        self._write(values.model_copy(update=update))

    def _end_uncounted(self) -> None:
        for stage in [stage for stage, counts in self._stages.items() if counts.total == 0]:
            del self._stages[stage], self._written[stage]

    def _is_due(self, stage: Stage) -> bool:
        return self._clock() - self._written[stage] >= self._every_s

    def _row(self, stage: Stage) -> None:
        self._written[stage] = self._clock()
        self._write(self._values(stage, self._stages[stage]))

    def _values(self, stage: Stage, counts: Counts) -> MetricRow:
        now = self._sums()
        while len(self._window) > 1 and now[0] - self._window[1][0] >= WINDOW_S:
            self._window.popleft()
        seconds, tokens, prompt, cached = (new - old for new, old in zip(now, self._window[0], strict=True))
        self._window.append(now)
        computed = prompt - cached
        while len(self._engine) > 2 and now[0] - self._engine[1][0] >= WINDOW_S:
            self._engine.popleft()
        if len(self._engine) > 1:
            seconds, computed, tokens = (new - old for new, old in zip(self._engine[-1], self._engine[0], strict=True))
        known = counts.done > 0
        low, high = wilson(counts.right, counts.done)
        interval = (round(low, 4), round(high, 4)) if known else None
        left = self._left()
        return MetricRow(
            time=round(time.time(), 1),
            seconds=round(now[0], 1),
            step=self._step,
            stage=stage,
            done=counts.done,
            total=counts.total,
            under_way=self._under_way(stage),
            accuracy=round(counts.right / counts.done, 4) if known else None,
            ci95=interval,
            tokens=self._tokens,
            prompt_tokens=self._prompt,
            tokens_per_s=round(tokens / seconds, 2) if seconds > 0 else None,
            read_per_s=round(computed / seconds, 2) if seconds > 0 else None,
            cached=round(cached / prompt, 4) if prompt else None,
            seconds_left=None if left is None else round(left),
        )

    def _sums(self) -> tuple[float, int, int, int]:
        return self._clock() - self._started, self._tokens, self._prompt, self._cached


@dataclass
class Counts:
    """Rollouts of one stage."""

    total: int
    done: int = 0
    right: int = 0
