"""A run folder as it is found, without a lock: strictly, for what is built on it, or leniently, for a report.

The lenient reader, :func:`read_run`, does not raise for a file that is missing, torn or of another version; what could
not be read is listed in ``RunFiles.notes`` instead, and the report shows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentopt_local.errors import FunctionError, RunDirError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.problem import SPLITS, Split
from agentopt_local.record import Record
from agentopt_local.run import files
from agentopt_local.run.parsing import (
    Row,
    json_rows,
    lenient,
    mapping,
    read_folder,
    read_rows,
    read_value,
    reason,
    validated,
)
from agentopt_local.run.report import Certificate, NoiseFloor, Report
from agentopt_local.run.rows import CertificateRow, CostRow, MetricRow, ProblemRow, ProposalRow, RolloutRow, StepRow
from agentopt_local.train_state import TrainState
from agentopt_local.update import Update

NOISE_FLOOR = "noise_floor"
"""The key of the noise floor in what is written down about a run."""


# Strictly


def read_config(run: Path) -> Row:
    """The settings as they were written. Raises RunDirError if ``run`` is not a run folder."""
    files.check_run(run)
    values = files.read_json(run / files.CONFIG)
    if not isinstance(values, dict):
        raise RunDirError(f"{run / files.CONFIG} is not a JSON object; restore it or start a new run")
    return values


def task_rows(run: Path) -> Path | None:
    """The file with the rows of the run's task; None if there is none."""
    path = run / files.TASK_ROWS
    return path if path.is_file() else None


def read_problems(run: Path) -> list[ProblemRow]:
    """The problems of the run in order; damaged rows are left out."""
    return read_rows(run / files.PROBLEMS, lenient(ProblemRow), [])


def read_costs(run: Path) -> list[CostRow]:
    """All completions so far; damaged rows are left out."""
    return read_rows(run / files.COSTS, lenient(CostRow), [])


def read_meta(run: Path) -> Row:
    """What was written down about the machine and the versions; empty if nothing was."""
    value = files.read_json(run / files.META)
    return value if isinstance(value, dict) else {}


def read_day(run: Path) -> date | None:
    """The current date to the run's hosted models or, in older runs, the day of its start; None before there is one."""
    meta = read_meta(run)
    engine = meta.get("engine")
    day = engine.get("day") if isinstance(engine, dict) else None
    try:
        return date.fromisoformat(str(day or meta.get("started"))[:10])
    except ValueError:
        return None


def read_noise_floor(run: Path) -> NoiseFloor | None:
    """The noise floor that was measured before step 1; None if there is none, or one of another version."""
    return noise_floor_in(read_meta(run))


def noise_floor_in(meta: Row) -> NoiseFloor | None:
    """The noise floor in what was written down about a run."""
    try:
        return NoiseFloor.model_validate(meta.get(NOISE_FLOOR), extra="ignore")
    except ValidationError:
        return None


def read_state(run: Path) -> TrainState | None:
    """The trainer's state after the last finished step; None before that."""
    values = files.read_json(run / files.STATE)
    return None if values is None else validated(TrainState, values, str(run / files.STATE))


def read_start(run: Path) -> FunctionSet:
    """The set that the run's training starts from: empty unless ``start_functions`` was set."""
    folder = dict(function_folders(run)).get(files.START)
    return FunctionSet() if folder is None else read_written(folder)


def read_written(folder: Path) -> FunctionSet:
    """The set that was written into ``folder``, by name, with source questions. Raises RunDirError if it is damaged."""
    try:
        asked = mapping(files.read_json(folder / files.QUESTIONS) or {})
        found = [Function(source=source) for source in read_folder(folder).values()]
        return FunctionSet(
            functions=tuple(Function(source=each.source, questions=asked.get(each.name, ())) for each in found)
        )
    except (FunctionError, ValidationError, TypeError) as error:
        raise RunDirError(f"{folder} is damaged ({reason(error)}); restore it or start a new run") from None


def read_functions(run: Path) -> FunctionSet:
    """The best accepted set so far; the start set before the first step."""
    state = read_state(run)
    return read_start(run) if state is None else state.functions


def function_folders(run: Path) -> list[tuple[int, Path]]:
    """The steps after which functions were written down, each with its folder, in order."""
    above = run / files.FUNCTIONS
    if not above.is_dir() or above.is_symlink():
        return []
    try:
        with os.scandir(above) as entries:
            found = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise RunDirError(f"{above} cannot be read: {error.strerror}") from None
    return [(int(name), above / name) for name in sorted(found) if re.fullmatch(r"[0-9]{1,9}", name)]


def read_report(run: Path, split: Split = "test") -> Report | None:
    """The evaluation on ``split``; None if there is none."""
    path = run / files.report_name(split)
    values = files.read_json(path)
    return None if values is None else validated(Report, values, str(path), extra="ignore")


def read_certificate(run: Path, functions: FunctionSet) -> Certificate | None:
    """Of ``functions`` against what the training started from; None if there is none. Damaged rows are left out."""
    pair = (functions.fingerprint, read_start(run).fingerprint)
    rows = read_rows(run / files.CERTIFICATES, lenient(CertificateRow), [])
    return next((row.certificate for row in reversed(rows) if (row.functions, row.baseline) == pair), None)


def read_rollouts(run: Path) -> Iterator[RolloutRow]:
    """Every finished rollout in order. A last line that is still being written is passed over."""
    for number, row in json_rows(run / files.ROLLOUTS):
        yield rollout_row(row, run, number)


def rollout_row(row: Any, run: Path, number: int) -> RolloutRow:
    """A row of rollouts, the ``number``-th."""
    return validated(RolloutRow, row, f"{run / files.ROLLOUTS}, line {number}")


# Leniently


class RunFiles(Record):
    """Everything readable in a run folder."""

    path: Path
    config: Row
    meta: Row
    state: TrainState
    steps: tuple[StepRow, ...]
    proposals: Mapping[int, Mapping[int, Update]]
    """By step and candidate."""
    rollouts: tuple[RolloutRow, ...]
    questions: Mapping[str, ProblemRow]
    """By problem id; problems that rollouts refer to but that are not written down are absent."""
    reports: Mapping[Split, Report]
    certificates: tuple[CertificateRow, ...]
    """The latest row of each comparison."""
    metrics: tuple[MetricRow, ...]
    sources: Mapping[int, Mapping[str, str]]
    """``functions/0003/name.py`` as ``{3: {name: source}}``."""
    notes: tuple[str, ...]
    """What is missing or damaged, in sentences."""


NO_QUESTIONS = f"{files.PROBLEMS} is missing: rollouts are shown by the names of their problems."


def read_run(path: Path) -> RunFiles:
    """The run in ``path``. Raises RunDirError only if ``path`` is not a run folder."""
    files.check_run(path)
    notes: list[str] = []
    state = read_value(path / files.STATE, lenient(TrainState), notes)
    if state is None:
        notes.append(f"{files.STATE} is missing: no step has finished yet.")
    proposals: dict[int, dict[int, Update]] = {}
    for row in read_rows(path / files.PROPOSALS, lenient(ProposalRow), notes):
        proposals.setdefault(row.step, {})[row.candidate] = row.proposal
    questions = read_rows(path / files.PROBLEMS, lenient(ProblemRow), notes)
    if not questions:
        notes.append(NO_QUESTIONS)
    reports = read_reports(path, notes)
    certificates = read_rows(path / files.CERTIFICATES, lenient(CertificateRow), notes)
    if "test" not in reports:
        notes.append("report.json is missing: the evaluation has not ended (agentopt resume continues the run).")
    return RunFiles(
        path=path,
        config=read_value(path / files.CONFIG, mapping, notes) or {},
        meta=read_value(path / files.META, mapping, notes) or {},
        state=state or TrainState(),
        steps=tuple(read_rows(path / files.STEPS, lenient(StepRow), notes)),
        proposals=proposals,
        rollouts=tuple(read_rows(path / files.ROLLOUTS, lenient(RolloutRow), notes)),
        questions={each.id: each for each in questions},
        reports=reports,
        certificates=tuple({(row.functions, row.baseline): row for row in certificates}.values()),
        metrics=tuple(read_rows(path / files.METRICS, lenient(MetricRow), notes)),
        sources=read_sources(path, notes),
        notes=tuple(notes),
    )


def read_reports(path: Path, notes: list[str]) -> dict[Split, Report]:
    """The evaluations that can be read, by split."""
    found = {}
    for split in reversed(SPLITS):
        report = read_value(path / files.report_name(split), partial(report_on, split), notes)
        if report is not None:
            found[split] = report
    return found


def report_on(split: Split, value: Any) -> Report:
    """A report that has the evaluation on ``split``."""
    report = lenient(Report)(value)
    if report.on(split) is None:
        raise KeyError(split)
    return report


def read_sources(run: Path, notes: list[str]) -> dict[int, dict[str, str]]:
    """The functions after each accepted step, as text; a folder that cannot be read is left out, with a note."""
    found: dict[int, dict[str, str]] = {}
    for step, folder in function_folders(run):
        try:
            found[step] = {name.removesuffix(".py"): text for name, text in read_folder(folder).items()}
        except RunDirError as error:
            notes.append(f"{files.FUNCTIONS}/{folder.name} cannot be read and is left out ({error}).")
    return found
