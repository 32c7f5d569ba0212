"""Train a grid of settings on shared engines and print one table: ``python -m ray_jobs.sweep SWEEP.toml``.

The grid may vary the models as well; trainings with the same ones share their engines.

::

    base = "demo.toml"       # the settings that all trainings have in common; a path relative to SWEEP.toml
    parallel = 4             # how many trainings run at once

    [grid]                   # every combination is one training
    "task.spec" = ["reasoning_gym:base_conversion", "reasoning_gym:spell_backward"]
    "seed" = [0, 1, 2]
    "trainer.try_edits" = [true, false]

Over ``seed``, each training draws training problems of its own (``task.train_seed``), and all are tested on the same
ones, so that the table over seeds tells what other trainings would do. Set ``task.train_seed`` to keep them.

The sweep's folder holds a run folder per training, ``sweep.json`` and ``table.json``. The same command continues an
interrupted sweep: finished trainings are not run again, and the others continue where they stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.chat import ChatModel
from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from agentopt_local.run.files import write_json
from agentopt_local.trainings import POINTS
from ray_jobs.commands.running import FAILED, INTERRUPTED, USER_MISTAKE
from ray_jobs.grid import by_models, load_sweep, open_folder, run_sweep
from ray_jobs.grid_tables import footnotes, over_seeds, table_text, with_holm
from ray_jobs.interrupts import interruptible
from ray_jobs.open_models import Models, check_model
from ray_jobs.open_task import task_of
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import PlainParser, error_line, say

DESCRIPTION = "Train a grid of settings on shared engines and print one table."


def main(argv: Sequence[str] | None = None, *, model: ChatModel | Models | None = None) -> int:
    """Run a sweep and return its exit code: 0 done, 1 failed, 2 user error, 130 interrupted.

    A sweep that failed or was interrupted can be continued. ``model`` replaces the configured model.
    """
    parser = PlainParser(prog="python -m ray_jobs.sweep", description=DESCRIPTION)
    parser.add_argument("sweep", type=Path, metavar="SWEEP.toml", help="the grid and the file it is based on")
    parser.add_argument("--dir", type=Path, help="the sweep's folder (default: runs/SWEEP)")
    parser.add_argument(
        "--see",
        type=points,
        default=POINTS,
        metavar="POINTS",
        help="the gain for which the number of trainings needed is worked out (default: 5)",
    )
    arguments = parser.parse_args(argv)
    display = Display()
    try:
        sweep, folder, trainings = load_sweep(arguments.sweep, arguments.dir)
        if model is None:
            for group in by_models(trainings):
                check_model(group[0].config)
        for training in trainings:
            task_of(training.config)
        held = open_folder(folder, trainings)
        try:
            with display.live():
                job = run_sweep(sweep, trainings, folder, display.on_progress, model=model)
                rows = asyncio.run(interruptible(job))
        finally:
            held.close()
    except (ConfigError, RunDirError) as error:
        error_line(str(error))
        return USER_MISTAKE
    except AgentOptError as error:
        error_line(f"{error}\nTo continue: python -m ray_jobs.sweep {arguments.sweep}")
        return FAILED
    except (asyncio.CancelledError, KeyboardInterrupt):
        say(f"To continue: python -m ray_jobs.sweep {arguments.sweep}")
        return INTERRUPTED
    means = over_seeds(rows, list(sweep.grid), arguments.see) if "seed" in sweep.grid else []
    write_json(folder / "table.json", {"trainings": with_holm(rows), "over_seeds": means})
    say(table_text(with_holm(rows)))
    if any("certificate" in row for row in rows):
        alphas = sorted({each.config.evaluation.alpha for each in trainings})
        say(f"\nCertificates: alpha {' or '.join(f'{alpha:g}' for alpha in alphas)} / {len(trainings)} trainings")
    if means:
        say("\nOver seeds:\n" + table_text(means))
    say("\n" + footnotes(rows, means))
    say(folder)
    return FAILED if any("error" in row for row in rows) else 0


def points(text: str) -> float:
    """A gain in points from the command line. Raises ArgumentTypeError unless it is above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a gain in points, above 0 and at most 100")
    return value


if __name__ == "__main__":
    sys.exit(main())
