"""``agentopt train``, ``resume``, ``evaluate`` and ``serve``: the commands that use models."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from ray_jobs.commands.running import check_model, interruptible, run_job
from ray_jobs.terminal.display import Display

if TYPE_CHECKING:
    from agentopt_local.run.writer import RunDir
    from ray_jobs.config import RunConfig


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module to the command line."""
    train = subparsers.add_parser(
        "train",
        help="train a function set, evaluate it and print a report",
        description="Train a function set with the settings in CONFIG, evaluate it on held-out problems, and write a "
        "run folder.",
        epilog="Any setting can be overridden: --trainer.max_epochs 3 --model.name qwen2.5-coder-0.5b",
        allow_abbrev=False,
    )
    train.add_argument("config", type=Path, metavar="CONFIG", help="a .toml file; see ray_jobs/configs/ for examples")
    train.set_defaults(run=run_train, takes_settings=True)

    resume = subparsers.add_parser("resume", help="continue a run that was interrupted, killed or out of budget")
    resume.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    resume.epilog = "A run that is out of budget continues with a larger one: --budget.max_cost 20"
    resume.set_defaults(run=run_resume, takes_settings=True)

    evaluate = subparsers.add_parser("evaluate", help="compare a run's functions with none, on the same problems")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    evaluate.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="where the problems come from"
    )
    evaluate.add_argument("--n", type=int, metavar="N", help="number of problems (default: the run's task.n_test)")
    evaluate.set_defaults(run=run_evaluate)
    add_serve(subparsers)


def add_serve(subparsers: Any) -> None:
    """Add ``serve`` to the command line."""
    serve = subparsers.add_parser(
        "serve",
        help="keep engines running under a name, for runs to join",
        description="Start the engines of CONFIG and keep them running under engine.pool_name until interrupted.",
        epilog="Then, as often as you like, run: agentopt train CONFIG --engine.pool_name NAME",
        allow_abbrev=False,
    )
    serve.add_argument("config", type=Path, metavar="CONFIG", help="a .toml file, as for train")
    serve.add_argument("--stop", action="store_true", help="stop the running engines of that name instead")
    serve.set_defaults(run=run_serve, takes_settings=True)


def run_train(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt train CONFIG [--key value ...]``."""
    from ray_jobs.config import load_config
    from ray_jobs.runs import kept, new_run
    from ray_jobs.session import task_of
    from ray_jobs.start_functions import start_set

    config = load_config(arguments.config, rest)
    check_model(config)
    task_of(config)  # before creating a run folder that could never be resumed
    run_dir = new_run(config, start_set(config))
    if kept(Path(config.run_dir)) != Path(config.run_dir):
        print(f"Ray deletes this working directory; the run is kept in {run_dir.path}", file=sys.stderr)
    return run_training(config, run_dir)


def run_resume(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt resume RUN``."""
    from agentopt_local.run.writer import RunDir
    from ray_jobs.config import with_budget
    from ray_jobs.runs import read_config

    config = with_budget(read_config(arguments.run_dir), rest)
    check_model(config)
    run_dir = RunDir(arguments.run_dir)
    if rest:
        run_dir.write_config(config.model_dump(mode="json"))
    return run_training(config, run_dir)


def run_training(config: RunConfig, run_dir: RunDir) -> int:
    """Train, or continue training, with a live display."""
    from ray_jobs.training import train

    display = Display()
    display.view.max_steps = config.trainer.max_epochs
    for row in run_dir.steps():  # those of a run that is continued
        display.view.step(row)
    job = train(config, run_dir, progress=display.progress, on_step=display.step, on_metrics=display.metrics)
    return run_job(run_dir, display, job, config=config)


def run_evaluate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt evaluate RUN``."""
    from agentopt_local.run.writer import RunDir
    from ray_jobs.evaluation import evaluate
    from ray_jobs.runs import read_config

    config = read_config(arguments.run_dir)
    check_model(config)
    n = config.task.n_test if arguments.n is None else arguments.n
    if n < 1:
        raise ConfigError(f"--n {n}: evaluate on at least one problem")
    run_dir = RunDir(arguments.run_dir)
    display = Display()
    job = evaluate(config, run_dir, split=arguments.split, n=n, progress=display.progress, on_metrics=display.metrics)
    return run_job(run_dir, display, job, split=arguments.split)


def run_serve(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt serve CONFIG --engine.pool_name NAME``."""
    from ray_jobs import serve
    from ray_jobs.config import load_config

    config = load_config(arguments.config, rest)
    if arguments.stop:
        print(f"{serve.stop(config)} engines stopped")
        return 0
    display = Display()
    try:
        with display.live():
            asyncio.run(interruptible(serve.serve(config, display.progress)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        display.line("stopped")
    return 0
