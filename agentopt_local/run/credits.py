"""What a run folder says of its functions' contributions."""

from __future__ import annotations

from pathlib import Path

from agentopt_local.run import files
from agentopt_local.run.contribution import Credit
from agentopt_local.run.parsing import lenient, read_value, validated


def read_credit(run: Path) -> Credit | None:
    """What each function contributes; None if that was not measured."""
    values = files.read_json(run / files.CREDIT)
    return None if values is None else validated(Credit, values, str(run / files.CREDIT), extra="ignore")


def find_credit(run: Path, notes: list[str]) -> Credit | None:
    """What each function contributes; None, with a note if it is damaged, where there is nothing to read."""
    return read_value(run / files.CREDIT, lenient(Credit), notes)
