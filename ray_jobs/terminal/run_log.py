"""A run's log file."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

LOGGERS = ("agentopt", "agentopt_local", "serving", "ray_jobs")
"""What a run's log holds."""


def log_to(path: Path) -> logging.Handler:
    """Send the package's log lines to ``path``; the caller removes the handler."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # the run folder's own writes tell it
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
    return handler


def stop_logging(handler: logging.Handler) -> None:
    """Undo :func:`log_to`."""
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(handler)
    with suppress(OSError):  # a full disk
        handler.close()
