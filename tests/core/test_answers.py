"""How answers are marked and read."""

from __future__ import annotations

import pytest

from agentopt_local.agents.answers import read_answer, unboxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>42</answer>", "42"),
        ("It is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("First \\boxed{1}, no: $\\boxed{2}$", "2"),
        ("\\boxed{x = {1}", "x = {1}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\fbox{7}", None),
        ("<answer>\\boxed{7}</answer>", "7"),
        ("<answer>$\\boxed{7}$</answer> and \\boxed{8}", "7"),
        ("<answer>\\boxed{7} or \\boxed{8}</answer>", "\\boxed{7} or \\boxed{8}"),
        ("\\boxed{}", None),
        ("<answer> </answer>", None),
        ("nothing", None),
    ],
)
def test_answers_are_read_from_tags_and_boxes(text: str, answer: str | None) -> None:
    assert read_answer(text) == answer


def test_only_a_box_that_is_everything_is_taken_off() -> None:
    assert unboxed(" \\boxed{a} ") == "a"
    assert unboxed("\\boxed{a}b") == "\\boxed{a}b"
    assert unboxed("$5") == "$5"
