"""Predictions of a training's duration: from its settings, then from its progress."""

from __future__ import annotations

import pytest

from agentopt_local.chat import Usage
from agentopt_local.grading import Grade
from agentopt_local.run.rows import Score, StepRow
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Trajectory
from ray_jobs.config import RunConfig, build
from ray_jobs.forecast import Forecast, expectations, speeds_here
from ray_jobs.rollout_counts import step_rollouts
from serving.facts import Arithmetic, Speed

SPEED = Speed(
    arithmetic=Arithmetic(dtype="float32", reason="the fastest exact product on AVX2"),
    features="AVX2", prompt=100.0, generated={1: 5.0, 32: 50.0},
)  # fmt: skip
ATTEMPT = Usage(requests=2, prompt_tokens=300, cached_tokens=200, completion_tokens=50)

SCORE = Score(accuracy=0.0, reward=0.0, n=2)


def config(**more: object) -> RunConfig:
    values = {
        "task": {"spec": "reasoning_gym:gcd", "n_train": 10, "n_test": 20},
        "agent": {"max_tokens": 400},
        "optimizer": {"max_actions": 2, "n_samples": 4, "n_alternatives": 0},
        "trainer": {"max_epochs": 2},
        "evaluation": {"n_validation": 0},
    }
    return build(values | more, "test")


def attempt(problem: str, functions: str = "none") -> Trajectory:
    return Trajectory(
        problem_id=problem, functions=functions, seed=0, steps=(), answer=None, stop_reason="answer", usage=ATTEMPT,
        wall_s=1.0, grade=Grade(reward=0.0, reason=""),
    )  # fmt: skip


def finish(forecast: Forecast, stage: str, problem: str, functions: str = "none") -> None:
    forecast.spent("agent", ATTEMPT)
    forecast.rollout(Stage.parse(stage), attempt(problem, functions))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_forecast_from_the_settings_alone() -> None:
    forecast = Forecast(config(), {"agent": SPEED})
    assert forecast.read_cost == 0.5
    attempts = 3 * 20 + 10 + 2 * 2.5 * 10 + 2 * 7  # with the placebo's test and the noise floor
    drafts = 2 * forecast.work(1500, 2.0 * 400 * 8)
    assert forecast.seconds() == pytest.approx((attempts * forecast.attempt() + drafts) / 50)
    assert Forecast(config()).seconds() is None
    assert Forecast(config()).left() is None


def test_other_docstrings_count_for_half_of_the_edits() -> None:
    assert step_rollouts(config()) == (2 + 0.5) * 10
    assert step_rollouts(config(optimizer={"max_actions": 2, "n_alternatives": 2})) == (2 * 2 + 0.5) * 10


def test_what_has_been_seen_replaces_the_guesses() -> None:
    clock = Clock()
    forecast = Forecast(config(), {"agent": SPEED}, clock=clock)
    for number in range(20):
        finish(forecast, "test before", f"t{number}")
    assert forecast.attempt() == 50 + 0.5 * 100
    for number in range(10):
        finish(forecast, "step 1 before", f"p{number}")
    forecast.spent("optimizer", Usage(prompt_tokens=1000, cached_tokens=800, completion_tokens=400))
    clock.now += 100.0
    before = forecast.left()
    assert before is not None
    for number in range(25):
        finish(forecast, "step 1 edit 1", f"p{number}", "edited")
    forecast.step(StepRow(step=1, decision="skipped", before=SCORE, after=SCORE, seconds=1.0))
    assert forecast.proposal() == 500
    after = forecast.left()
    assert after is not None
    assert after < before
    # Left: one step of 25 attempts and its drafts, and 40 tests; done: 55 attempts and the drafts, in 100 seconds.
    # The measured 50 tokens/s count as 60 seconds more.
    assert after == pytest.approx((65 * 100 + 500) / ((55 * 100 + 500 + 60 * 50) / (100 + 60)))

    for number in range(20):  # the evaluation takes them from the run folder
        forecast.rollout(Stage.parse("test before"), attempt(f"t{number}"))
    assert forecast.left() == after


def test_a_certificate_takes_at_most_its_problems_twice() -> None:
    for n, most in ((0, 0), (50, 100), ("auto", 120)):
        forecast = Forecast(config(evaluation={"n_validation": n}), {"agent": SPEED})
        without = Forecast(config(), {"agent": SPEED})
        assert forecast.remaining() - without.remaining() == pytest.approx(most * forecast.attempt())
    forecast.certificate(30)
    in_all = forecast.remaining()
    finish(forecast, "validation before", "v1")
    finish(forecast, "validation before", "v1")
    finish(forecast, "validation after", "v1", "learned")
    assert in_all - forecast.remaining() == pytest.approx(2 * forecast.attempt())
    forecast.certificate(0)
    assert forecast.remaining() == pytest.approx(without.remaining())


def test_what_a_resumed_run_remembers_is_no_work_that_it_did() -> None:
    clock = Clock()
    forecast = Forecast(config(), {"agent": SPEED}, clock=clock)
    for number in range(20):  # known from before
        forecast.rollout(Stage.parse("test before"), attempt(f"t{number}"))
    clock.now += 60.0
    for number in range(10):
        finish(forecast, "step 1 before", f"p{number}")
    assert forecast.left() == pytest.approx(forecast.remaining() / ((10 * 100 + 60 * 50) / (60 + 60)))


def test_engines_tell_more_than_their_answers() -> None:
    clock = Clock()
    forecast = Forecast(config(), {"agent": SPEED}, clock=clock)
    clock.now += 50.0
    without = forecast.left()
    forecast.beat({"agent": (1000, 500)})
    assert forecast.left() == pytest.approx(forecast.remaining() / ((1000 + 60 * 50) / (50 + 60)))
    assert without is not None
    assert forecast.left() < without


def test_the_optimizer_s_tokens_cost_what_its_own_model_takes() -> None:
    clock = Clock()
    slow = SPEED.model_copy(update={"generated": {1: 1.0, 32: 10.0}})
    same = Forecast(config(), {"agent": SPEED})
    slower = Forecast(config(), {"agent": SPEED, "optimizer": slow}, clock=clock)
    assert slower.attempt() == same.attempt()
    assert slower.proposal() == 5 * same.proposal()
    clock.now += 40.0
    slower.beat({"agent": (0, 300), "optimizer": (0, 100)})
    assert slower.left() == pytest.approx(slower.remaining() / ((300 + 5 * 100 + 60 * 50) / (40 + 60)))


def test_a_training_that_counts_accepted_updates_has_no_known_end() -> None:
    assert Forecast(config(trainer={"count_accepted": True}), {"agent": SPEED}).left() is None


def test_what_is_said_before_a_model_is_loaded() -> None:
    lines = expectations("qwen2.5-coder-1.5b", SPEED)
    assert lines[0].startswith("qwen2.5-coder-1.5b on this processor, float32: the fastest exact product on AVX2")
    assert lines[1] == "expected: about 50 tokens/s for 32 at once, 5.0 for one, 100 read"
    slow = SPEED.model_copy(update={"arithmetic": SPEED.arithmetic.model_copy(update={"slow": True})})
    assert "engine.dtype = 'auto'" in expectations("qwen2.5-coder-1.5b", slow)[-1]


def test_models_elsewhere_are_not_measured() -> None:
    for more in ({"model": {"base_url": "http://127.0.0.1:1/v1", "name": "m"}}, {"engine": {"device": "gpu"}},
                 {"ray": {"address": "auto"}}, {"engine": {"pool_name": "shared"}}):  # fmt: skip
        assert speeds_here(config(**more)) == {}


def test_baselines_and_the_noise_floor_are_part_of_the_work() -> None:
    def attempts(device: str = "cpu", **more: object) -> float:
        forecast = Forecast(config(**more), {"agent": SPEED}, device=device)
        return (forecast.remaining() - 2 * forecast.proposal()) / forecast.attempt()

    none = {"n_validation": 0}
    alone = attempts(evaluation={"n_validation": 0, "baselines": []}, trainer={"max_epochs": 2, "noise_floor": False})
    assert alone == 2 * 20 + 10 + 2 * 2.5 * 10
    assert attempts(evaluation={"n_validation": 0, "baselines": []}) == alone + 2 * 7
    assert attempts(evaluation=none) == attempts("endpoint", evaluation=none) == alone + 2 * 7 + 20
    assert (
        attempts(evaluation={"n_validation": 0, "baselines": ["self_consistency", "one_shot"]})
        == alone + 2 * 7 + 2 * 20
    )
    total = attempts(evaluation={"n_validation": 0, "baselines": ["self_consistency_total"]}) - alone - 2 * 7
    training = (
        10 + 2 * Forecast(config(), {"agent": SPEED}).step_work() / Forecast(config(), {"agent": SPEED}).attempt()
    )
    assert total == 20 * (1 + training // 20), "votes for the tokens of the test and the training, rounded down"
    assert attempts("gpu", evaluation=none) == alone + 2 * 7 + 2 * 20 + total
    assert (
        attempts(evaluation={"n_validation": 0, "baselines": ["self_consistency_total"], "max_votes": 2})
        == alone + 2 * 7 + 2 * 20
    )


def test_the_noise_floor_is_counted_once_and_only_before_step_1() -> None:
    forecast = Forecast(config(), {"agent": SPEED})
    before = forecast.remaining() / forecast.attempt()
    for number in range(14):
        finish(forecast, "floor again" if number < 7 else "floor placebo", f"p{number}")
    finish(forecast, "floor again", "p0")
    assert forecast.proposal() == Forecast(config(), {"agent": SPEED}).proposal()
    drafts = 2 * forecast.proposal()
    first = Forecast(config(), {"agent": SPEED})
    assert (forecast.remaining() - drafts) / forecast.attempt() == pytest.approx(
        before - 14 - drafts / first.attempt(), abs=1e-9
    )
    later = Forecast(config(evaluation={"n_validation": 0}), {"agent": SPEED}, steps=1)
    assert (later.remaining() - later.proposal()) / later.attempt() == 3 * 20 + 2.5 * 10
