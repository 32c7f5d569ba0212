"""An open run folder: what a training writes, and what a resume reads back, strictly."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from agentopt_local.errors import RunDirError
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem, Split
from agentopt_local.record import Record
from agentopt_local.rollout import MemoryStore
from agentopt_local.run import files
from agentopt_local.run.contribution import Credit
from agentopt_local.run.parsing import json_rows, validated
from agentopt_local.run.reader import (
    NOISE_FLOOR,
    function_folders,
    read_start,
    read_state,
    rollout_row,
)
from agentopt_local.run.report import NoiseFloor, Report
from agentopt_local.run.rows import CertificateRow, CostRow, LookRow, MetricRow, ProposalRow, RolloutRow, StepRow
from agentopt_local.run.test_lock import check_locked, earlier_look, next_look, read_lock
from agentopt_local.stage import Stage
from agentopt_local.statistics import PairedDifference
from agentopt_local.train_state import TrainState
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import Update

R = TypeVar("R", bound=Record)


class RunDir:
    """An open run folder. It is the RolloutStore, the TrainingLog and the CostLog of the run."""

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
        else:
            files.check_run(path)
        self._lock = files.lock(path / files.LOCK)
        files.remove_leftovers(path)
        self._files: dict[str, IO[str]] = {}
        self._memory = MemoryStore()
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            for row in self.rollouts():
                self._memory.keep(row.trajectory, row.stage)
            on_error.pop_all()

    # Settings and metadata

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write the settings."""
        files.write_json(self.path / files.CONFIG, values)

    def write_task_rows(self, text: str) -> None:
        """Write the rows of the run's task, one JSON object per line."""
        files.write_atomically(self.path / files.TASK_ROWS, text)

    def meta(self) -> dict[str, Any] | None:
        """What was written down about the machine and the versions; None before that."""
        value = files.read_json(self.path / files.META)
        return value if isinstance(value, dict) else None

    def write_meta(self, values: Mapping[str, Any]) -> None:
        """Write down the machine and the versions."""
        files.write_json(self.path / files.META, values)

    def keep_noise_floor(self, floor: NoiseFloor) -> None:
        """Add the noise floor to what was written down about the machine and the versions."""
        self.write_meta({**(self.meta() or {}), NOISE_FLOOR: floor.model_dump(mode="json")})

    # Rollouts

    def known(self) -> frozenset[tuple[str, str, int]]:
        """The finished rollouts by functions' fingerprint, problem id and seed."""
        return frozenset(self._memory.trajectories)

    def find(self, functions: str, problem_id: str, seed: int) -> Trajectory | None:
        """The finished rollout with the set of this fingerprint, if there is one."""
        return self._memory.find(functions, problem_id, seed)

    def seen(self, view: str, problem_id: str, seed: int) -> Trajectory | None:
        """A finished rollout with this view of any set, if there is one."""
        return self._memory.seen(view, problem_id, seed)

    def keep(self, trajectory: Trajectory, stage: Stage) -> None:
        """Append a finished rollout."""
        self._append(files.ROLLOUTS, RolloutRow(stage=stage, trajectory=trajectory).on_disk())
        self._memory.keep(trajectory, stage)

    def rollouts(self) -> Iterator[RolloutRow]:
        """All finished rollouts in order."""
        for number, row in self._rows(files.ROLLOUTS):
            yield rollout_row(row, self.path, number)

    def keep_problems(self, split: Split, problems: Sequence[Problem]) -> None:
        """Write down the questions that rollouts refer to by id; known ones stay as they are.

        Test problems are locked. Raises ConfigError if they are not those that the run has been evaluated on.
        """
        if split == "test" and problems:
            files.write_json(self.path / files.TEST_SET, check_locked(self.path, problems).model_dump(mode="json"))
        known = {row.get("id") for _, row in self._rows(files.PROBLEMS)}
        for problem in problems:
            if problem.id not in known:
                row = {"split": split, **problem.model_dump(mode="json", exclude={"metadata"})}
                self._append(files.PROBLEMS, row)

    # Updates, steps and the state

    def proposals(self) -> dict[tuple[int, int], Update]:
        """The updates of all steps, by step and candidate."""
        remedy = "; delete it and the step is proposed anew"
        rows = self._validated(files.PROPOSALS, ProposalRow, remedy)
        return {(row.step, row.candidate): row.proposal for row in rows}

    def keep_proposal(self, step: int, candidate: int, update: Update) -> None:
        """Write down an update that ``step`` is going to try."""
        row = ProposalRow(step=step, candidate=candidate, proposal=update)
        self._append(files.PROPOSALS, row.model_dump(mode="json"), sync=True)

    def steps(self) -> list[StepRow]:
        """All finished steps."""
        return self._validated(files.STEPS, StepRow)

    def keep_step(self, row: StepRow) -> None:
        """Append a finished step."""
        self._append(files.STEPS, row.model_dump(mode="json"), sync=True)

    def keep_functions(self, step: int, functions: FunctionSet) -> None:
        """Write down the functions in force after ``step``; START is the set that the training starts from."""
        files.write_functions(files.functions_folder(self.path, step), functions)

    def keep_pruned_functions(self, functions: FunctionSet) -> None:
        """Write down the set that pruning left, in a folder after those of the steps."""
        last = max((step for step, _ in function_folders(self.path)), default=files.START)
        files.write_functions(files.functions_folder(self.path, last + 1), functions)

    def keep_state(self, state: TrainState) -> None:
        """Replace the trainer's state."""
        files.write_json(self.path / files.STATE, state.model_dump(mode="json"))

    def resume(self) -> TrainState:
        """The state after the last finished step; before that, one with the start set.

        Rows of later steps are dropped: the process that wrote them ended before it wrote their state.
        """
        state = read_state(self.path) or TrainState(functions=read_start(self.path))
        rows = self._validated(files.STEPS, StepRow)
        kept = [row for row in rows if row.step <= state.step]
        if len(kept) < len(rows):
            self._close(files.STEPS)
            text = "".join(json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n" for row in kept)
            files.write_atomically(self.path / files.STEPS, text)
        return state

    # Costs, metrics and the evaluation

    def costs(self) -> list[CostRow]:
        """All completions so far."""
        return self._validated(files.COSTS, CostRow)

    def keep_cost(self, row: CostRow) -> None:
        """Append one completion."""
        self._append(files.COSTS, row.model_dump(mode="json", exclude=None if row.lost else {"lost"}))

    def last_metric(self) -> MetricRow | None:
        """The last row of metrics; None if there is none."""
        return next(reversed(self._validated(files.METRICS, MetricRow)), None)

    def keep_metric(self, row: MetricRow) -> None:
        """Append a row of metrics."""
        self._append(files.METRICS, row.model_dump(mode="json", exclude_unset=True))

    def keep_look(self, functions: str, change: PairedDifference, purpose: str = "evaluation") -> int:
        """Log a look at the test problems, unless the set with this fingerprint was seen on them; returns its number.

        ``change`` compares it with the untrained agent.
        """
        logged = self._validated(files.LOOKS, LookRow)
        earlier = [] if logged else earlier_look(self.path)
        row, new = next_look([*earlier, *logged], functions, change, purpose)
        for each in [*earlier, *([row] if new else [])]:
            self._append(files.LOOKS, each.model_dump(mode="json"), sync=True)
        return row.look

    def test_set(self, n: int) -> str:
        """The hash of the first ``n`` test problems; empty before they are locked."""
        lock = read_lock(self.path)
        return "" if lock is None else lock.first(n)

    def certificates(self) -> dict[tuple[str, str], CertificateRow]:
        """The latest row of each comparison, by the fingerprints of the set and its baseline, in order of beginning."""
        rows = self._validated(files.CERTIFICATES, CertificateRow)
        return {(row.functions, row.baseline): row for row in rows}

    def keep_certificate(self, row: CertificateRow) -> None:
        """Append the row of a comparison that begins or has ended."""
        self._append(files.CERTIFICATES, row.model_dump(mode="json"), sync=True)

    def write_report(self, split: Split, report: Report) -> None:
        """Replace the evaluation on ``split``."""
        files.write_json(self.path / files.report_name(split), report.on_disk())

    def write_credit(self, credit: Credit) -> None:
        """Replace what each function contributes."""
        files.write_json(self.path / files.CREDIT, credit.model_dump(mode="json"))

    # Files

    @property
    def log_path(self) -> Path:
        """Where the run's log goes."""
        return self.path / files.LOG

    @property
    def events_path(self) -> Path:
        """The folder for TensorBoard's event files."""
        return self.path / files.EVENTS

    def close(self) -> None:
        """Close all files and release the lock. Safe to call twice."""
        for name in list(self._files):
            self._close(name)
        self._lock.close()

    def _append(self, name: str, row: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append one JSON line; ``sync`` also waits for the disk. Raises RunDirError if that fails."""
        if name not in self._files:
            self._files[name] = files.append_to(self.path / name)
        file = self._files[name]
        try:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
        except OSError as error:
            raise RunDirError(
                f"{self.path / name} cannot be written: {error.strerror}; make room, then: agentopt resume {self.path}"
            ) from None

    def _close(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            with contextlib.suppress(OSError):  # a full disk, which _append has reported already
                file.close()

    def _validated(self, name: str, kind: type[R], remedy: str = "") -> list[R]:
        path = self.path / name
        return [validated(kind, row, f"{path}, line {number}", remedy) for number, row in self._rows(name)]

    def _rows(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """The numbered rows of a JSONL file, after cutting off a last line that a kill tore."""
        path = self.path / name
        whole = files.whole_lines(path)
        if whole is not None:
            self._close(name)
            files.cut(path, whole)
        yield from json_rows(path)
