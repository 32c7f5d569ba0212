"""What a trained agent is compared with, and what is checked after a training."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from agentopt_local.record import Record
from ray_jobs.task_config import MAX_PROBLEMS

Baseline = Literal["untrained", "placebo", "self_consistency", "self_consistency_total", "one_shot"]
"""``untrained``: no functions · ``placebo``: one function that does nothing useful · ``self_consistency``: majority
votes of the untrained agent for the tokens that the trained one takes on the same problems ·
``self_consistency_total``: for these and those of the training · ``one_shot``: the set that was proposed first."""


MIN_ALPHA = 1e-9
"""Below that, more problems must be gained than any task has."""
N_ON_GPU, N_ELSEWHERE = 200, 60
"""The most validation problems with ``n_validation = "auto"``."""


class EvaluationConfig(Record):
    """The checks after a training and the baselines of the test."""

    baselines: tuple[Baseline, ...] | Literal["auto"] = "auto"
    """What is tested beside the trained agent. ``auto``: all where the agent's model runs on a GPU, else
    ``untrained`` and ``placebo``. ``untrained`` is always tested."""
    max_votes: int = Field(default=40, ge=1, le=10_000)
    """Most answers per problem for self-consistency."""
    n_validation: Annotated[int, Field(ge=0, le=MAX_PROBLEMS)] | Literal["auto"] = "auto"
    """Most validation problems that the certificate may use; 0 skips it. ``auto``: 200 where the agent's model runs on
    a GPU, else 60. Never more than the task has."""
    alpha: float = Field(default=0.05, ge=MIN_ALPHA, lt=1)
    """How often a set that does not help may be certified, over all ``trainings`` together."""
    trainings: int = Field(default=1, ge=1, le=1_000_000)
    """How many trainings share ``alpha``: each is held to ``alpha / trainings``. A sweep sets it to its number of
    trainings."""
    credit: Literal["off", "measure", "prune"] = "off"
    """After training: nothing, measure what each function contributes, or also remove those that contribute nothing."""

    def arms(self, device: str) -> tuple[Baseline, ...]:
        """The baselines besides the untrained agent, where the agent's model runs on ``device``, in a fixed order."""
        wanted: tuple[Baseline, ...] = ("placebo",) if self.baselines == "auto" else self.baselines
        if self.baselines == "auto" and device == "gpu":
            wanted = get_args(Baseline)
        return tuple(each for each in get_args(Baseline) if each in wanted and each != "untrained")
