"""What a report says of a training that has kept nothing."""

from __future__ import annotations

from agentopt_local.record import Record


class NothingLearned(Record):
    """Why a training has kept nothing."""

    because: tuple[str, ...]
    """A sentence per step."""
    remedies: tuple[str, ...] = ()
    """What to try, the most promising first."""

    def __str__(self) -> str:
        lines = ["Nothing was learned, because", *(f"  {each}" for each in self.because)]
        return "\n".join([*lines, *(["Try"] if self.remedies else []), *(f"  {each}" for each in self.remedies)])
