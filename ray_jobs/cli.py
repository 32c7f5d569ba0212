"""The ``agentopt`` command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agentopt_local import __version__
from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from ray_jobs import ask, export
from ray_jobs.display import Display, error_line, functions_diff, log_to, report_text, stop_logging

T = TypeVar("T")
USER_MISTAKE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done, 1: failed, 2: the user's mistake, 130: interrupted (a run can be resumed)."""
    words, settings = split_settings(sys.argv[1:] if argv is None else argv)
    arguments, rest = parser().parse_known_args(words)
    rest += settings
    try:
        if rest and not hasattr(arguments, "takes_settings"):
            raise ConfigError(f"{' '.join(rest)!r} is not understood; see agentopt {arguments.command} --help")
        return int(arguments.run(arguments, rest))
    except (ConfigError, RunDirError) as error:
        error_line(str(error))
        return USER_MISTAKE
    except AgentOptError as error:
        error_line(str(error))
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left, as `agentopt show | head` does
        return 0


def split_settings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """``argv`` without its ``--section.key value`` pairs, and these: their values are no arguments of a command."""
    words, settings = [], []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name.startswith("--") and "." in name:
            settings += [word] if equals else [word, *rest[:1]]
            rest = rest if equals else rest[1:]
        else:
            words.append(word)
    return words, settings


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
    train.set_defaults(run=run_train, takes_settings=True)

    resume = commands.add_parser("resume", help="continue a run that was interrupted or killed")
    resume.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    resume.epilog = "A run whose budget was used up continues with a larger one: --budget.max_cost 20"
    resume.set_defaults(run=run_resume, takes_settings=True)

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
    serve = commands.add_parser(
        "serve",
        help="keep engines alive under a name, for many runs",
        description="Load the engines of CONFIG once and keep them under engine.pool_name until interrupted.",
        epilog="Then, as often as you like: agentopt train CONFIG --engine.pool_name NAME",
        allow_abbrev=False,
    )
    serve.add_argument("config", type=Path, metavar="CONFIG", help="a .toml file, as for train")
    serve.add_argument("--stop", action="store_true", help="end the engines that have the name instead")
    serve.set_defaults(run=run_serve, takes_settings=True)
    grade = commands.add_parser(
        "grade",
        help="judge a file of answers",
        description='Grade rows {"gold": ..., "prediction": ...} and write them with "correct" and "reason", in order.',
    )
    grade.add_argument("task", metavar="TASK", help="math, math_exact, tabmwp, gaia or gsm8k")
    grade.add_argument("file", type=Path, metavar="FILE", help="one JSON object per line; - reads standard input")
    grade.add_argument("--lenient", action="store_true", help="mend the official rule where it is known to be wrong")
    grade.add_argument("--output", type=Path, metavar="FILE", help="write there; to standard output if left out")
    grade.set_defaults(run=run_grade)
    ask.add_commands(commands)
    export.add_commands(commands)

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
    from ray_jobs.train import kept, new_run

    config = load_config(arguments.config, rest)
    check_model(config)
    task_of(config)  # before there is a run folder that could never be resumed
    run_dir = new_run(config, export.start_set(config))
    if kept(Path(config.run_dir)) != Path(config.run_dir):
        print(f"Ray deletes this working directory; the run is kept in {run_dir.path}", file=sys.stderr)
    return run_training(config, run_dir)


def run_resume(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt resume RUN``."""
    from agentopt_local.run_dir import RunDir
    from ray_jobs.config import with_budget
    from ray_jobs.train import read_config

    config = with_budget(read_config(arguments.run_dir), rest)
    check_model(config)
    run_dir = RunDir(arguments.run_dir)
    if rest:
        run_dir.write_json("config.json", config.model_dump(mode="json"))
    return run_training(config, run_dir)


def run_training(config: Any, run_dir: Any) -> int:
    """Train with a live display."""
    from ray_jobs.train import train

    display = Display()
    display.view.max_steps = config.trainer.max_epochs
    for row in run_dir.steps():  # of a run that is continued
        display.view.step(row)
    job = train(config, run_dir, progress=display.progress, on_step=display.step, on_metrics=display.metrics)
    return watched(run_dir, display, job, config=config)


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


def run_serve(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt serve CONFIG --engine.pool_name NAME``."""
    from ray_jobs import serve
    from ray_jobs.config import load_config

    config = load_config(arguments.config, rest)
    if arguments.stop:
        print(f"{serve.stop(config)} engines ended")
        return 0
    display = Display()
    try:
        with display.live():
            asyncio.run(interruptible(serve.serve(config, display.progress)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        display.line("ended")
    return 0


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
    from ray_jobs.live import duration

    speed = speed_here(config)
    if speed is None:
        return
    for line in expectations(config, speed):
        display.line(line)
    seconds = Forecast(config, speed, steps=steps).seconds()
    if seconds is not None and not config.trainer.count_accepted:
        display.line(f"the training will take at most about {duration(seconds)} here")


def watched(
    run_dir: Any,
    display: Display,
    job: Coroutine[Any, Any, dict[str, Any]],
    *,
    split: str = "test",
    config: Any = None,
) -> int:
    """Run ``job`` with a live display and the run's log; print its report, and the run folder last.

    ``config``: of a training, whose duration is foretold.
    """
    handler = log_to(run_dir.path / "run.log")
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
        return USER_MISTAKE if isinstance(error, ConfigError) else 1
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


def run_show(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt show RUN [--diff]``."""
    from agentopt_local.exporting.learned import read_functions
    from agentopt_local.run_dir import read_json
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
    functions = read_functions(path)
    for function in functions.each():
        print(function.source)
    if not functions.functions:
        print("No function was learned (yet).", file=sys.stderr)
    report = read_json(path / "report.json")
    if report is not None:
        print(report_text(report), file=sys.stderr)
    return 0


def run_grade(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt grade TASK FILE [--lenient] [--output FILE]``."""
    from ray_jobs.grade import grade

    return grade(arguments.task, arguments.file, lenient=arguments.lenient, output=arguments.output)


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
