r"""One reader of ``\boxed{...}``, with different rules for turns and solutions."""

import pytest

from agentopt_local.boxed import has_box, last_box, whole_box


@pytest.mark.parametrize(
    ("text", "turn", "solution"),
    [
        ("\\boxed{7}", "7", "7"),
        ("First \\boxed{3}, then \\boxed {\\frac{1}{2} }.", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}", "\\{1, 2\\}"),
        ("\\boxed{1 \\\\}", "1 \\\\", "1 \\\\"),
        ("\\boxed{\\boxed{5}}", "5", "5"),
        ("\\boxed{}", "", ""),
        ("\\boxed{x = {1}", "x = {1}", None),
        ("\\boxed{3} and \\boxed{4", "4", None),
        ("\\fbox{7}", None, "7"),
        ("\\boxed{3} and \\fbox{4}", "3", "4"),
        ("so $\\boxed 5$.", None, "5"),
        ("\\boxed{3} and $\\boxed 5$.", "3", "5"),
        ("\\boxedly{7}", None, None),
        ("nothing", None, None),
    ],
)
def test_the_last_box(text: str, turn: str | None, solution: str | None) -> None:
    assert last_box(text, "turn") == turn
    assert last_box(text, "solution") == solution


def test_a_solution_has_a_box_even_if_it_is_not_closed() -> None:
    assert has_box("\\fbox{")
    assert has_box("\\boxed 5")
    assert not has_box("\\boxes{5}")


def test_a_whole_box_is_closed_and_alone() -> None:
    assert whole_box("\\boxed{a{b}}") == "a{b}"
    assert whole_box("\\boxed{}") == ""
    for text in ("\\boxed{a}b", "a\\boxed{b}", "\\boxed{a} \\boxed{b}", "\\boxed{a", "\\fbox{a}", ""):
        assert whole_box(text) is None
