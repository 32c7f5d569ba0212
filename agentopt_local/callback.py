"""Following a run as it works: the one seam for displays, logs and user code."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agentopt_local.run.report import NoiseFloor, Report
from agentopt_local.run.rows import MetricRow, StepRow
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Trajectory


class Callback:
    """Called as a run works. Override the methods you need; by default each does nothing.

    They are called in the thread of the run's event loop, so keep them quick. An exception raised in one ends the run
    like an interruption: finished work is kept, and the run can be resumed.

    ::

        class Print(ao.Callback):
            def on_step(self, row):
                print(row.step, row.decision, row.before.accuracy, row.after.accuracy)

        ao.train(task, callbacks=[Print()])
    """

    def on_progress(self, stage: Stage, done: int, total: int) -> None:
        """``done`` of ``total`` rollouts of ``stage`` have ended; ``total`` 0: a stage without a count has begun."""

    def on_rollout(self, stage: Stage, trajectory: Trajectory) -> None:
        """A rollout has been graded and written down. Each rollout is reported once, even if the run is resumed."""

    def on_noise_floor(self, floor: NoiseFloor) -> None:
        """The noise floor has been measured, before step 1: how often outcomes change by chance, and the gain that the
        training and test problems can show."""

    def on_step(self, row: StepRow) -> None:
        """A training step has ended: its decision, its actions, and the scores before and after (0 to 1)."""

    def on_metrics(self, row: MetricRow) -> None:
        """Every few seconds of work, and after each step: accuracy so far, tokens, tokens per second, seconds left."""

    def on_evaluation(self, report: Report) -> None:
        """The evaluation has ended and is written down."""


class ProgressOnly(Callback):
    """Passes on the progress of stages and nothing else."""

    def __init__(self, progress: Callable[[Stage, int, int], None]) -> None:
        """``progress`` is called as ``progress(stage, done, total)``."""
        self.progress = progress

    def on_progress(self, stage: Stage, done: int, total: int) -> None:
        self.progress(stage, done, total)


def of_training(name: str, progress: Callable[[Stage, int, int], None]) -> Callable[[Stage, int, int], None]:
    """``progress`` with the name of a training in front of each stage, for trainings that run at once."""
    return lambda stage, done, total: progress(Stage(part=f"{name} {stage}"), done, total)


class Callbacks(Callback):
    """Several callbacks as one; they are called in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.each = tuple(callbacks)

    def on_progress(self, stage: Stage, done: int, total: int) -> None:
        for each in self.each:
            each.on_progress(stage, done, total)

    def on_rollout(self, stage: Stage, trajectory: Trajectory) -> None:
        for each in self.each:
            each.on_rollout(stage, trajectory)

    def on_noise_floor(self, floor: NoiseFloor) -> None:
        for each in self.each:
            each.on_noise_floor(floor)

    def on_step(self, row: StepRow) -> None:
        for each in self.each:
            each.on_step(row)

    def on_metrics(self, row: MetricRow) -> None:
        for each in self.each:
            each.on_metrics(row)

    def on_evaluation(self, report: Report) -> None:
        for each in self.each:
            each.on_evaluation(report)
