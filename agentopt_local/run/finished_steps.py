"""The finished steps of a run folder, without the rest of it."""

from __future__ import annotations

from pathlib import Path

from agentopt_local.run import files
from agentopt_local.run.parsing import lenient, read_rows
from agentopt_local.run.rows import StepRow


def read_steps(run: Path) -> tuple[StepRow, ...]:
    """The finished steps. Damaged rows are left out."""
    return tuple(read_rows(run / files.STEPS, lenient(StepRow), []))
