"""``agentopt show``: the functions a run has learned."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs.terminal.printing import functions_diff, report_text, say


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    show = subparsers.add_parser("show", help="print the functions a run has learned, or how each step changed them")
    show.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    show.add_argument("--diff", action="store_true", help="show what each accepted step changed")
    show.set_defaults(run=run_show)


def run_show(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt show RUN [--diff]``."""
    from agentopt_local.reasons import nothing_learned
    from agentopt_local.run.finished_steps import read_steps
    from agentopt_local.run.parsing import read_folder
    from agentopt_local.run.reader import function_folders, read_config, read_functions, read_report, read_state

    path = arguments.run_dir
    read_config(path)
    if arguments.diff:
        old: dict[str, str] = {}
        state = read_state(path)
        for step, folder in function_folders(path):
            pruned = state is not None and step > state.step
            say("# pruning" if pruned else f"# step {step}")
            new = read_folder(folder)
            say(functions_diff(old, new))
            old = new
        return 0
    functions = read_functions(path)
    for function in functions.each():
        say(function.source)
    if not functions.functions:
        say("No function was learned (yet).", error=True)
    report = read_report(path)
    if report is not None:
        say(report_text(report), error=True)
    if report is None or report.nothing_learned is None:  # none yet, or one of an older version
        nothing = nothing_learned(read_steps(path))
        if nothing is not None:
            say(nothing, error=True)
    return 0
