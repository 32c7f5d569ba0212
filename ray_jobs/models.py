"""``agentopt models``: embedded models on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.model_store import DEFAULT_MODEL, Progress, list_models, resolve


def models_list() -> int:
    """Print the embedded models: name, size, licence and where they are."""
    for entry in list_models():
        default = " (default)" if entry.name == DEFAULT_MODEL else ""
        size = f"{entry.size_bytes / 1e9:.1f} GB"
        print(f"{entry.name + default:<30} {size:>7}  {entry.licence:<11} {entry.path or 'not here'}")
    return 0


def models_pull(name: str) -> int:
    """Fetch the model ``name`` unless it is here; its folder is printed last. Raises ConfigError."""
    with show_progress() as progress:
        folder = resolve(name, allow_fetch=True, progress=progress, note=print)
    print(folder)
    return 0


def models_path(name: str) -> int:
    """Print the folder of the model ``name`` and nothing else. Raises ConfigError if it is not here."""
    print(resolve(name, allow_fetch=False))
    return 0


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Shows bytes on stdout: a bar on a terminal, otherwise a line every tenth of each stage."""
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
            print(f"{stage} {tenth * 10:3d} %  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", flush=True)

    try:
        yield draw if bars.console.is_terminal else write
    finally:
        if tasks:
            bars.stop()
