"""``agentopt trust``: agree to what the settings of a run from elsewhere reach."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError
from ray_jobs.terminal.printing import say


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    trust = subparsers.add_parser(
        "trust",
        help="agree to the settings of a run that somebody else made",
        description="Print what the settings of RUN reach beyond its folder and the sandbox (an endpoint and the key "
        "that is sent to it, a weaker sandbox, code outside of it), and agree to it: ask, chat, serve-mcp, resume, "
        "evaluate, certify, credit and export refuse to use such settings before. Runs that you start on this machine "
        "need nothing.",
    )
    trust.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    trust.set_defaults(run=run_trust)


def run_trust(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt trust RUN``."""
    from ray_jobs.agreement import agree, agreed, agreed_path
    from ray_jobs.runs import read_config

    found = agree(read_config(arguments.run_dir))
    for each in found:
        say(f"{each.key} = {each.text}")
    if not found:
        say(f"The settings of {arguments.run_dir} reach nothing beyond its folder and the sandbox.")
    elif not {each.mark for each in found} <= agreed():
        raise ConfigError(f"{agreed_path()} cannot be kept; it must be in a folder that only you can write")
    return 0
