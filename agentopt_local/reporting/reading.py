"""A run folder as it lies there: read without a lock, whether the run is under way, finished, killed or damaged.

Nothing here raises for a file that is missing, torn or of another version; what could not be read is said in
``RunFiles.notes`` instead, and the report shows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agentopt_local.errors import FunctionError, RunDirError
from agentopt_local.optimizer import Proposal
from agentopt_local.record import Record
from agentopt_local.run_dir import nearby_runs
from agentopt_local.trainer import TrainState
from agentopt_local.trajectory import Trajectory

T = TypeVar("T")
Row = dict[str, Any]


class Question(Record):
    """A problem as a report shows it."""

    id: str
    split: str = ""
    kind: str = ""
    question: str = ""
    answer: str = ""


class Rollout(Record):
    """A row of rollouts.jsonl."""

    stage: str
    trajectory: Trajectory


class RunFiles(Record):
    """Everything readable in a run folder."""

    path: Path
    config: Row
    meta: Row
    state: TrainState
    steps: tuple[Row, ...]
    proposals: Mapping[int, Proposal]
    rollouts: tuple[Rollout, ...]
    questions: Mapping[str, Question]
    """By problem id; problems that rollouts name but that are not written down are absent."""
    reports: Mapping[str, Row]
    """By split."""
    metrics: tuple[Row, ...]
    sources: Mapping[int, Mapping[str, str]]
    """``functions/0003/name.py`` as ``{3: {name: source}}``."""
    notes: tuple[str, ...]
    """What is missing or damaged, in sentences."""


def read_run(path: Path) -> RunFiles:
    """The run in ``path``. Raises RunDirError only if ``path`` is no run folder."""
    if not (path / "config.json").is_file():
        raise RunDirError(f"{path} is not a run folder: it has no config.json{nearby_runs(path)}")
    notes: list[str] = []
    state = read_value(path / "state.json", TrainState.model_validate, notes)
    if state is None:
        notes.append("state.json is missing: no step has finished yet.")
    proposals = read_rows(path / "proposals.jsonl", parse_proposal, notes)
    questions = read_rows(path / "problems.jsonl", Question.model_validate, notes)
    if not questions:
        notes.append("problems.jsonl is missing: rollouts are shown by the names of their problems.")
    reports = {
        split: report
        for split in ("test", "validation", "train")
        if (report := read_value(path / report_name(split), report_of(split), notes)) is not None
    }
    if "test" not in reports:
        notes.append("report.json is missing: the evaluation has not ended (agentopt resume continues the run).")
    return RunFiles(
        path=path,
        config=read_value(path / "config.json", mapping, notes) or {},
        meta=read_value(path / "meta.json", mapping, notes) or {},
        state=state or TrainState(),
        steps=tuple(read_rows(path / "steps.jsonl", parse_step, notes)),
        proposals=dict(proposals),
        rollouts=tuple(read_rows(path / "rollouts.jsonl", parse_rollout, notes)),
        questions={each.id: each for each in questions},
        reports=reports,
        metrics=tuple(read_rows(path / "metrics.jsonl", parse_metric, notes)),
        sources=read_sources(path / "functions"),
        notes=tuple(notes),
    )


def report_name(split: str) -> str:
    """The file that holds the evaluation on ``split``."""
    return "report.json" if split == "test" else f"report.{split}.json"


def read_value(path: Path, parse: Callable[[Any], T], notes: list[str]) -> T | None:
    """A JSON file's content; None, with a note if it is damaged, where there is nothing to read."""
    try:
        return parse(json.loads(path.read_bytes().decode("utf-8", "replace")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, FunctionError, OSError) as error:
        notes.append(f"{path.name} cannot be read and is left out ({first_line(error)}).")
        return None


def read_rows(path: Path, parse: Callable[[Row], T], notes: list[str]) -> list[T]:
    """The rows of a JSONL file. A torn last line, as a kill or a writer at work leaves it, is passed over."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    whole, _, torn = data.rpartition(b"\n")
    if torn:
        notes.append(f"{path.name} ends in the middle of a line; that line is left out.")
    rows, wrong = [], []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(parse(json.loads(line.decode("utf-8", "replace"))))
        except (ValueError, TypeError, KeyError, FunctionError) as error:
            wrong.append((number, first_line(error)))
    if wrong:
        number, reason = wrong[0]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        notes.append(f"{path.name}, line {number}{more} cannot be read and is left out ({reason}).")
    return rows


def first_line(error: Exception) -> str:
    """What was wrong, briefly."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return (str(error).splitlines() or [type(error).__name__])[0]


def mapping(value: Any) -> Row:
    """``value`` if it is a JSON object."""
    if not isinstance(value, dict):
        raise TypeError("a JSON object was expected")
    return value


def report_of(split: str) -> Callable[[Any], Row]:
    """A parser of the evaluation on ``split``: what a report shows of it must be there."""

    def parse(value: Any) -> Row:
        test = mapping(mapping(value)[split])
        for side in ("before", "after"):
            float(test[side]["accuracy"]), *map(float, test[side]["ci95"])
        difference = test["difference"]
        float(difference["points"]), *map(float, difference["ci95"]), float(difference["p_value"])
        int(test["n"]), int(difference["gained"]), int(difference["lost"])
        return value  # type: ignore[no-any-return]

    return parse


def parse_proposal(row: Row) -> tuple[int, Proposal]:
    """A row of proposals.jsonl."""
    return int(row["step"]), Proposal.model_validate(row["proposal"])


def parse_rollout(row: Row) -> Rollout:
    """A row of rollouts.jsonl."""
    return Rollout(
        stage=str(row["stage"]),
        trajectory=Trajectory.model_validate({key: value for key, value in row.items() if key != "stage"}),
    )


def parse_step(row: Row) -> Row:
    """A row of steps.jsonl: what a report shows of it must be there."""
    int(row["step"]), str(row["decision"]), float(row["seconds"])
    for side in ("before", "after"):
        float(row[side]["accuracy"]), int(row[side]["n"])
    for action in row["actions"]:
        str(action["kind"])
    for part in ("optimizer", "rollouts"):
        mapping(row["tokens"][part])
    return row


def parse_metric(row: Row) -> Row:
    """A row of metrics.jsonl."""
    float(row["seconds"]), str(row["stage"]), int(row["tokens"])
    return row


def read_sources(folder: Path) -> dict[int, dict[str, str]]:
    """The functions after each accepted step."""
    return {
        int(each.name): {path.stem: path.read_bytes().decode("utf-8", "replace") for path in sorted(each.glob("*.py"))}
        for each in sorted(folder.glob("[0-9]*"))
        if each.name.isdigit()
    }
