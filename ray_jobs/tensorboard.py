"""A run's metrics as TensorBoard event files, if the ``tensorboard`` package is installed.

    pip install 'agentopt-local[tensorboard]'
    tensorboard --logdir runs

The package is optional. Throughput and the accuracy of each kind of stage are plotted over the seconds of work, the
results of a step over its number.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from agentopt_local.plain_text import printable
from agentopt_local.run.rows import MetricRow

log = logging.getLogger(__name__)
FLUSH_S = 10
"""Seconds after which rows are flushed to disk."""


def open_events(folder: Path, package: str = "tensorboard") -> EventFiles | None:
    """A writer of event files in ``folder``; None if ``package`` is missing or cannot be imported."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return EventFiles(folder)
    except ImportError as error:
        log.warning("no TensorBoard files are written: %s", error)
        return None


class EventFiles:
    """Writes rows of metrics.jsonl as scalars. A resumed run adds a file; TensorBoard shows them as one run."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._files = EventFileWriter(str(folder), flush_secs=FLUSH_S)

    def write(self, row: MetricRow) -> None:
        """One row."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        at, values = scalars(row)
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._files.add_event(Event(wall_time=row.time, step=at, summary=summary))

    def close(self) -> None:
        """Flush and close the file."""
        self._files.close()


def scalars(row: MetricRow) -> tuple[int, dict[str, float]]:
    """Where a row stands on its axis, and its named values."""
    if row.decision is not None:
        values = {
            "step/accuracy_before": row.accuracy_before,
            "step/accuracy_tried": row.accuracy,
            "step/accepted": float(row.decision == "accepted"),
        }
        return row.step, {tag: value for tag, value in values.items() if value is not None}
    values = {
        f"rollouts/accuracy/{printable(row.stage.kind).replace(' ', '_')}": row.accuracy,
        "throughput/tokens_per_s": row.tokens_per_s,
        "throughput/cached_share": row.cached,
        "throughput/tokens": float(row.tokens),
    }
    return round(row.seconds), {tag: value for tag, value in values.items() if value is not None}
