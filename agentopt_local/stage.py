"""What a batch of rollouts is for."""

from __future__ import annotations

import re
from typing import Any

from pydantic import model_serializer, model_validator

from agentopt_local.problem import SPLITS, Split
from agentopt_local.record import Record

_STEP = re.compile(r"step (\d+)(?: (.+))?", re.DOTALL)
FLOOR = ("floor again", "floor placebo")
"""The stages of the noise floor, on training problems. Its first run is step 1's ``before``."""


class Stage(Record):
    """A part of a training step, one side of an evaluation, or (with neither) something done before both.

    Its text is what people read and what the run folder holds: ``step 3 before``, ``step 3 edit 2``, ``test after``.
    """

    step: int | None = None
    """The training step, counted from 1."""
    split: Split | None = None
    """The split that is evaluated."""
    part: str = ""
    """``before``, ``after``, ``attempts``, ``edit N``, ``edits together``, ``proposing``, ``again``, the name of a
    baseline; or the whole text."""

    @staticmethod
    def parse(text: str) -> Stage:
        """The stage with this text; any text is one."""
        if match := _STEP.fullmatch(text):
            return Stage(step=int(match[1]), part=match[2] or "")
        head, _, part = text.partition(" ")
        split = next((each for each in SPLITS if each == head), None)
        return Stage(split=split, part=part) if split and part else Stage(part=text)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return dict(Stage.parse(value)) if isinstance(value, str) else value

    @model_serializer
    def _as_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        head = f"step {self.step}" if self.step is not None else self.split or ""
        return f"{head} {self.part}".strip()

    @property
    def of_split(self) -> Split | None:
        """The split whose problems it rolls out."""
        return "train" if self.step is not None or self.of_floor else self.split

    @property
    def of_floor(self) -> bool:
        """Whether it measures the noise floor."""
        return self.part in FLOOR

    @property
    def trains(self) -> bool:
        """Whether the training itself makes these rollouts, or the filter of unused functions at its end."""
        return self.step is not None or (self.split == "train" and self.part == "again")

    @property
    def kind(self) -> str:
        """Its text without the step's number: ``training before``."""
        return f"training {self.part}".strip() if self.step is not None else str(self)
