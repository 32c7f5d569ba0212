"""The log file of a run."""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from agentopt_local.plain_text import PrintableFormatter
from agentopt_local.run.files import append_to

LOGGERS = ("agentopt", "agentopt_local", "serving", "ray_jobs")
"""The loggers whose messages go to a run's log."""


_logged: ContextVar[Path | None] = ContextVar("logged", default=None)
"""The log of the run that a task works for."""


def log_to(path: Path) -> logging.StreamHandler[IO[str]]:
    """Write the packages' log messages to ``path`` until :func:`stop_logging` is called with the handler: those of the
    task that calls this and of the tasks that it starts, and those of no run."""
    _logged.set(path)
    handler = logging.StreamHandler(append_to(path))
    handler.addFilter(lambda record: _logged.get() in (None, path))
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk is reported by the run folder's own writes
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
    return handler


def stop_logging(handler: logging.StreamHandler[IO[str]]) -> None:
    """Undo :func:`log_to`."""
    _logged.set(None)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.removeHandler(handler)
        if not logger.handlers:  # no other run of this process is logged
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
    with suppress(OSError):  # a full disk
        handler.close()
        handler.stream.close()
