"""What commands share: exit codes, and running a job to its report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentopt_local.errors import AgentOptError, ConfigError
from agentopt_local.problem import Split
from agentopt_local.run.credits import read_credit
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from ray_jobs.interrupts import interruptible
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import error_line, report_text, say

if TYPE_CHECKING:
    from ray_jobs.config import RunConfig

T = TypeVar("T")
FAILED = 1
USER_MISTAKE = 2
INTERRUPTED = 130


def run_job(
    run_dir: RunDir,
    display: Display,
    job: Coroutine[Any, Any, Report],
    *,
    split: Split = "test",
    config: RunConfig | None = None,
) -> int:
    """Run ``job`` with a live display and a log; print its report and the run folder, and return the exit code.

    ``split`` is the one that the report is about. ``config`` is given for a training, whose duration is forecast.
    Closes ``run_dir``.
    """
    from ray_jobs.lifecycle import at_work

    return finish(run_dir, at_work(run_dir, job, display, forecast=config), show=partial(report_text, split=split))


def training_text(run: Path, report: Report) -> str:
    """The report of a training and, if that was measured, what each function contributes."""
    found = read_credit(run)
    if found is None:
        return report_text(report)
    return f"{report_text(report.model_copy(update={'memorising': ()}))}\n{found}"


def finish(run_dir: RunDir, job: Coroutine[Any, Any, T], *, show: Callable[[T], str], again: str = "") -> int:
    """Run ``job``, which closes ``run_dir``; print what ``show`` makes of its result and the run folder.

    Returns the exit code. ``again``: the command that continues an interrupted job, if it is not ``agentopt resume``.
    """
    again = again or f"agentopt resume {run_dir.path}"
    try:
        result = asyncio.run(interruptible(job))
    except (asyncio.CancelledError, KeyboardInterrupt):
        say(f"To continue: {again}")
        return INTERRUPTED
    except AgentOptError as error:
        error_line(str(error))
        say(f"To continue: {again}")
        return USER_MISTAKE if isinstance(error, ConfigError) else FAILED
    say(show(result))
    say(run_dir.path)
    return 0
