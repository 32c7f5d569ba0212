"""Suggestions for misspelled names."""

from agentopt_local.problem import SPLITS
from agentopt_local.spelling import did_you_mean


def test_the_nearest_name_is_offered() -> None:
    assert did_you_mean("valdation", SPLITS) == " (did you mean 'validation'?)"
    assert did_you_mean("xyz", SPLITS) == ""
