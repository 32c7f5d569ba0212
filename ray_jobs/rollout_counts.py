"""How many rollouts a training makes, from its settings alone."""

from __future__ import annotations

from ray_jobs.config import RunConfig

FLOOR_SHARE = 0.15
"""Most that the noise floor may cost, as a share of the rollouts of the training and its test."""


def step_problems(config: RunConfig) -> int:
    """Training problems of one step."""
    return min(config.trainer.batch_size or config.task.n_train, config.task.n_train)


def step_rollouts(config: RunConfig) -> float:
    """Rollouts of one step, on average: with the updates that it tries and, if it has problems of its own, before."""
    trainer, edits = config.trainer, config.optimizer.max_actions
    kinds = config.task.spec.count(",") + 1 if trainer.try_edits_on == "kind" else 1
    others = config.optimizer.n_alternatives / 2  # they are tried for less than half of the edits
    alone = edits * (1 + others) / min(kinds, edits)
    tries = (alone + 0.5 if trainer.try_edits and edits > 1 else 1.0) * trainer.n_candidates
    batched = step_problems(config) < config.task.n_train
    return (tries + batched) * step_problems(config)


def floor_problems(config: RunConfig) -> int:
    """Problems that the noise floor is measured on; 0 if it is switched off.

    All problems of a step, or as many as keep its two rollouts per problem within FLOOR_SHARE of a training that stops
    as early as its patience allows, with its test before and after; at least one.
    """
    if not config.trainer.noise_floor:
        return 0
    steps = min(config.trainer.max_epochs, config.trainer.patience)
    training = step_problems(config) + steps * step_rollouts(config) + 2 * config.task.n_test
    return min(step_problems(config), max(1, int(FLOOR_SHARE * training / 2)))
