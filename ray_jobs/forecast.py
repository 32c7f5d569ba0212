"""How long a training will take: the work left to do, divided by how fast the model computes.

At first both are guesses, from the budgets in the settings and from a measured speed; later they are what this run has
shown. All steps are assumed to be made, so a training that stops early takes less time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agentopt_local.chat import Usage
from agentopt_local.run.rows import Role, StepRow
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Trajectory
from ray_jobs.config import RunConfig
from ray_jobs.evaluation_config import N_ELSEWHERE
from ray_jobs.open_models import hosted_models
from ray_jobs.rollout_counts import floor_problems, step_rollouts
from serving.calibration import measure_in_child
from serving.facts import Speed
from serving.sizing import cpu_sizes

GENERATED = 0.25
"""The share of its token budget that an attempt is assumed to generate, until enough have ended."""
READ = 150
"""Prompt tokens of an attempt that are assumed to miss the prefix cache, until enough have ended."""
DRAFT = 2.0
"""Tokens of a draft with its repairs, as a multiple of one source's budget, until a step has ended."""
KNOWN = 8
"""Attempts after which their mean replaces the assumption."""
READ_COST = 0.25
"""The cost of a prompt token in generated tokens if no speed was measured; large batches make prompts cheap."""
SOON_S = 20.0
"""Seconds of work before the first estimate if no speed was measured."""
BEFORE_S = 60.0
"""The weight of a speed that was measured beforehand, in seconds of work at that speed."""


def speeds_here(config: RunConfig) -> dict[Role, Speed]:
    """Measure how fast the models would be on this processor. Takes a few seconds for each and does not load it.

    Leaves out a model that will run elsewhere (on a GPU, on a cluster or behind an endpoint), and the optimizer's if it
    is the agent's. Raises ConfigError if vLLM cannot run on this processor, EngineDeadError if the measurement fails.
    """
    from serving.model_store import resolve

    found: dict[Role, Speed] = {}
    if config.ray.address or os.environ.get("RAY_ADDRESS"):
        return found
    for table, (model, engine) in hosted_models(config).items():
        if engine.device == "cpu" or (engine.device == "auto" and not has_gpu()):
            role: Role = "agent" if table == "engine" else "optimizer"
            found[role] = measure_in_child(resolve(model.name, allow_fetch=False), engine)
    return found


def has_gpu() -> bool:
    """Whether this machine has a GPU that Ray would see, judged by its driver's device files."""
    return any(path.exists() for path in (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/kfd")))


def at_once(config: RunConfig) -> int:
    """Sequences in the largest batches of CPU engines, as far as rollouts fill them."""
    batch = cpu_sizes(config.engine, None).max_num_seqs
    return batch if config.concurrency == "auto" else min(config.concurrency, batch)


def expectations(name: str, speed: Speed) -> list[str]:
    """What to print before a model is loaded on this processor: arithmetic, speed, and a hint if that is slow."""
    lines = [f"{name} on this processor, {speed.arithmetic}", f"expected: {speed}"]
    if speed.arithmetic.slow:
        lines.append("this is slow; engine.dtype = 'auto' takes what the processor computes fastest")
    return lines


class Forecast:
    """Counts the work of a run in units of a generated token; a prompt token costs less."""

    def __init__(
        self,
        config: RunConfig,
        speeds: Mapping[Role, Speed] | None = None,
        *,
        steps: int = 0,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``speeds``: of the models, as far as measured; ``steps`` were finished before; ``device``: where the agent's
        model runs, which decides about the baselines; ``clock`` returns seconds."""
        self.config = config
        self.arms = config.evaluation.arms(device)
        speed, other = (speeds or {}).get("agent"), (speeds or {}).get("optimizer")
        batch = at_once(config)
        self.speed = speed.at(batch) if speed else None
        """The agent's, in tokens generated per second."""
        self.read_cost = self.speed / speed.prompt if speed and self.speed else READ_COST
        self.cost: dict[Role, float] = {"agent": 1.0, "optimizer": 1.0}
        """Of a generated token, in those of the agent's model."""
        if self.speed and other:
            self.cost["optimizer"] = self.speed / other.at(batch)
        self._clock = clock
        self._started = clock()
        self._steps = steps
        self._seen: set[tuple[str, str, int]] = set()
        self._tests = 0
        n = config.evaluation.n_validation
        self._certificate = 2 * (N_ELSEWHERE if n == "auto" else n)
        self._certified = 0
        self._floor = 0
        self._attempts = 0
        self._attempt_work = 0.0
        self._replies = 0.0
        self._written = 0.0
        self._written_steps = 0
        self._in_step = 0.0
        self._engines: Mapping[Role, tuple[int, int]] = {}

    def work(self, read: float, generated: float, role: Role = "agent") -> float:
        """The cost of prompt tokens (``read``) and generated tokens."""
        return self.cost[role] * (generated + self.read_cost * read)

    def attempt(self) -> float:
        """The expected work of one attempt."""
        if self._attempts >= KNOWN:
            return self._attempt_work / self._attempts
        return self.work(READ, GENERATED * self.config.agent.max_tokens)

    def proposal(self) -> float:
        """The expected work of one step's drafts."""
        if self._written_steps:
            return self._written / self._written_steps
        settings = self.config.optimizer
        drafts = settings.max_actions * settings.n_samples * self.config.trainer.n_candidates
        return self.work(settings.evidence_tokens, DRAFT * settings.max_source_tokens * drafts, "optimizer")

    def step_work(self) -> float:
        """The expected work of one step: its drafts, and rollouts with each of the updates tried."""
        return self.proposal() + step_rollouts(self.config) * self.attempt()

    def tests(self) -> float:
        """Attempts on the test problems: of the untrained and the trained agent, and of the baselines."""
        n, most = self.config.task.n_test, self.config.evaluation.max_votes
        sides = 2.0 + sum(each in self.arms for each in ("placebo", "one_shot"))
        if n and "self_consistency_total" in self.arms:
            steps = self.config.trainer.max_epochs
            training = self.config.task.n_train + steps * self.step_work() / self.attempt()
            sides += min(most, 1 + training // n)
        elif "self_consistency" in self.arms:
            sides += 1
        return sides * n

    def remaining(self) -> float:
        """The work left if all steps are made."""
        tests = max(0.0, self.tests() - self._tests) + max(0, self._certificate - self._certified)
        left = max(0, self.config.trainer.max_epochs - self._steps)
        first = self.config.task.n_train * self.attempt() if self._steps == 0 else 0.0
        training = max(left * self.step_work() + first - self._in_step, 0.05 * self.step_work()) if left else 0.0
        floor = max(0, 2 * floor_problems(self.config) - self._floor) if self._steps == 0 else 0
        return (tests + floor) * self.attempt() + training

    def seconds(self) -> float | None:
        """The expected duration of the training in seconds, before it starts; None if no speed was measured."""
        return self.remaining() / self.speed if self.speed else None

    def left(self) -> float | None:
        """Seconds left from now; None while there is no basis for an estimate."""
        if self.config.trainer.count_accepted:  # the number of steps is not known
            return None
        elapsed = self._clock() - self._started
        engines = sum(self.work(*tokens, role) for role, tokens in self._engines.items())
        done = engines if self._engines else self._replies
        if self.speed is None and (elapsed < SOON_S or done == 0):
            return None
        # The first seconds are slower than the rest, so the measured speed counts as work already observed.
        before = BEFORE_S if self.speed else 0.0
        return self.remaining() * (elapsed + before) / (done + before * (self.speed or 0.0))

    def certificate(self, rollouts: int) -> None:
        """The certificate takes at most so many rollouts in all; 0: it is decided, or not possible."""
        self._certificate = rollouts

    def beat(self, engines: Mapping[Role, tuple[int, int]]) -> None:
        """Record the prompt and generated tokens that the engines of each role have computed for this run so far."""
        self._engines = engines

    def spent(self, role: Role, usage: Usage) -> None:
        """Record the tokens of a reply, or of a whole attempt by a rollout worker."""
        work = self.work(usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens, role)
        self._replies += work
        if role == "optimizer":
            self._written += work
            self._in_step += work

    def rollout(self, stage: Stage, trajectory: Trajectory) -> None:
        """An attempt ended, now or before a resume. One that is reused in a later stage is counted once."""
        key = (trajectory.functions, trajectory.problem_id, trajectory.seed)
        if key in self._seen:
            return
        self._seen.add(key)
        usage = trajectory.spent
        work = self.work(usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens)
        self._attempts += not trajectory.copied
        self._attempt_work += work
        if stage.split == "test":
            self._tests += 1
        elif stage.split == "validation":
            self._certified += 1
        elif stage.of_floor:
            self._floor += 1
        else:
            self._in_step += work

    def step(self, row: StepRow) -> None:
        """A step ended."""
        self._steps = row.step
        self._written_steps += 1
        self._in_step = 0.0
