"""What commands that run a job have in common: exit codes, signals, a display and a log."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from agentopt_local.errors import AgentOptError, ConfigError
from agentopt_local.problem import Split
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.run_log import log_to, stop_logging
from ray_jobs.terminal.text import error_line, report_text

T = TypeVar("T")
FAILED = 1
USER_MISTAKE = 2
INTERRUPTED = 130


def check_model(config: Any) -> None:
    """Raise ConfigError before anything starts if a hosted model is not on this machine."""
    from serving.model_store import resolve

    hosted = [(config.model, config.engine), (config.optimizer_model, config.optimizer_engine or config.engine)]
    for model, engine in hosted:
        if model is not None and model.base_url is None and engine.pool_name is None:
            resolve(model.name, allow_fetch=False)


def foretell(config: Any, display: Display, *, steps: int) -> None:
    """Say how fast the model will be on this processor, and how long the training will take, before either begins."""
    from ray_jobs.forecast import Forecast, expectations, speed_here
    from ray_jobs.terminal.live import duration

    speed = speed_here(config)
    if speed is None:
        return
    for line in expectations(config, speed):
        display.line(line)
    seconds = Forecast(config, speed, steps=steps).seconds()
    if seconds is not None and not config.trainer.count_accepted:
        display.line(f"the training will take at most about {duration(seconds)} here")


def watched(
    run_dir: RunDir,
    display: Display,
    job: Coroutine[Any, Any, Report],
    *,
    split: Split = "test",
    config: Any = None,
) -> int:
    """Run ``job`` with a live display and the run's log; print its report, and the run folder last.

    ``config``: of a training, whose duration is foretold.
    """
    handler = log_to(run_dir.log_path)
    try:
        if config is not None:
            foretell(config, display, steps=len(run_dir.steps()))
        with display.live():
            report = asyncio.run(interruptible(job))
    except (asyncio.CancelledError, KeyboardInterrupt):
        display.line("interrupted")
        print(f"To continue: agentopt resume {run_dir.path}")
        return INTERRUPTED
    except AgentOptError as error:
        logging.getLogger("agentopt").error("%s", error)
        error_line(str(error))
        print(f"To continue: agentopt resume {run_dir.path}")
        return USER_MISTAKE if isinstance(error, ConfigError) else FAILED
    finally:
        job.close()  # it has not begun where the forecast was interrupted
        stop_logging(handler)
        run_dir.close()
    print(report_text(report, split))
    print(run_dir.path)
    return 0


async def interruptible(job: Coroutine[Any, Any, T]) -> T:
    """``job``, cancelled by SIGTERM as Ctrl-C does, so that engines and sandboxes are ended in order.

    Further signals do not cut the ending short: a terminal, a shell and a scheduler may all send one.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(job)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return await task
