"""``agentopt doctor``: check this machine and print what is missing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray_jobs.terminal.printing import printable, say

if TYPE_CHECKING:
    from ray_jobs.commands.checks import Check


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    doctor = subparsers.add_parser("doctor", help="check this machine and print what is missing")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt doctor``."""
    return doctor(json_output=arguments.json)


def doctor(json_output: bool = False, groups: Mapping[str, Callable[[], list[Check]]] | None = None) -> int:
    """Run the checks and print their results with advice. Returns 0 if training can run here, otherwise 1."""
    from ray_jobs.commands.checks import GROUPS, INSTALL, Check

    checks: list[Check] = []
    for name, group in (groups or GROUPS).items():
        try:
            checks += group()
        except ImportError as error:
            checks.append(Check(name=name, status="missing", found=f"not available: {error}", advice=INSTALL))
    ready = not any(check.required and check.status == "missing" for check in checks)
    if json_output:
        say(json.dumps({"ready": ready, "checks": [check.model_dump() for check in checks]}, indent=2))
    else:
        print_table(checks)
        say("Training can run here." if ready else "Training cannot run here yet.")
    return 0 if ready else 1


def print_table(checks: list[Check]) -> None:
    """Print a row per check: name, status, what was found, and the advice below it."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table("check", "status", "found", box=box.SIMPLE_HEAD)
    for check in checks:
        advice = f"\n→ {check.advice}" if check.advice else ""
        colour = colours[check.status] if check.required else "dim"
        status = f"[{colour}]{check.status}[/]"
        table.add_row(escape(check.name), status, escape(printable(check.found + advice)))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
