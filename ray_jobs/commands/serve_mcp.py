"""``agentopt serve-mcp``: learned functions as a Model Context Protocol server."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError
from agentopt_local.run.files import is_run
from agentopt_local.setting_types import MAX_SECONDS
from ray_jobs.interrupts import interruptible
from ray_jobs.terminal.printing import say


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    serve = subparsers.add_parser(
        "serve-mcp",
        help="serve functions to other agents; calls run in the sandbox",
        description="Serve the functions at PATH (a run, an exported package, a folder of .py files, or a .py file) "
        "over the Model Context Protocol, on standard input and output for clients that start it, or over HTTP on "
        "127.0.0.1.",
    )
    serve.add_argument("path", type=Path, metavar="PATH", help="a run, a package, a folder or a file")
    serve.add_argument(
        "--http", type=int, metavar="PORT", help="serve over HTTP on this port of 127.0.0.1; 0 picks a free one"
    )
    serve.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit of one call (default: the run's)")
    serve.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt serve-mcp PATH [--http PORT]``."""
    from agentopt_local.exporting import mcp_server
    from agentopt_local.exporting.learned import read_learned
    from agentopt_local.exporting.portable import server_name
    from agentopt_local.update import OptimizerConfig
    from ray_jobs.agents import sandbox_of
    from ray_jobs.agreement import check_agreed
    from ray_jobs.config import SandboxConfig
    from ray_jobs.runs import read_config
    from ray_jobs.start_functions import load_functions

    mcp_server.check_installed()
    path: Path = arguments.path
    if is_run(path):
        config = read_config(path)
        check_agreed(config, path, used=("sandbox",))
        functions, settings, timeout_s = read_learned(path).functions, config.sandbox, config.agent.timeout_s
    else:
        settings = SandboxConfig()
        functions, timeout_s = load_functions(path, OptimizerConfig().allowed_packages, settings), settings.timeout_s
    timeout_s = timeout_s if arguments.timeout is None else arguments.timeout
    if not 0 < timeout_s <= MAX_SECONDS:
        raise ConfigError(
            f"--timeout {timeout_s:g}: the limit must be more than 0 seconds, and at most {MAX_SECONDS:g}"
        )
    if arguments.http is not None and not 0 <= arguments.http < 1 << 16:
        raise ConfigError(f"--http {arguments.http}: a port is a number from 0 to 65535")
    if not functions.functions:
        raise ConfigError(f"{path} has learned no function (yet): there is nothing to serve")

    name = server_name(None, path.resolve().stem if path.suffix == ".py" else path.resolve().name, functions)

    def ready(address: str) -> None:
        say(f"Serving {', '.join(functions.names)} at {address}; Ctrl-C stops")

    async def serve() -> None:
        async with sandbox_of(settings) as sandbox:
            server = mcp_server.mcp_server(name, functions, sandbox, timeout_s=timeout_s)
            if arguments.http is None:
                await mcp_server.serve_stdio(server)
            else:
                await mcp_server.serve_http(server, arguments.http, ready)

    asyncio.run(interruptible(serve()))
    return 0
