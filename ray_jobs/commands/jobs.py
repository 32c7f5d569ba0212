"""``agentopt train``, ``resume``, ``evaluate``, ``certify`` and ``serve``: the commands that use models."""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray_jobs.commands.running import finish, training_text
from ray_jobs.interrupts import interruptible
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import certificate_text, report_text, say


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
    add_certify(subparsers)
    add_serve(subparsers)


def add_certify(subparsers: Any) -> None:
    """Add ``certify`` to the command line."""
    certify = subparsers.add_parser(
        "certify",
        help="test whether a run's functions help, on problems that played no part in training",
        description="Compare the functions of RUN with another set on validation problems, one by one, until it is "
        "certain that they help, until more problems are lost than gained, or until the problems end. Every further "
        "pair of sets needs more evidence, because RUN has the same problems for all; the same pair again gives the "
        "same answer.",
    )
    certify.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    certify.add_argument(
        "--against",
        metavar="OTHER",
        help="another run of the same task and model, or 'untrained' for the agent without functions (default: what "
        "the training of RUN started from)",
    )
    certify.add_argument(
        "--n", type=int, metavar="N", help="most problems (default: the run's evaluation.n_validation)"
    )
    certify.add_argument(
        "--alpha",
        type=float,
        metavar="A",
        help="how often a set that does not help may be certified (default: the run's evaluation.alpha)",
    )
    certify.set_defaults(run=run_certify)


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
    from ray_jobs.lifecycle import create_run, show_sizes, train_run
    from ray_jobs.runs import kept

    config = load_config(arguments.config, rest)
    run_dir = asyncio.run(create_run(config))
    if kept(Path(config.run_dir)) != Path(config.run_dir):
        say(f"Ray deletes this working directory; the run is kept in {run_dir.path}", error=True)
    display = Display()
    show_sizes(config, display)
    return finish(run_dir, train_run(config, run_dir, display=display), show=partial(training_text, run_dir.path))


def run_resume(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt resume RUN``."""
    from ray_jobs.config import parse_overrides
    from ray_jobs.lifecycle import reopen, train_run

    config, run_dir = reopen(arguments.run_dir, parse_overrides(rest))
    return finish(run_dir, train_run(config, run_dir, display=Display()), show=partial(training_text, run_dir.path))


def run_evaluate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt evaluate RUN``."""
    from ray_jobs.lifecycle import evaluate_run, problems_to_evaluate, reopen
    from ray_jobs.runs import read_config

    n = problems_to_evaluate(read_config(arguments.run_dir), arguments.n)
    config, run_dir = reopen(arguments.run_dir)
    job = evaluate_run(config, run_dir, split=arguments.split, n=n, display=Display())
    return finish(run_dir, job, show=partial(report_text, split=arguments.split))


def run_certify(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt certify RUN``."""
    from ray_jobs.lifecycle import certify_run, check_certificate, reopen

    asked = {key: getattr(arguments, key) for key in ("against", "n", "alpha")}
    check_certificate(arguments.run_dir, **asked)
    config, run_dir = reopen(arguments.run_dir)
    job = certify_run(config, run_dir, **asked, display=Display())
    flags = [part for key, value in asked.items() if value is not None for part in (f"--{key}", str(value))]
    again = shlex.join(["agentopt", "certify", str(run_dir.path), *flags])
    return finish(run_dir, job, show=certificate_text, again=again)


def run_serve(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt serve CONFIG --engine.pool_name NAME``."""
    from ray_jobs import serve
    from ray_jobs.config import load_config

    config = load_config(arguments.config, rest)
    if arguments.stop:
        say(f"{serve.stop(config)} engines stopped")
        return 0
    display = Display()
    try:
        with display.live():
            asyncio.run(interruptible(serve.serve(config, display.on_progress)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        display.line("stopped")
    return 0
