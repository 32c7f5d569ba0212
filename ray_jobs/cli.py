"""The ``agentopt`` command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from agentopt_local import __version__
from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from ray_jobs.display import Display, error_line, functions_diff, log_to, report_text, stop_logging

USER_MISTAKE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done, 1: failed, 2: the user's mistake, 130: interrupted (a run can be resumed)."""
    arguments, rest = parser().parse_known_args(argv)
    try:
        if rest and arguments.command != "train":
            raise ConfigError(f"{' '.join(rest)!r} is not understood; see agentopt {arguments.command} --help")
        return int(arguments.run(arguments, rest))
    except (ConfigError, RunDirError) as error:
        error_line(str(error))
        return USER_MISTAKE
    except AgentOptError as error:
        error_line(str(error))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left, as `agentopt show | head` does
        return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="agentopt", description="Train LLM agents offline by learning their functions.")
    top.add_argument("--version", action="version", version=f"agentopt {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train, evaluate and report",
        description="Train a function set as CONFIG says, evaluate it on held-out problems, and write a run folder.",
        epilog="Any setting of CONFIG can be overridden: --trainer.max_epochs 3 --model.name qwen2.5-coder-0.5b",
        allow_abbrev=False,
    )
    train.add_argument("config", type=Path, metavar="CONFIG", help="a .toml file; ray_jobs/configs/ has examples")
    train.set_defaults(run=run_train)

    resume = commands.add_parser("resume", help="continue a run that was interrupted or killed")
    resume.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    resume.set_defaults(run=run_resume)

    evaluate = commands.add_parser("evaluate", help="measure a run's functions against none, on the same problems")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN")
    evaluate.add_argument("--split", choices=("train", "validation", "test"), default="test")
    evaluate.add_argument("--n", type=int, metavar="N", help="problems; as many as the run's n_test if left out")
    evaluate.set_defaults(run=run_evaluate)

    show = commands.add_parser("show", help="the functions that a run learned, and how each step changed them")
    show.add_argument("run_dir", type=Path, metavar="RUN")
    show.add_argument("--diff", action="store_true", help="what each accepted step changed")
    show.set_defaults(run=run_show)

    report = commands.add_parser("report", help="write a run's report, or a comparison of several, as one HTML file")
    report.add_argument("run_dirs", type=Path, metavar="RUN", nargs="+", help="the run's folder; several are compared")
    report.add_argument("--output", type=Path, metavar="FILE", help="RUN/report.html if left out")
    report.add_argument("--open", action="store_true", help="show it in a browser")
    report.set_defaults(run=run_report)

    watch = commands.add_parser("watch", help="follow a run from another terminal, or look at a finished one")
    watch.add_argument("run_dir", type=Path, metavar="RUN")
    watch.set_defaults(run=run_watch)

    doctor = commands.add_parser("doctor", help="check this machine and say what is missing")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=run_doctor)

    models = commands.add_parser("models", help="list, fetch and find embedded models")
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="embedded models and which are here")
    for name, text in (("pull", "fetch a model into the cache"), ("path", "where a model lies")):
        actions.add_parser(name, help=text).add_argument("name", metavar="NAME")
    models.set_defaults(run=run_models)
    return top


def run_train(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt train CONFIG [--key value ...]``."""
    from ray_jobs.config import load_config
    from ray_jobs.session import task_of
    from ray_jobs.train import new_run

    config = load_config(arguments.config, rest)
    check_model(config)
    task_of(config)  # before there is a run folder that could never be resumed
    run_dir = new_run(config)
    return run_training(config, run_dir)


def run_resume(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt resume RUN``."""
    from agentopt_local.run_dir import RunDir
    from ray_jobs.train import read_config

    config = read_config(arguments.run_dir)
    check_model(config)
    run_dir = RunDir(arguments.run_dir)
    return run_training(config, run_dir)


def run_training(config: Any, run_dir: Any) -> int:
    """Train with a live display."""
    from ray_jobs.train import train

    display = Display()
    display.view.max_steps = config.trainer.max_epochs
    for row in run_dir.steps():  # of a run that is continued
        display.view.step(row)
    job = train(config, run_dir, progress=display.progress, on_step=display.step, on_metrics=display.metrics)
    return watched(run_dir, display, job)


def run_evaluate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt evaluate RUN``."""
    from agentopt_local.run_dir import RunDir
    from ray_jobs.evaluate import evaluate
    from ray_jobs.train import read_config

    config = read_config(arguments.run_dir)
    check_model(config)
    n = config.task.n_test if arguments.n is None else arguments.n
    if n < 1:
        raise ConfigError(f"--n {n}: give at least one problem to evaluate on")
    run_dir = RunDir(arguments.run_dir)
    display = Display()
    job = evaluate(config, run_dir, split=arguments.split, n=n, progress=display.progress, on_metrics=display.metrics)
    return watched(run_dir, display, job, split=arguments.split)


def check_model(config: Any) -> None:
    """Raise ConfigError before anything starts if the hosted model is not on this machine."""
    if config.model.base_url is None:
        from serving.model_store import resolve

        resolve(config.model.name, allow_fetch=False)


def watched(run_dir: Any, display: Display, job: Coroutine[Any, Any, dict[str, Any]], *, split: str = "test") -> int:
    """Run ``job`` with a live display and the run's log; print its report, and the run folder last."""
    handler = log_to(run_dir.path / "run.log")
    try:
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
        return USER_MISTAKE if isinstance(error, ConfigError) else 1
    finally:
        stop_logging(handler)
        run_dir.close()
    print(report_text(report, split))
    print(run_dir.path)
    return 0


async def interruptible(job: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """``job``, cancelled by SIGTERM as Ctrl-C does, so that engines and sandboxes are ended in order."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(job)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    return await task


def run_show(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt show RUN [--diff]``."""
    from agentopt_local.run_dir import read_json
    from agentopt_local.trainer import TrainState
    from ray_jobs.train import read_config

    path = arguments.run_dir
    read_config(path)
    if arguments.diff:
        old = None
        for folder in sorted((path / "functions").glob("[0-9]*")):
            print(f"# step {int(folder.name)}")
            print(functions_diff(old, folder))
            old = folder
        return 0
    values = read_json(path / "state.json")
    state = TrainState() if values is None else TrainState.model_validate(values)
    for function in state.functions.each():
        print(function.source)
    if not state.functions.functions:
        print("No function was learned (yet).", file=sys.stderr)
    report = read_json(path / "report.json")
    if report is not None:
        print(report_text(report), file=sys.stderr)
    return 0


def run_report(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt report RUN [RUN ...]``."""
    from ray_jobs.report import report

    return report(arguments.run_dirs, output=arguments.output, open_it=arguments.open)


def run_watch(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt watch RUN``."""
    try:
        from ray_jobs.watch import watch

        return watch(arguments.run_dir)
    except KeyboardInterrupt:
        return 0  # how one stops looking


def run_doctor(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt doctor``."""
    from ray_jobs.doctor import doctor

    return doctor(json_output=arguments.json)


def run_models(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt models list | pull NAME | path NAME``."""
    from ray_jobs import models

    if arguments.action == "list":
        return models.models_list()
    return (models.models_pull if arguments.action == "pull" else models.models_path)(arguments.name)


if __name__ == "__main__":
    sys.exit(main())
