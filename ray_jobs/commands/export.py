"""``agentopt export`` and ``agentopt import``: learned functions out of one run and into another."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agentopt_local.exporting import FORMATS
from ray_jobs.terminal.printing import say


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module to the command line."""
    export = subparsers.add_parser(
        "export",
        help="write a run's functions for use elsewhere",
        description="Write the functions of RUN as the evaluation tested them. python: an installable package with "
        "tests. openai, openai-responses, anthropic: tool definitions for these APIs. mcp: an mcp.json entry that "
        "starts agentopt serve-mcp. inspect: logs of the evaluation before and after training, for inspect view.",
    )
    export.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    export.add_argument("--format", choices=FORMATS, metavar="FORMAT", required=True, help=", ".join(FORMATS))
    export.add_argument("--output", type=Path, metavar="PATH", help="what to write (default: next to the run)")
    export.add_argument("--name", help="the name of the package or MCP server (default: from the run's name)")
    export.add_argument("--force", action="store_true", help="replace an earlier export")
    export.set_defaults(run=run_export)

    load = subparsers.add_parser(
        "import",
        help="check functions and write them as a start set",
        description="Check the functions at PATH (a run, an exported package, a folder of .py files, or a .py file), "
        'load them in the sandbox, and write them to the folder SET, for use as start_functions = "SET".',
    )
    load.add_argument("path", type=Path, metavar="PATH", help="a run, a package, a folder or a file")
    load.add_argument("--output", type=Path, metavar="SET", required=True, help="the folder to write")
    load.add_argument("--force", action="store_true", help="replace a set written earlier")
    load.set_defaults(run=run_import)


def run_export(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt export RUN --format FORMAT``."""
    from ray_jobs.exports import export_run

    job = export_run(
        arguments.run_dir,
        arguments.format,
        arguments.output,
        name=arguments.name,
        force=arguments.force,
        say=partial(say, error=True),
    )
    say(asyncio.run(job))
    return 0


def run_import(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt import PATH --output SET``."""
    from agentopt_local.exporting.writing import check_output, new_folder
    from agentopt_local.update import OptimizerConfig
    from ray_jobs.config import SandboxConfig
    from ray_jobs.start_functions import load_functions

    output: Path = arguments.output
    check_output(output, force=arguments.force)
    functions = load_functions(arguments.path, OptimizerConfig().allowed_packages, SandboxConfig())
    with new_folder(output, force=arguments.force) as folder:
        for each in functions.each():
            (folder / f"{each.name}.py").write_text(each.source, encoding="utf-8")
    say(f"{len(functions)} functions: {', '.join(functions.names)}", error=True)
    say(f"To start a training from them: agentopt train CONFIG --start_functions {output}", error=True)
    say(output)
    return 0
