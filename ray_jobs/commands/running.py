"""What commands share: exit codes, and running a job to its report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from agentopt_local.errors import AgentOptError, ConfigError
from agentopt_local.problem import Split
from agentopt_local.run.reader import read_credit
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

    return finish(run_dir, at_work(run_dir, job, display, forecast=config), split=split)


def finish(run_dir: RunDir, job: Coroutine[Any, Any, Report], *, split: Split = "test", credit: bool = False) -> int:
    """Run ``job``, which closes ``run_dir``; print its report and the run folder, and return the exit code.

    ``credit``: print what each function contributes too.
    """

    def shown(report: Report) -> Iterator[object]:
        yield report_text(report, split)
        if credit and (found := read_credit(run_dir.path)) is not None:
            yield found
        yield run_dir.path

    return conclude(run_dir, job, shown)


def conclude(
    run_dir: RunDir, job: Coroutine[Any, Any, T], show: Callable[[T], Iterable[object]], *, again: str = "resume"
) -> int:
    """Run ``job``, which closes ``run_dir``; print what ``show`` makes of its result, and return the exit code.

    ``again``: the command that continues after an interruption.
    """
    try:
        result = asyncio.run(interruptible(job))
    except (asyncio.CancelledError, KeyboardInterrupt):
        say(f"To continue: agentopt {again} {run_dir.path}")
        return INTERRUPTED
    except AgentOptError as error:
        error_line(str(error))
        say(f"To continue: agentopt {again} {run_dir.path}")
        return USER_MISTAKE if isinstance(error, ConfigError) else FAILED
    for text in show(result):
        say(text)
    return 0
