"""What a run folder says of its functions' contributions."""

from __future__ import annotations

from pathlib import Path

from agentopt_local.problem import content_key
from agentopt_local.run import files
from agentopt_local.run.contribution import Credit
from agentopt_local.run.reader import lenient, read_problems, read_value, validated


def read_credit(run: Path) -> Credit | None:
    """What each function contributes; None if that was not measured."""
    values = files.read_json(run / files.CREDIT)
    return None if values is None else validated(Credit, values, str(run / files.CREDIT), extra="ignore")


def find_credit(run: Path, notes: list[str]) -> Credit | None:
    """What each function contributes; None, with a note if it is damaged, where there is nothing to read."""
    return read_value(run / files.CREDIT, lenient(Credit), notes)


def pruned_on(run: Path) -> frozenset[str]:
    """Contents of the problems that pruning decided by: nothing measured on them is fair to the pruned set."""
    found = read_credit(run)
    if found is None or found.pruned is None:
        return frozenset()
    ids = set(found.pruned.problems)
    return frozenset(content_key(each.question) for each in read_problems(run) if each.id in ids)
