"""``agentopt credit``: what each function of a run contributes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import ConfigError
from ray_jobs.commands.running import finish
from ray_jobs.terminal.display import Display

if TYPE_CHECKING:
    from agentopt_local.run.contribution import Credit


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    credit = subparsers.add_parser(
        "credit",
        help="measure what each function of a run contributes",
        description="Roll out the run's functions without each of them, on the same problems: training problems that "
        "their edits were not shown, and validation problems. In sets of more than five, random halves too.",
        epilog="agentopt report shows the result too. A training measures it before its test "
        'with --evaluation.credit measure, or "prune".',
    )
    credit.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    credit.add_argument(
        "--prune",
        action="store_true",
        help="remove functions that hurt or only cost tokens, if the set without them is no worse; a run that was "
        "tested stays as it is, and a copy of it, RUN-pruned, gets the smaller set",
    )
    credit.add_argument(
        "--n", type=int, metavar="N", help="at most N problems (default: 60, or task.n_train if larger)"
    )
    credit.add_argument("--split", choices=("train", "validation"), help="only problems of this split (default: both)")
    credit.set_defaults(run=run_credit)


def run_credit(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt credit RUN``."""
    from ray_jobs.lifecycle import credit_run, reopen

    if arguments.n is not None and arguments.n < 1:
        raise ConfigError(f"--n {arguments.n}: measure on at least one problem")
    config, run_dir = reopen(arguments.run_dir)
    path = run_dir.path
    again = f"agentopt credit {path}" + "".join(
        f" --{key} {value}" for key in ("n", "split") if (value := getattr(arguments, key)) is not None
    )
    again += " --prune" if arguments.prune else ""
    asked = {"split": arguments.split, "n": arguments.n, "prune": arguments.prune}
    return finish(
        run_dir, credit_run(config, run_dir, **asked, display=Display()), show=partial(told, path), again=again
    )


def told(run: Path, found: Credit) -> str:
    """What was measured and, if a copy was pruned, where it is."""
    if found.pruned is None or found.pruned.run is None:
        return str(found)
    copy = run.with_name(found.pruned.run)
    return f"{found}\nThe smaller set is in a copy of the run. To certify and test it: agentopt resume {copy}"
