"""``agentopt doctor``: check this machine and print what is missing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from agentopt_local.plain_text import printable
from ray_jobs.terminal.printing import say

if TYPE_CHECKING:
    from ray_jobs.commands.checks import Check
    from serving.engine_config import EngineConfig


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    doctor = subparsers.add_parser(
        "doctor",
        help="check this machine, or whether a model fits it",
        description="Check this machine and print what is missing; with MODEL, whether that model fits its GPUs or its "
        "memory, and what its engine will get. Nothing is fetched but a few small files.",
        epilog="Settings of the engine count: agentopt doctor OWNER/NAME --engine.kv_cache_dtype fp8",
        allow_abbrev=False,
    )
    doctor.add_argument("model", nargs="?", metavar="MODEL", help="an embedded model, a folder, or a Hugging Face id")
    doctor.add_argument("--card", type=float, metavar="GIB", help="assume a GPU with so much memory")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=run_doctor, takes_settings=True)


def run_doctor(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt doctor [MODEL] [--engine.KEY VALUE ...]``."""
    if arguments.model is None:
        if rest or arguments.card is not None:
            raise ConfigError("agentopt doctor: settings and --card are about a model: agentopt doctor MODEL")
        return doctor(json_output=arguments.json)
    from ray_jobs.commands.model_fit import check_fit, gpus

    engine = engine_of(rest)
    cards = gpus() if arguments.card is None else [(f"{arguments.card:g} GiB", int(arguments.card * (1 << 30)))]
    checks = {"fit": lambda: check_fit(arguments.model, engine, cards)}
    return doctor(json_output=arguments.json, groups=checks, verdicts=("It can run here.", "It cannot run like this."))


def engine_of(flags: Sequence[str]) -> EngineConfig:
    """The engine's settings in ``--engine.KEY VALUE`` flags. Raises ConfigError."""
    from ray_jobs.config import build, parse_overrides
    from ray_jobs.toml_values import set_key

    values: dict[str, Any] = {"task": {"spec": ""}}
    pairs = parse_overrides(flags)
    for key, value in pairs:
        if not key.startswith("engine."):
            raise ConfigError(f"--{key}: agentopt doctor MODEL takes settings of the engine only")
        set_key(values, key, value)
    return build(values, "agentopt doctor", {key: f"--{key}" for key, _ in pairs}).engine


def doctor(
    json_output: bool = False,
    groups: Mapping[str, Callable[[], list[Check]]] | None = None,
    verdicts: tuple[str, str] = ("Training can run here.", "Training cannot run here yet."),
) -> int:
    """Run the checks and print their results with advice and a verdict. Returns 1 if what is required is missing."""
    from ray_jobs.commands.checks import GROUPS, INSTALL, Check
    from ray_jobs.commands.model_fit import check_engine

    checks: list[Check] = []
    for name, group in (groups or GROUPS | {"engine": check_engine}).items():
        try:
            checks += group()
        except ImportError as error:
            checks.append(Check(name=name, status="missing", found=f"not available: {error}", advice=INSTALL))
    ready = not any(check.required and check.status == "missing" for check in checks)
    if json_output:
        say(json.dumps({"ready": ready, "checks": [check.model_dump() for check in checks]}, indent=2))
    else:
        print_table(checks)
        say(verdicts[0] if ready else verdicts[1])
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
