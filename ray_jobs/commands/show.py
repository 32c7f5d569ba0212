"""``agentopt show``: the functions a run has learned."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs.terminal.text import functions_diff, report_text


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    show = subparsers.add_parser("show", help="print the functions a run has learned, or how each step changed them")
    show.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    show.add_argument("--diff", action="store_true", help="show what each accepted step changed")
    show.set_defaults(run=run_show)


def run_show(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt show RUN [--diff]``."""
    from agentopt_local.exporting.learned import read_functions
    from agentopt_local.run_dir import read_json
    from ray_jobs.runs import read_config

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
        print("No function has been learned (yet).", file=sys.stderr)
    report = read_json(path / "report.json")
    if report is not None:
        print(report_text(report), file=sys.stderr)
    return 0
