"""Rows of metrics: when they are written, and their totals."""

from __future__ import annotations

import pytest

from agentopt_local.chat import Usage
from agentopt_local.grading import Grade
from agentopt_local.run.metrics import Metrics
from agentopt_local.run.rows import MetricRow, Score, StepRow
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Trajectory

USAGE = Usage(requests=1, prompt_tokens=100, cached_tokens=80, completion_tokens=20)


def trajectory(right: bool) -> Trajectory:
    grade = Grade(reward=float(right), reason="")
    return Trajectory(
        problem_id="p",
        functions="f",
        seed=0,
        steps=(),
        answer="1",
        stop_reason="answer",
        usage=USAGE,
        wall_s=1,
        grade=grade,
    )


class Told:
    """Metrics with a clock in hand."""

    def __init__(self, last: MetricRow | None = None) -> None:
        self.now = 1000.0
        self.rows: list[MetricRow] = []
        self.metrics = Metrics(self.rows.append, last=last, every_s=5.0, clock=lambda: self.now)

    def rollouts(self, stage: str, rights: list[bool], total: int, *, each_s: float) -> None:
        self.metrics.progress(Stage.parse(stage), 0, total)
        for done, right in enumerate(rights, 1):
            self.now += each_s
            self.metrics.spent(USAGE)
            self.metrics.rollout(Stage.parse(stage), trajectory(right))
            self.metrics.progress(Stage.parse(stage), done, total)


def test_a_row_every_few_seconds_and_one_at_the_end() -> None:
    told = Told()
    told.rollouts("test before", [True, False, True, True, False, True, True], 7, each_s=2.0)
    assert [(row.done, row.total) for row in told.rows] == [(3, 7), (6, 7), (7, 7)]
    assert [row.seconds for row in told.rows] == [6.0, 12.0, 14.0]
    assert told.rows[-1].accuracy == pytest.approx(5 / 7, abs=1e-4)
    low, high = told.rows[-1].ci95
    assert low < 5 / 7 < high
    assert told.rows[-1].tokens == 7 * 20
    assert told.rows[-1].tokens_per_s == pytest.approx(10.0)
    assert told.rows[-1].cached == 0.8


def test_sums_go_on_where_an_earlier_process_ended() -> None:
    first = Told()
    first.rollouts("step 1 before", [True], 1, each_s=3.0)
    second = Told(first.rows[-1])
    second.rollouts("step 1 after", [True], 1, each_s=4.0)
    assert [row.seconds for row in second.rows] == [7.0]
    assert [row.tokens for row in second.rows] == [40]
    assert second.rows[0].tokens_per_s == pytest.approx(5.0), "of this process alone"


def test_time_alone_brings_a_row_and_engines_tell_more_than_their_answers() -> None:
    told = Told()
    told.metrics.progress(Stage.parse("test before"), 0, 60)
    told.now += 2.0
    told.metrics.beat((0, 0))
    assert told.rows == [], "not yet due"
    for read in (500, 1000, 1500):
        told.now += 5.0
        told.metrics.beat((read, read // 10))
    assert [(str(row.stage), row.done, row.total) for row in told.rows] == [("test before", 0, 60)] * 3
    assert told.rows[-1].read_per_s == pytest.approx(100.0)
    assert told.rows[-1].tokens_per_s == pytest.approx(10.0)
    assert told.rows[-1].tokens == 0, "of answers"
    told.now += 5.0
    told.metrics.beat()  # an engine that is being restarted tells nothing
    assert len(told.rows) == 4


def test_a_row_says_what_is_under_way_and_what_is_left() -> None:
    rows: list[MetricRow] = []
    metrics = Metrics(rows.append, every_s=0.0, under_way=lambda stage: len(str(stage)), left=lambda: 61.4)
    metrics.progress(Stage.parse("abc"), 0, 5)
    metrics.beat()
    assert (rows[0].under_way, rows[0].seconds_left) == (3, 61)


def test_a_stage_without_a_count_is_told_of_by_its_replies_until_rollouts_begin() -> None:
    told = Told()
    told.metrics.progress(Stage.parse("step 1 proposing"), 0, 0)
    for _ in range(3):
        told.now += 4.0
        told.metrics.spent(USAGE)
    assert [(str(row.stage), row.accuracy) for row in told.rows] == [("step 1 proposing", None)]
    told.rollouts("step 1 after", [True, True], 2, each_s=6.0)
    assert {str(row.stage) for row in told.rows[1:]} == {"step 1 after"}


def test_a_step_is_told_at_once_with_its_decision() -> None:
    told = Told()
    before, after = Score(accuracy=0.5, reward=0.5, n=4), Score(accuracy=0.25, reward=0.25, n=4)
    told.metrics.step(StepRow(step=2, decision="rolled_back", before=before, after=after, seconds=1.0))
    assert (told.rows[0].step, told.rows[0].decision) == (2, "rolled_back")
    assert (told.rows[0].accuracy_before, told.rows[0].accuracy) == (0.5, 0.25)
