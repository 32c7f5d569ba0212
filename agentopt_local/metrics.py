"""What a run does while it does it: one row per finished step, and one every few seconds of work.

A row holds ``time`` (Unix seconds), ``seconds`` (of work on this run so far, over all of its processes), ``step``
(steps finished), ``stage``, ``done`` of ``total`` rollouts and how many are ``under_way`` (requests of the optimizer
where the stage counts no rollouts), ``accuracy`` of those done (0 to 1) with ``ci95``, ``tokens`` and ``prompt_tokens``
(generated and read so far, over all processes), ``tokens_per_s``, ``read_per_s`` and ``cached`` (tokens generated and
prompt tokens computed per second, and the share of prompt tokens that came from the prefix cache, over the last
WINDOW_S), and ``seconds_left``, about, until the run ends. What is not known is null. A step's row adds ``decision``
and ``accuracy_before``; its ``accuracy`` is that of the update it tried.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentopt_local.chat import Usage
from agentopt_local.statistics import wilson
from agentopt_local.trajectory import Trajectory

Row = dict[str, Any]
EVERY_S = 5.0
"""Least time between two rows of one stage."""
WINDOW_S = 30.0
"""Over which throughput is averaged: replies come in bursts."""


class Metrics:
    """Counts, and hands a row to ``write`` when it is time for one."""

    def __init__(
        self,
        write: Callable[[Row], None],
        *,
        last: Row | None = None,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        under_way: Callable[[str], int] | None = None,
        left: Callable[[], float | None] | None = None,
    ) -> None:
        """``last``: the row at which an earlier process on the same run ended; sums go on from there.

        ``under_way`` tells how many rollouts of a stage have begun and not ended, ``left`` the seconds until the run
        ends, as far as that is known.
        """
        last = last or {}
        self._write = write
        self._every_s = every_s
        self._under_way = under_way or (lambda stage: 0)
        self._left = left or (lambda: None)
        self._clock = clock
        self._started = clock() - float(last.get("seconds", 0.0))
        self._step = int(last.get("step", 0))
        self._tokens = int(last.get("tokens", 0))
        self._prompt = int(last.get("prompt_tokens", 0))
        self._cached = 0
        self._stages: dict[str, Counts] = {}
        self._written: dict[str, float] = {}
        self._window: deque[tuple[float, int, int, int]] = deque([self._sums()])
        self._engine: deque[tuple[float, int, int]] = deque()
        """(seconds, prompt tokens, generated tokens) of the engines, while they tell."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` rollouts of ``stage``; 0 of 0 begins a stage without a count.

        Stages of one name that are under way at once, as of several candidates, count as one.
        """
        counts = self._stages.get(stage)
        if done == 0:
            if stage.startswith("step "):
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

    def rollout(self, stage: str, trajectory: Trajectory) -> None:
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
            if counts.total == 0 and self._is_due(stage):  # no rollout will come to tell of it
                self._row(stage)

    def beat(self, engines: tuple[int, int] | None = None) -> None:
        """Time has passed, perhaps without an answer. ``engines``: prompt tokens and tokens that they have computed in
        all, which is more than the replies have told."""
        if engines is not None:
            self._engine.append((self._clock() - self._started, *engines))
        for stage in [stage for stage in self._stages if self._is_due(stage)]:
            self._row(stage)

    def step(self, row: Row) -> None:
        """A step ended; ``row`` is that of steps.jsonl."""
        self._step = row["step"]
        self._end_uncounted()
        after = row["after"]
        counts = Counts(after["n"], after["n"], round(after["accuracy"] * after["n"]))
        told = {"decision": row["decision"], "accuracy_before": row["before"]["accuracy"]}
        self._write(self._values(f"step {row['step']}", counts) | told)

    def _end_uncounted(self) -> None:
        for stage in [stage for stage, counts in self._stages.items() if counts.total == 0]:
            del self._stages[stage], self._written[stage]

    def _is_due(self, stage: str) -> bool:
        return self._clock() - self._written[stage] >= self._every_s

    def _row(self, stage: str) -> None:
        self._written[stage] = self._clock()
        self._write(self._values(stage, self._stages[stage]))

    def _values(self, stage: str, counts: Counts) -> Row:
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
        left = self._left()
        return {
            "time": round(time.time(), 1),
            "seconds": round(now[0], 1),
            "step": self._step,
            "stage": stage,
            "done": counts.done,
            "total": counts.total,
            "under_way": self._under_way(stage),
            "accuracy": round(counts.right / counts.done, 4) if known else None,
            "ci95": [round(bound, 4) for bound in wilson(counts.right, counts.done)] if known else None,
            "tokens": self._tokens,
            "prompt_tokens": self._prompt,
            "tokens_per_s": round(tokens / seconds, 2) if seconds > 0 else None,
            "read_per_s": round(computed / seconds, 2) if seconds > 0 else None,
            "cached": round(cached / prompt, 4) if prompt else None,
            "seconds_left": None if left is None else round(left),
        }

    def _sums(self) -> tuple[float, int, int, int]:
        return self._clock() - self._started, self._tokens, self._prompt, self._cached


@dataclass
class Counts:
    """Rollouts of one stage."""

    total: int
    done: int = 0
    right: int = 0
