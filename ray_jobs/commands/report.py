"""``agentopt report``: one HTML file about one run, or comparing several."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError
from ray_jobs.terminal.printing import say


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    report = subparsers.add_parser("report", help="write one HTML file about a run, or comparing several runs")
    report.add_argument("run_dirs", type=Path, metavar="RUN", nargs="+", help="the run's folder; several are compared")
    report.add_argument("--output", type=Path, metavar="FILE", help="the file to write (default: RUN/report.html)")
    report.add_argument("--open", action="store_true", help="open it in a browser")
    report.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt report RUN [RUN ...]``."""
    return report(arguments.run_dirs, output=arguments.output, open_it=arguments.open)


def report(runs: Sequence[Path], *, output: Path | None = None, open_it: bool = False) -> int:
    """Write a report of ``runs`` and print its path; ``open_it`` opens it in a browser.

    Raises RunDirError for a folder that is not a run, ConfigError for a run given twice or a wrong ``output``.
    """
    from agentopt_local.reporting.data import run_page
    from agentopt_local.reporting.html import report_html
    from agentopt_local.run.files import write_atomically
    from agentopt_local.run.reader import read_run

    files = [read_run(path) for path in runs]
    twice = [
        str(path) for index, path in enumerate(runs) if path.resolve() in {each.resolve() for each in runs[:index]}
    ]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice; name each run once")
    pages = [run_page(each, defaults_for(each.config)) for each in files]
    if len({page.summary["name"] for page in pages}) < len(pages):
        for page in pages:
            page.summary["name"] = page.summary["path"]
    text = report_html(pages)
    target = output or (runs[0] / "report.html" if len(runs) == 1 else runs[0].resolve().parent / "comparison.html")
    try:
        if target.is_dir():
            raise ConfigError(f"--output {target} is a folder; name a file, such as {target / 'report.html'}")
        if not target.parent.is_dir():
            raise ConfigError(f"--output {target}: there is no folder {target.parent}")
    except OSError as error:  # too long a name, or a folder that is closed to this user
        raise ConfigError(f"--output {str(target)[:200]} cannot be written: {error.strerror}") from None
    write_atomically(target, text)
    say(target)
    if open_it and not webbrowser.open(target.resolve().as_uri()):
        say("No browser was found. The file is self-contained: copy it to a machine that has one.")
    return 0


def defaults_for(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings of a run would be if its user had set none but its preset and the sizes of its models."""
    from ray_jobs.config import RunConfig, build
    from ray_jobs.task_config import TaskConfig

    plain = RunConfig(task=TaskConfig(spec=""))
    values: dict[str, Any] = {"task": {"spec": ""}, "preset": config.get("preset", plain.preset)}
    for key in ("model", "optimizer_model"):
        if isinstance(config.get(key), Mapping):
            values[key] = {"size": config[key].get("size", "small")}  # older runs: everybody got those settings
    shown = {"preset", "model", "optimizer_model"}  # a run is repeated with these as they are
    try:
        chosen = build(values, "the run's settings").model_dump(mode="json", exclude=shown)
    except ConfigError:  # a preset or a size that this version does not have
        chosen = plain.model_dump(mode="json", exclude=shown)
    return plain.model_dump(mode="json", include=shown) | chosen
