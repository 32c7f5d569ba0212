"""What commands share: exit codes, and running a job with a display, a log and signal handlers."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from agentopt_local.errors import AgentOptError, ConfigError
from agentopt_local.problem import Split
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import error_line, report_text
from ray_jobs.terminal.run_log import log_to, stop_logging

if TYPE_CHECKING:
    from ray_jobs.config import RunConfig

T = TypeVar("T")
FAILED = 1
USER_MISTAKE = 2
INTERRUPTED = 130


def check_model(config: RunConfig) -> None:
    """Raise ConfigError if a model to be hosted is not on this machine, before anything is started."""
    from serving.model_store import resolve

    hosted = [(config.model, config.engine), (config.optimizer_model, config.optimizer_engine or config.engine)]
    for model, engine in hosted:
        if model is not None and model.base_url is None and engine.pool_name is None:
            resolve(model.name, allow_fetch=False)


def print_forecast(config: RunConfig, display: Display, *, steps: int) -> None:
    """Before a training, print how fast the model is on this processor and how long the training will take.

    ``steps`` have been finished before. Prints nothing if the model runs elsewhere. Raises ConfigError or
    EngineDeadError if this processor cannot run it.
    """
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
    handler = log_to(run_dir.log_path)
    try:
        if config is not None:
            print_forecast(config, display, steps=len(run_dir.steps()))
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
        job.close()  # in case it was never started
        stop_logging(handler)
        run_dir.close()
    print(report_text(report, split))
    print(run_dir.path)
    return 0


async def interruptible(job: Coroutine[Any, Any, T]) -> T:
    """Await ``job``, cancelling it on SIGTERM or Ctrl-C so that engines and sandboxes are shut down in order.

    Only the first signal counts: a terminal, a shell and a scheduler may each send one.
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
