"""Which problems a run trains and is tested on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from agentopt_local.record import Record
from agentopt_local.setting_types import PLAIN

MAX_PROBLEMS = 1_000_000
"""Most problems of a split: tasks that generate problems make all that are asked for."""


class TaskConfig(Record):
    """The problems to train and test on."""

    spec: str
    """``reasoning_gym:NAME[,NAME...]``, or a kind of task and a path, such as ``jsonl:PATH`` or ``math:PATH``."""
    n_train: int = Field(default=24, ge=1, le=MAX_PROBLEMS)
    """Number of training problems."""
    n_test: int = Field(default=60, ge=0, le=MAX_PROBLEMS)
    """Number of held-out problems to evaluate on; 0 leaves the evaluation to ``agentopt evaluate``."""
    seed: int = 0
    """Selects the problems that are generated, or the order of those read from files."""
    train_seed: int | None = None
    """Draws other training problems, while test and validation stay those of ``seed``; None: the same seed. A sweep
    over ``seed`` sets it for each training."""
    settings: Annotated[dict[str, Any], PLAIN] = Field(default={})
    """Options of the task, or of one of its data sets (``[task.settings.NAME]``)."""
