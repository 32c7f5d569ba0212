"""``agentopt models``: the embedded models on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray_jobs.terminal.printing import say

if TYPE_CHECKING:
    from serving.hub import Progress


def add_commands(subparsers: Any) -> None:
    """Add the command of this module to the command line."""
    models = subparsers.add_parser("models", help="list, fetch and locate embedded models")
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="list the embedded models and where they are")
    for name, text in (("pull", "fetch a model into the cache"), ("path", "print a model's folder")):
        actions.add_parser(name, help=text).add_argument("name", metavar="NAME")
    models.set_defaults(run=run_models)


def run_models(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """``agentopt models list | pull NAME | path NAME``."""
    if arguments.action == "list":
        return models_list()
    return (models_pull if arguments.action == "pull" else models_path)(arguments.name)


def models_list() -> int:
    """Print the embedded models with size, licence and folder."""
    from serving.model_store import DEFAULT_MODEL, list_models

    for entry in list_models():
        default = " (default)" if entry.name == DEFAULT_MODEL else ""
        size = f"{entry.size_bytes / 1e9:.1f} GB"
        say(f"{entry.name + default:<30} {size:>7}  {entry.licence:<11} {entry.path or 'not here'}")
    return 0


def models_pull(name: str) -> int:
    """Fetch the model ``name`` unless it is here, and print its folder last. Raises ConfigError."""
    from serving.model_store import resolve

    with show_progress() as progress:
        folder = resolve(name, allow_fetch=True, progress=progress, note=print)
    say(folder)
    return 0


def models_path(name: str) -> int:
    """Print only the folder of the model ``name``. Raises ConfigError if it is not on this machine."""
    from serving.model_store import resolve

    say(resolve(name, allow_fetch=False))
    return 0


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Show bytes on standard output: a bar on a terminal, otherwise a line per tenth of each stage."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>9}"), BarColumn(), DownloadColumn())
    bars = Bars(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console())
    tasks = {}
    tenths: dict[str, int] = {}

    def draw(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
            bars.start()
        bars.update(tasks[stage], completed=done)

    def write(stage: str, done: int, total: int) -> None:
        if (tenth := done * 10 // max(total, 1)) > tenths.get(stage, -1):
            tenths[stage] = tenth
            say(f"{stage} {tenth * 10:3d} %  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    try:
        yield draw if bars.console.is_terminal else write
    finally:
        if tasks:
            bars.stop()
