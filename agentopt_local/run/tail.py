"""What is being appended to a run folder by another process."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from agentopt_local.errors import FunctionError
from agentopt_local.json_text import read_kept
from agentopt_local.plain_files import MAX_LINE, open_plain
from agentopt_local.record import Record
from agentopt_local.run import files
from agentopt_local.run.parsing import tolerant
from agentopt_local.run.reader import read_noise_floor, read_report, read_state
from agentopt_local.run.report import NoiseFloor, Report
from agentopt_local.run.rows import MetricRow, StepRow

R = TypeVar("R", bound=Record)


class RunTail:
    """Follows a run without a lock and without leaving a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = Tail(path / files.METRICS, MetricRow)
        self._steps = Tail(path / files.STEPS, StepRow)

    def metrics(self) -> list[MetricRow]:
        """The rows of metrics since the last call."""
        return list(self._metrics.rows())

    def steps(self) -> list[StepRow]:
        """The steps since the last call."""
        return list(self._steps.rows())

    def noise_floor(self) -> NoiseFloor | None:
        """The noise floor, once it has been measured."""
        return read_noise_floor(self.path)

    def report(self) -> Report | None:
        """The evaluation of a run that has ended; None while training has not stopped or there is none yet."""
        state = read_state(self.path)
        return read_report(self.path) if state is not None and state.stopped is not None else None


class Tail(Generic[R]):
    """The rows that are appended to a JSONL file, whole lines only. Rows that do not fit are passed over."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self.kind = kind
        self._offset = 0
        self._inode = 0

    def rows(self) -> Iterator[R]:
        """The rows since the last call. A file that was replaced or cut is read from its start."""
        for line in self._lines():
            try:
                yield self.kind.model_validate(read_kept(tolerant(line)), extra="ignore")
            except (ValueError, FunctionError):
                continue

    def _lines(self) -> Iterator[bytes]:
        try:
            with os.fdopen(open_plain(self.path), "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                whole = file.read(MAX_LINE).rpartition(b"\n")[0]
        except OSError:
            return
        self._offset += len(whole) + 1 if whole else 0
        yield from io.BytesIO(whole)
