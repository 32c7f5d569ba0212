"""A run's folder: everything that a training leaves, written so that a kill at any moment loses nothing finished.

::

    config.json      the resolved settings; ``agentopt resume`` reads nothing else
    meta.json        versions, commit, device, sandbox layers, prompt hashes
    problems.jsonl   the questions and expected answers, so that a report needs no data set
    state.json       the trainer's state after the last finished step (replaced atomically)
    steps.jsonl      one line per step: actions, decision, scores before and after, tokens, seconds
    proposals.jsonl  the update that each step tries, written before it is tried
    rollouts.jsonl   every finished rollout, as soon as it is graded
    costs.jsonl      every completion: tokens and money, by role
    metrics.jsonl    one line per finished step and per few seconds of work: accuracy, tokens, throughput
    functions/0003/  one .py file per function after each accepted step: ``diff -r`` shows what was learned
    report.json      the evaluation
    run.log          what happened, in plain lines
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from agentopt_local.errors import RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.optimizer import Proposal
from agentopt_local.problem import Problem, Split
from agentopt_local.trajectory import Trajectory


class RunDir:
    """An open run folder. Also the RolloutStore of the run."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open ``path`` for writing and lock it against other processes.

        Raises RunDirError if it does not exist (or, with ``create``, does), or another process has it open.
        """
        self.path = path
        if create:
            try:
                path.mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                raise RunDirError(f"{path} exists already; resume it, or choose another run.dir") from None
            except OSError as error:
                raise RunDirError(f"{path} cannot be made: {error.strerror}") from None
        elif not (path / "config.json").is_file():
            raise RunDirError(f"{path} is not a run folder: it has no config.json{nearby_runs(path)}")
        self._lock = lock(path / ".lock")
        self._files: dict[str, IO[str]] = {}
        self._trajectories: dict[tuple[str, str, int], Trajectory] = {}
        try:
            for row in self._mend("rollouts.jsonl"):
                trajectory = parse_trajectory(row, path)
                self._trajectories[trajectory.functions, trajectory.problem_id, trajectory.seed] = trajectory
        except RunDirError:
            self.close()
            raise

    # Rollouts

    def find(self, functions: str, problem_id: str, seed: int) -> Trajectory | None:
        """The finished rollout with this key, if there is one."""
        return self._trajectories.get((functions, problem_id, seed))

    def keep(self, trajectory: Trajectory, stage: str) -> None:
        """Append a finished rollout."""
        self.append("rollouts.jsonl", {"stage": stage, **trajectory.model_dump(mode="json")})
        self._trajectories[trajectory.functions, trajectory.problem_id, trajectory.seed] = trajectory

    def keep_problems(self, split: Split, problems: Sequence[Problem]) -> None:
        """Write down the questions that rollouts name by their id; those that are there already stay as they are."""
        known = {row["id"] for row in self._mend("problems.jsonl")}
        for problem in problems:
            if problem.id not in known:
                self.append("problems.jsonl", {"split": split, **problem.model_dump(mode="json", exclude={"metadata"})})

    # Proposals and steps

    def proposals(self) -> dict[tuple[int, int], Proposal]:
        """Updates by step and candidate, of all steps that got so far."""
        try:
            return {
                (row["step"], row.get("candidate", 0)): Proposal.model_validate(row["proposal"])
                for row in self._mend("proposals.jsonl")
            }
        except (ValidationError, KeyError, TypeError):
            raise RunDirError(
                f"{self.path}/proposals.jsonl was written by another version; delete it and the step is proposed anew"
            ) from None

    def keep_proposal(self, step: int, candidate: int, proposal: Proposal) -> None:
        """Write down an update that ``step`` is going to try."""
        row = {"step": step, "candidate": candidate, "proposal": proposal.model_dump(mode="json")}
        self.append("proposals.jsonl", row, sync=True)

    def steps(self) -> list[dict[str, Any]]:
        """All rows of steps.jsonl."""
        return list(self._mend("steps.jsonl"))

    def keep_step(self, row: dict[str, Any]) -> None:
        """Append a finished step."""
        self.append("steps.jsonl", row, sync=True)

    def last_metric(self) -> dict[str, Any] | None:
        """The last row of metrics.jsonl; None if there is none."""
        return next(reversed(list(self._mend("metrics.jsonl"))), None)

    def drop_steps_after(self, step: int) -> None:
        """Forget rows of steps beyond ``step``: the process ended before their state was written."""
        rows = [row for row in self.steps() if row["step"] <= step]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._close("steps.jsonl")
        write_atomically(self.path / "steps.jsonl", text)

    # Costs

    def costs(self) -> list[dict[str, Any]]:
        """All rows of costs.jsonl."""
        return list(self._mend("costs.jsonl"))

    def keep_cost(self, row: dict[str, Any]) -> None:
        """Append one request's tokens and money."""
        self.append("costs.jsonl", row)

    def rollouts_by_stage(self) -> dict[str, list[Trajectory]]:
        """All finished rollouts by the stage that they were run for."""
        stages: dict[str, list[Trajectory]] = {}
        for row in self._mend("rollouts.jsonl"):
            stages.setdefault(row["stage"], []).append(parse_trajectory(row, self.path))
        return stages

    # Files

    def read_json(self, name: str) -> Any:
        """The content of a JSON file; None if it does not exist. Raises RunDirError if it is damaged."""
        return read_json(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file atomically."""
        write_atomically(self.path / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_functions(self, step: int, functions: FunctionSet) -> None:
        """Write ``functions/<step>/*.py``."""
        write_functions(self.path / "functions" / f"{step:04d}", functions)

    def append(self, name: str, row: dict[str, Any], *, sync: bool = False) -> None:
        """Append one JSON line; ``sync`` also waits for the disk. Raises RunDirError if the disk refuses."""
        try:
            if name not in self._files:
                self._files[name] = (self.path / name).open("a", encoding="utf-8", errors="backslashreplace")
            file = self._files[name]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
        except OSError as error:
            raise RunDirError(
                f"{self.path / name} cannot be written: {error.strerror}; make room, then: agentopt resume {self.path}"
            ) from None

    def close(self) -> None:
        """Close all files and release the lock. Safe to call twice."""
        for name in list(self._files):
            self._close(name)
        self._lock.close()

    def _close(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            with contextlib.suppress(OSError):  # a full disk, which append has told already
                file.close()

    def _mend(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of a JSONL file, after cutting off a last line that a kill tore."""
        path = self.path / name
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            self._close(name)
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise RunDirError(f"{path}, line {number} is not JSON; restore the file or delete that line") from None


def lock(path: Path) -> IO[str]:
    """An open file whose lock this process holds; the kernel releases it when the process ends, however it ends."""
    try:
        file = path.open("w")
    except OSError as error:
        raise RunDirError(f"{path.parent} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RunDirError(f"{path.parent} is in use by another agentopt process") from None
    return file


def parse_trajectory(row: dict[str, Any], path: Path) -> Trajectory:
    """A row of rollouts.jsonl as a value."""
    try:
        return Trajectory.model_validate({key: value for key, value in row.items() if key != "stage"})
    except ValidationError as error:
        raise RunDirError(f"{path}/rollouts.jsonl was written by another version: {error.errors()[0]['msg']}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunDirError(f"{path} is damaged ({error}); restore it or start a new run") from None


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` so that a reader, or a kill, sees either the old content or the new."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunDirError(f"{path} cannot be written: {error.strerror}") from None


def write_functions(folder: Path, functions: FunctionSet) -> None:
    """One ``NAME.py`` per function, in a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        for function in functions.each():
            (folder / f"{function.name}.py").write_text(function.source, encoding="utf-8")
    except OSError as error:
        raise RunDirError(f"{folder} cannot be written: {error.strerror}") from None


def nearby_runs(path: Path) -> str:
    """A hint that names the newest run beside ``path``, if there is one."""
    runs = sorted(path.parent.glob("*/config.json"), key=lambda each: each.stat().st_mtime, reverse=True)
    return f"; the newest run there is {runs[0].parent}" if runs else ""
