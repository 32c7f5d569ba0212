"""Stages (what a batch of rollouts is for) as values and as text on disk."""

from __future__ import annotations

import pytest

from agentopt_local.record import Record
from agentopt_local.stage import Stage


class Row(Record):
    stage: Stage


@pytest.mark.parametrize(
    ("text", "stage", "split", "kind"),
    [
        ("step 3 before", Stage(step=3, part="before"), "train", "training before"),
        ("step 12 edit 2", Stage(step=12, part="edit 2"), "train", "training edit 2"),
        ("step 1 edits together", Stage(step=1, part="edits together"), "train", "training edits together"),
        ("step 4", Stage(step=4), "train", "training"),
        ("test after", Stage(split="test", part="after"), "test", "test after"),
        ("validation before", Stage(split="validation", part="before"), "validation", "validation before"),
        ("floor again", Stage(part="floor again"), "train", "floor again"),
        ("floor placebo", Stage(part="floor placebo"), "train", "floor placebo"),
        ("test votes", Stage(split="test", part="votes"), "test", "test votes"),
        ("train again", Stage(split="train", part="again"), "train", "train again"),
        ("starting Ray", Stage(part="starting Ray"), None, "starting Ray"),
        ("tested", Stage(part="tested"), None, "tested"),
        ("step x before", Stage(part="step x before"), None, "step x before"),
        ("", Stage(), None, ""),
    ],
)
def test_a_stage_is_its_text_and_back(text: str, stage: Stage, split: str | None, kind: str) -> None:
    assert Stage.parse(text) == stage
    assert (str(stage), stage.of_split, stage.kind) == (text, split, kind)
    assert Row(stage=stage).model_dump(mode="json") == {"stage": text}
    assert Row.model_validate({"stage": text}).stage == stage
    assert {stage: 1}[Stage.parse(text)] == 1


def test_which_rollouts_train_and_which_only_measure() -> None:
    stages = ("step 1 before", "train again", "train one-shot", "floor again", "floor placebo", "test before", "")
    assert [text for text in stages if Stage.parse(text).trains] == ["step 1 before", "train again"]
    assert [text for text in stages if Stage.parse(text).of_floor] == ["floor again", "floor placebo"]
