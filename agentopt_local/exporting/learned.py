"""What a run learned, read without opening the run for writing: a training that goes on is not disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from agentopt_local.errors import RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.run_dir import nearby_runs, parse_trajectory, read_json
from agentopt_local.tasks.catalog import public_spec
from agentopt_local.trainer import TrainState
from agentopt_local.trajectory import Trajectory

START = "0000"
"""The folder under ``functions/`` that holds the set a training starts from, where that is not the empty one."""


class Provenance(Record):
    """Where a function set comes from, and what was measured of it. Holds no path and no address of the machine."""

    run: str
    """The run folder's name."""
    task: str
    """The task's spec; of a path in it only the last part."""
    model: str
    """Who wrote the functions and called them."""
    seed: int
    agentopt_local: str | None
    """Version of this package, with the commit of its checkout where there was one."""
    commit: str | None
    started: str | None
    """When the training began, ISO 8601."""
    functions: str
    """Fingerprint of the set."""
    start: tuple[str, ...]
    """Functions that the training started with: these the model may have revised, but did not invent."""
    test: dict[str, Any] | None
    """``test`` of report.json: accuracy before and after on the same held-out problems, each with its 95 % interval,
    and their difference; None if this set was not evaluated."""


class Learned(Record):
    """A run's functions as the evaluation tested them."""

    functions: FunctionSet
    withheld: tuple[str, ...] = ()
    """Functions of the best accepted set that the agent did not get in the evaluation (``trainer.keep_only_used``)."""
    provenance: Provenance


def read_learned(run: Path) -> Learned:
    """The functions of the run folder ``run`` and where they come from. Raises RunDirError if it is no run folder."""
    config = read_json(run / "config.json")
    if not isinstance(config, dict):
        raise RunDirError(f"{run} is not a run folder: it has no config.json{nearby_runs(run)}")
    state = read_functions(run)
    report = read_json(run / "report.json")
    test = report.get("test") if isinstance(report, dict) else None
    tested = state
    if test is not None and test["n"] > 0:
        named = frozenset(row["name"] for row in report["functions"])
        tested = state.keeping(named)
        if len(tested) != len(named) or not evaluated(run, tested):
            tested, test = state, None  # the report is of another set
    else:
        test = None
    meta = read_json(run / "meta.json") or {}
    return Learned(
        functions=tested,
        withheld=tuple(name for name in state.names if name not in tested),
        provenance=Provenance(
            run=run.resolve().name,
            task=public_spec(config["task"]["spec"]),
            model=PurePath(config["model"]["name"]).name
            if config["model"]["name"].startswith(("/", "~", "."))
            else config["model"]["name"],
            seed=config.get("seed", 0),
            agentopt_local=meta.get("agentopt_local"),
            commit=meta.get("commit"),
            started=meta.get("started"),
            functions=tested.fingerprint,
            start=read_start(run).names,
            test=test,
        ),
    )


def read_functions(run: Path) -> FunctionSet:
    """The best accepted set so far; the start set before the first step. Raises RunDirError for another version's."""
    values = read_json(run / "state.json")
    if values is None:
        return read_start(run)
    try:
        return TrainState.model_validate(values).functions
    except ValidationError as error:
        raise RunDirError(f"{run}/state.json was written by another version: {error.errors()[0]['msg']}") from None


def read_start(run: Path) -> FunctionSet:
    """The set that the run's training starts from: empty unless ``start_functions`` was set."""
    files = sorted((run / "functions" / START).glob("*.py"))
    return FunctionSet.of(*(file.read_text(encoding="utf-8") for file in files))


def read_rollouts(run: Path) -> Iterator[tuple[str, Trajectory]]:
    """Every finished rollout with its stage, in order. A last line that is still being written is passed over."""
    try:
        with (run / "rollouts.jsonl").open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):
                    return
                try:
                    row = json.loads(line)
                except ValueError:
                    raise RunDirError(f"{run}/rollouts.jsonl, line {number} is not JSON") from None
                yield row["stage"], parse_trajectory(row, run)
    except FileNotFoundError:
        return


def evaluated(run: Path, functions: FunctionSet) -> bool:
    """Whether the set was rolled out on the test problems."""
    return any(
        stage.startswith("test") and each.functions == functions.fingerprint for stage, each in read_rollouts(run)
    )
