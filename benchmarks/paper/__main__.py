"""``python -m benchmarks.paper TABLE --model M``: run the missing cells of an experiment, then print and write it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from agentopt_local.chat import ChatModel
from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from agentopt_local.paper_regime import shared_differences
from agentopt_local.rollout import Progress
from agentopt_local.run.files import read_json, write_atomically
from agentopt_local.trainings import POINTS, Mean
from benchmarks.paper import matrix, pictures, protocol, tables
from benchmarks.paper.cells import MAX_VOTES, run_cell, transfer
from benchmarks.paper.protocol import Cell, Choice, Protocol
from benchmarks.paper.summary import difference, share
from ray_jobs.interrupts import interruptible
from ray_jobs.open_models import Models, open_models
from ray_jobs.open_task import task_of
from ray_jobs.sweep import points
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import error_line

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one experiment. 0: done, 1: failed, 2: user error, 130: interrupted. Finished work is kept."""
    arguments, overrides = parser().parse_known_args(argv)
    try:
        choice = Choice(
            model=arguments.model,
            seeds=arguments.seeds,
            limit=arguments.limit,
            data=str(arguments.data),
            output=str(arguments.output),
            overrides=tuple(overrides),
        )
        plan = protocol.load(arguments.table)
        cells = protocol.cells(arguments.table, plan, choice)
        if arguments.list:
            print("\n".join(cell.name for cell in cells))
            return 0
        wanted = chosen(cells, arguments.cell)
        display = Display()
        job = run(
            plan,
            cells,
            wanted,
            display.on_progress,
            curves=arguments.curves,
            max_votes=arguments.max_votes,
            see=arguments.see,
            say=display.line,
        )
        asyncio.run(interruptible(job))
    except (ConfigError, RunDirError) as error:
        error_line(str(error))
        return 2
    except AgentOptError as error:
        error_line(f"{error}\nRun the same command again to continue; finished work is kept.")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        error_line("interrupted; run the same command again to continue")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="Repeat an experiment of arXiv 2402.11359: run the missing trainings, print our figures next to "
        "the paper's, and write CSV, Markdown and SVG.",
        epilog="Settings for all cells can be given as in agentopt train: --model.base_url http://127.0.0.1:8000/v1",
        allow_abbrev=False,
    )
    top.add_argument("table", metavar="TABLE", help=", ".join(protocol.names()))
    top.add_argument(
        "--model", required=True, help="an embedded model, a folder, a Hugging Face id, or a model at an endpoint"
    )
    top.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="trainings per cell, on other problems each (default: 3)"
    )
    top.add_argument(
        "--limit", type=int, metavar="N", help="use at most N problems per split, to try an experiment out"
    )
    data = os.environ.get("AGENTOPT_DATA", ROOT.parent / "shared" / "data")
    top.add_argument(
        "--data", type=Path, default=Path(data), metavar="PATH", help="the data folder (default: $AGENTOPT_DATA)"
    )
    top.add_argument("--output", type=Path, default=Path("runs/paper"), metavar="DIR", help="default: runs/paper")
    top.add_argument("--cell", action="append", metavar="NAME", help="run only this cell; can be repeated")
    top.add_argument(
        "--max-votes",
        type=int,
        default=MAX_VOTES,
        metavar="N",
        help="most votes per problem for self-consistency (default: 40)",
    )
    top.add_argument(
        "--curves",
        action="store_true",
        help="test every accepted set, and draw learning curves: exploratory, each set is a look at the test problems",
    )
    top.add_argument(
        "--see",
        type=points,
        default=POINTS,
        metavar="POINTS",
        help="the gain for which the number of trainings needed is worked out (default: 5)",
    )
    top.add_argument("--list", action="store_true", help="print the names of the cells and exit")
    return top


def chosen(cells: Sequence[Cell], names: Sequence[str] | None) -> list[Cell]:
    """The cells to run. Raises ConfigError for an unknown name."""
    known = {cell.name: cell for cell in cells}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--cell {name}: there is no such cell; --list prints them")
    return [known[name] for name in names] if names else list(cells)


async def run(
    plan: Protocol,
    cells: Sequence[Cell],
    wanted: Sequence[Cell],
    progress: Progress,
    *,
    model: ChatModel | Models | None = None,
    curves: bool = False,
    max_votes: int = MAX_VOTES,
    see: float = POINTS,
    say: Any = print,
) -> list[Path]:
    """Run the wanted cells that are not finished, then write the experiment. Returns the paths of the files.

    One engine serves all cells. ``model`` replaces the configured one. Cells whose data is missing are skipped with a
    message. Raises ConfigError if that is true of all of them.
    """
    missing: dict[str, str] = {}
    for cell in wanted:
        try:
            task_of(cell.config)
        except ConfigError as error:
            missing[cell.name] = str(error)
            say(f"{cell.name} is skipped: {error}")
    able = [cell for cell in wanted if cell.name not in missing]
    if not able:
        raise ConfigError(next(iter(missing.values())))
    async with AsyncExitStack() as stack:
        models = model
        if models is None and not all((cell.path / "cell.json").is_file() for cell in able):
            models = await open_models(able[0].config, stack, progress)
        for number, cell in enumerate(able, 1):
            say(f"cell {number} of {len(able)}: {cell.name}")
            curve = curves or plan.kind == "curves"
            await run_cell(cell, models, progress, curve=curve, max_votes=max_votes, arms=plan.arms)
        if plan.kind == "transfer":
            if models is None:
                models = await open_models(able[0].config, stack, progress)
            for source in able:
                for target in (each for each in able if each.seed == source.seed):
                    await transfer(source, target, models, progress)
    return write(plan, cells, say, see=see)


def write(plan: Protocol, cells: Sequence[Cell], say: Any = print, *, see: float = POINTS) -> list[Path]:
    """Print the finished part of the experiment, and write it as CSV, Markdown and SVG."""
    finished: dict[tuple[str, ...], list[dict[str, Any]]] = {cell.labels: [] for cell in cells}
    missing = []
    for cell in cells:
        results = read_json(cell.path / "cell.json")
        if results is None:
            missing.append(cell.name)
        else:
            finished[cell.labels].append(results)
    table = tables.rows(plan, finished)
    regime = shared_differences({" / ".join(cell.labels): cell.config.model_dump(mode="json") for cell in cells})
    text = tables.markdown(plan, table, missing, regime, see)
    texts = {"csv": tables.as_csv(plan, table), "md": text}
    order = [*tables.baselines(plan), "trained"]
    groups = [(" / ".join(row.labels), [row.shares[side] for side in order], (row.paper or ())[2:]) for row in table]
    titles = [*tables.baselines(plan).values(), "trained"]
    texts["svg"] = pictures.bars(plan.title, groups, titles)
    if lines := curve_lines(finished):
        texts["curves.svg"] = pictures.curves(plan.title, lines)
        say(pictures.EXPLORATORY)
    if plan.kind == "transfer":
        domains = list(dict.fromkeys(" / ".join(cell.labels) for cell in cells))
        pairs = transfer_matrix(cells)
        texts["matrix.csv"] = matrix.as_csv(pairs)
        texts["matrix.md"] = matrix.as_markdown(plan, domains, pairs, regime)
        texts["matrix.svg"] = pictures.heat_map(plan.title, domains, pairs)
    folder = Path(cells[0].config.run_dir)
    paths = []
    for ending, text in texts.items():
        path = folder.parent / f"{folder.name}.{ending}"
        write_atomically(path, text)
        paths.append(path)
    print(texts.get("matrix.md", texts["md"]))
    say("written: " + ", ".join(map(str, paths)))
    return paths


def curve_lines(
    finished: dict[tuple[str, ...], list[dict[str, Any]]],
) -> list[tuple[str, list[tuple[float, Mean]]]]:
    """For each combination, the test accuracy after each step; a set stays until the next accepted one."""
    lines = []
    for labels, cells in finished.items():
        if not cells or not all("points" in cell for cell in cells):
            continue
        steps = sorted({point["step"] for cell in cells for point in cell["points"]})
        points = []
        for step in steps:
            latest = [[p for p in cell["points"] if p["step"] <= step][-1]["test"] for cell in cells]
            points.append((float(step), share(latest)))
        lines.append((" / ".join(labels), points))
    return lines


def transfer_matrix(cells: Sequence[Cell]) -> dict[tuple[str, str], dict[str, Mean]]:
    """Accuracy and gain by (trained on, tested on), over the finished seeds."""
    sides: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for source in cells:
        for target in (each for each in cells if each.seed == source.seed):
            found = read_json(target.path / f"transfer.{source.name}.json")
            if found is not None:
                sides.setdefault((" / ".join(source.labels), " / ".join(target.labels)), []).append(found)
    return {
        pair: {
            "trained": share([each["trained"] for each in found]),
            "gain": difference([each["untrained"] for each in found], [each["trained"] for each in found]),
        }
        for pair, found in sides.items()
    }


if __name__ == "__main__":
    sys.exit(main())
