"""What commands share: exit codes, and running a job to its report."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import AgentOptError, ConfigError
from agentopt_local.problem import Split
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from ray_jobs.interrupts import interruptible
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import error_line, report_text, say

if TYPE_CHECKING:
    from ray_jobs.config import RunConfig

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

    return finish(run_dir, at_work(run_dir, job, display, forecast=config), split=split)


def finish(run_dir: RunDir, job: Coroutine[Any, Any, Report], *, split: Split = "test") -> int:
    """Run ``job``, which closes ``run_dir``; print its report and the run folder, and return the exit code."""
    try:
        report = asyncio.run(interruptible(job))
    except (asyncio.CancelledError, KeyboardInterrupt):
        say(f"To continue: agentopt resume {run_dir.path}")
        return INTERRUPTED
    except AgentOptError as error:
        error_line(str(error))
        say(f"To continue: agentopt resume {run_dir.path}")
        return USER_MISTAKE if isinstance(error, ConfigError) else FAILED
    say(report_text(report, split))
    say(run_dir.path)
    return 0
