"""Times of day in one spelling."""

import pytest

from agentopt_local.graders.clock import with_plain_times


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("4:15 P.M.", "4:15 pm"), ("4:15 p. m.", "4:15 pm"), ("04:15PM", "4:15 pm"), ("16:15", "4:15 pm"),
        ("4.15 am", "4:15 am"), ("9 a.m.", "9:00 am"), ("noon", "12:00 pm"), ("midnight", "12:00 am"),
        ("00:05", "12:05 am"), ("4:15 in the afternoon", "4:15 pm"), ("at 4:15 PM or 5 AM", "at 4:15 pm or 5:00 am"),
        ("4:15", "4:15"), ("12:30", "12:30"), ("13 am", "13 am"), ("3 apples", "3 apples"), ("1.5 am", "1.5 am"),
        ("2:3:4", "2:3:4"), ("5 amps", "5 amps"), ("17 PMs", "17 PMs"),
    ],
)  # fmt: skip
def test_times(text: str, plain: str) -> None:
    assert with_plain_times(text) == plain
