"""The settings of a training, the presets, and the state that it is resumed from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from agentopt_local.acceptance import Acceptance
from agentopt_local.chat import Usage
from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.update import ActionCounts, OptimizerConfig

Decision = Literal["accepted", "rolled_back", "skipped"]
StopCause = Literal["max_epochs", "early_stop", "solved"]


class TrainerConfig(Record):
    """When an update is kept and when training ends."""

    max_epochs: int = Field(default=5, ge=1, le=1_000_000)
    """Updates to try. With ``count_accepted``: updates to accept, where the untrained agent counts as the first."""
    count_accepted: bool = False
    """Count only accepted updates, as the authors' code does; rejected ones are free."""
    patience: int = Field(default=3, ge=1)
    """Stop after this many consecutive updates that did not help."""
    roll_back: bool = True
    """Undo an update that did not help; False: keep every update and end with the last one (the paper's ablation)."""
    acceptance: Acceptance = "unseen"
    """When an update is kept. ``unseen``: it gains on problems that its author was not shown, by more than chance alone
    usually brings; a smaller set wins ties. ``mean``: the mean reward on all problems rises, as the paper writes.
    ``paper``: it does not fall, as the authors' code has it. ``sequential``: strong evidence on unseen problems."""
    gate_alpha: float = Field(default=0.1, ge=1e-9, lt=1)
    """With ``acceptance = "sequential"``: how often an update that does not help may be kept."""
    try_edits: bool = True
    """Roll out each edit of an update alone, then those that helped together, and keep the best. False: keep the whole
    update or nothing, as in the paper."""
    try_edits_on: Literal["kind", "all"] = "kind"
    """The problems on which each edit is tried alone: those of the kinds that its author was shown, or all. What helped
    is always tried on all problems before it is kept."""
    merge: bool = True
    """Also try the set without functions that do what another one does: that have the same code, or return the same for
    all arguments that are known. A smaller set wins ties."""
    attempts: int = Field(default=1, ge=1, le=10_000)
    """Attempts at each training problem from which the optimizer may learn. The first counts for accuracy; further
    ones, at a temperature, are made at failed problems of kinds of which some are solved."""
    n_candidates: int = Field(default=1, ge=1, le=64)
    """Candidates per step: updates sampled at once from different seeds, and so from different failed problems.

    All distinct ones are rolled out on the same problems, and the best is kept. 1 as in the paper; a local engine has
    free slots for more."""
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Problems per step, drawn by seed; None: all training problems, as in the paper."""
    noise_floor: bool = True
    """Before step 1, measure how many outcomes change by chance: the agent once more with another seed, and once with a
    function that does nothing useful. Says what gain the training and test problems can show; changes nothing of the
    training. On fewer problems where it would cost more than 15 % of the rollouts."""
    keep_only_used: bool = False
    """At test time, give the agent only the functions that were called successfully in training, as the authors do."""

    @model_validator(mode="before")
    @classmethod
    def _of_older_runs(cls, values: Any) -> Any:
        # Runs of older versions had accept_ties instead, and are continued by the rule that they were started with.
        if isinstance(values, dict) and "accept_ties" in values:
            rule = "paper" if values["accept_ties"] else "mean"
            values = {"acceptance": rule, **{key: values[key] for key in values if key != "accept_ties"}}
        return values


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "paper": {
        "trainer": {
            "max_epochs": 10,
            "count_accepted": True,
            "patience": 10,
            "acceptance": "paper",
            "try_edits": False,
            "attempts": 1,
            "merge": False,
            "keep_only_used": True,
            "n_candidates": 1,
        },
        "optimizer": {
            "max_actions": 3,
            "concurrent": False,
            "n_samples": 1,
            "max_retries": 9,
            "min_matches": 0,
            "hold_back": False,
            "group_by_likeness": False,
            "max_reflection_tokens": 0,
            "n_solved": 0,
            "n_screen": 0,
            "extra_edits": 0,
            "max_helpers": 0,
            "n_alternatives": 0,
        },
        "agent": {"offer": "all"},
    },
}
"""The settings of each ``preset``; the user's own settings override them. ``paper``: as in the released code."""


OF_OLDER_RUNS: dict[str, dict[str, Any]] = {
    "trainer": {"try_edits_on": "all", "merge": False},
    "optimizer": {
        "max_reflection_tokens": 0,
        "n_solved": 0,
        "n_screen": 0,
        "extra_edits": 0,
        "n_alternatives": 0,
        "group_by_likeness": False,
    },
    "agent": {"offer": "all"},
}
"""What stands for settings that runs of older versions do not have, so that they go on as they began."""


def check_training(trainer: TrainerConfig, optimizer: OptimizerConfig, source: str = "settings") -> None:
    """Raise ConfigError, naming ``source``, if the two cannot work together."""
    if trainer.try_edits and not optimizer.progressive:
        raise ConfigError(
            f"{source}: optimizer.progressive = false writes whole sets, which cannot be tried edit by edit; "
            "set trainer.try_edits = false"
        )


class FailedUpdate(Record):
    """An update that did not help, remembered so that the optimizer does not repeat it."""

    step: int
    actions: tuple[str, ...]
    """``kind name`` of each action."""
    functions: FunctionSet
    accuracy: float
    """Mean reward of the whole set on the problems that counted, 0 to 1. Equal to the accuracy of exact tasks."""
    accuracy_before: float
    fixed: tuple[str, ...] = ()
    """Ids of the problems that were solved only with it; empty in states of older versions."""
    broke: tuple[str, ...] = ()
    """Ids of the problems that were solved only without it."""
    shown: tuple[str, ...] = ()
    """Ids of the problems that its authors were shown, with their answers."""


class TrainState(Record):
    """The complete checkpoint."""

    functions: FunctionSet = FunctionSet()
    """The best accepted set."""
    step: int = 0
    """Steps finished."""
    accepted: int = 0
    idle: int = 0
    """Consecutive steps without improvement."""
    solved: int = 0
    """Consecutive steps, up to this one, whose batches held no failure."""
    failures: tuple[FailedUpdate, ...] = ()
    """Updates rolled back since the last accepted one."""
    counts: ActionCounts = ActionCounts()
    usage: Usage = Usage()
    """The optimizer's, over all steps."""
    stopped: StopCause | None = None
