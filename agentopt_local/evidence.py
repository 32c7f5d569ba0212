"""What an optimizer is shown of a problem and a rollout on it, and how long that may be."""

from __future__ import annotations

from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.trajectory import Trajectory

CHARS_PER_TOKEN = 3
"""A conservative estimate: English and code have about four characters per token, digits fewer."""


class Evidence(Record):
    """A problem and one rollout on it."""

    problem: Problem
    trajectory: Trajectory


def cut(text: str, max_chars: int) -> str:
    """``text``, with its middle cut out if it is longer than ``max_chars``."""
    if len(text) <= max_chars:
        return text
    if max_chars < 40:
        return ""
    half = (max_chars - 10) // 2
    return f"{text[:half]} [...] {text[-half:]}"
