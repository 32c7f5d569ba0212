"""``python -m benchmarks.results PLAN``: run what a plan lacks, then print its table and write it to RESULTS.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from agentopt_local.callback import of_training
from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import together
from agentopt_local.errors import AgentOptError, ConfigError, RunDirError
from agentopt_local.record import Record
from agentopt_local.rollout import Progress
from benchmarks.paper.__main__ import ROOT
from benchmarks.paper.protocol import Cell
from benchmarks.results import page
from benchmarks.results.cells import generated, read_result, run_cell
from benchmarks.results.kinds import Kinds, OpenModels, Survey
from benchmarks.results.plan import Plan, cells, chosen, in_order, load, names, plan_path
from ray_jobs.config import RunConfig
from ray_jobs.interrupts import interruptible
from ray_jobs.open_models import Models, check_model, open_models
from ray_jobs.open_task import task_of
from ray_jobs.terminal.display import Display
from ray_jobs.terminal.printing import error_line
from ray_jobs.unused_problems import used_in_training, validation_problems


class Options(Record):
    """What the user chose on the command line."""

    path: Path
    """The plan's file."""
    output: str
    data: str
    arms: tuple[str, ...] | None = None
    limit: int | None = None
    """The most problems of a split, for a trial."""
    budget_tokens: int | None = None
    """In place of the plan's."""
    parallel: int = 1
    """Trainings that run at once."""
    command: str
    """The whole command, for the page and for going on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a plan. 0: done or out of tokens, 1: failed, 2: user error, 130: interrupted. Finished work is kept."""
    argv = sys.argv[1:] if argv is None else argv
    given = parser().parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.results", *argv])
    try:
        options = Options(
            path=plan_path(given.plan),
            output=str(given.output),
            data=str(given.data),
            arms=given.arms and tuple(given.arms),
            limit=given.limit,
            budget_tokens=given.budget_tokens,
            parallel=given.parallel,
            command=command,
        )
        display = Display()
        asyncio.run(interruptible(run(load(options.path), options, display.on_progress, say=display.line)))
    except (ConfigError, RunDirError) as error:
        error_line(str(error))
        return 2
    except AgentOptError as error:
        error_line(f"{error}\nFinished work is kept. To continue: {command}")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        error_line(f"interrupted; finished work is kept. To continue: {command}")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.results",
        description="Run the trainings of a plan that are not finished, print one table with certificates, and write "
        "it to benchmarks/RESULTS.md.",
        allow_abbrev=False,
    )
    top.add_argument("plan", metavar="PLAN", help=f"{', '.join(names())}, or a .toml file")
    top.add_argument(
        "--output", type=Path, default=Path("runs/results"), metavar="FOLDER", help="default: runs/results"
    )
    top.add_argument("--arms", nargs="+", metavar="ARM", help="run only these arms of the plan")
    top.add_argument(
        "--limit",
        type=at_least_one,
        metavar="N",
        help="a trial with at most N problems per split, in a folder of its own; RESULTS.md is not written",
    )
    top.add_argument(
        "--budget-tokens", type=at_least_one, metavar="N", help="tokens to generate at most, in place of the plan's"
    )
    top.add_argument(
        "--parallel",
        type=at_least_one,
        default=1,
        metavar="N",
        help="trainings that run at once on the same engines, in larger batches; the seconds of each then include the "
        "others' (default: 1)",
    )
    data = os.environ.get("AGENTOPT_DATA", ROOT.parent / "shared" / "data")
    top.add_argument(
        "--data", type=Path, default=Path(data), metavar="PATH", help="the data folder (default: $AGENTOPT_DATA)"
    )
    return top


def at_least_one(text: str) -> int:
    """A number from the command line. Raises ArgumentTypeError below 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


async def run(
    plan: Plan,
    options: Options,
    progress: Progress,
    *,
    model: ChatModel | Models | None = None,
    say: Callable[[str], None] = print,
    results_page: Path = page.PAGE,
) -> str:
    """Run what is not finished, print the plan's section and return it; a whole run is also put on ``results_page``.

    One set of engines serves everything; it is opened when it is first needed. ``model`` replaces the configured one.
    """
    if plan.rule is not None and options.limit is not None:
        rule = plan.rule.model_copy(update={"n": min(plan.rule.n, options.limit)})
        plan = plan.model_copy(update={"rule": rule})
    like = trainings(plan, options, expected_kinds(plan))[0].config  # checked before anything is measured
    folder, budget = Path(like.run_dir), options.budget_tokens or plan.budget_tokens

    def allowed() -> bool:
        return generated(folder) < budget

    async with AsyncExitStack() as stack:
        models = opener(stack, progress, model)
        kinds: Kinds | None = None
        found: list[Cell] = []
        if plan.rule is not None:
            kinds = await Survey(plan.rule, like, models, progress).choose(say, allowed)
        if plan.rule is None or kinds is not None:
            found = trainings(plan, options, kinds.chosen if kinds else ())
        check_tasks(found)
        slots = asyncio.Semaphore(options.parallel)

        async def one(number: int, cell: Cell) -> None:
            async with slots:
                if read_result(cell) is not None or allowed():
                    say(f"training {number} of {len(found)}: {cell.name}")
                    heard = progress if options.parallel == 1 else of_training(cell.name, progress)
                    await run_cell(cell, models, heard)

        await together(one(number, cell) for number, cell in enumerate(found, 1))
    return write(plan, options, kinds, say, results_page)


def trainings(plan: Plan, options: Options, kinds: Sequence[str]) -> list[Cell]:
    """The wanted trainings."""
    found = cells(options.path, plan, kinds, data=options.data, output=options.output, limit=options.limit)
    return chosen(options.path, found, options.arms)


def expected_kinds(plan: Plan) -> tuple[str, ...]:
    """As many kinds as a rule will choose, to check settings with before it has."""
    return () if plan.rule is None else (*plan.rule.include, *in_order(plan.rule)[: plan.rule.count])


def opener(stack: AsyncExitStack, progress: Progress, given: ChatModel | Models | None) -> OpenModels:
    """Opens the models once, when they are first asked for; ``stack`` closes them."""
    opened, opening = given, asyncio.Lock()

    async def models(config: RunConfig) -> ChatModel | Models | None:
        nonlocal opened
        async with opening:
            if opened is None:
                check_model(config)
                opened = await open_models(config, stack, progress)
        return opened

    return models


def check_tasks(found: Sequence[Cell]) -> None:
    """Raise ConfigError, before the first training, if one has too few problems."""
    seen = set()
    for config in (cell.config for cell in found if cell.seed == 0 and read_result(cell) is None):
        key = config.task.model_dump_json()
        if key in seen:
            continue
        seen.add(key)
        task = task_of(config)
        if not config.task.n_test and not validation_problems(task, 1, used_in_training(config, task)).problems:
            raise ConfigError(
                f"task.n_test = 0, and the task {config.task.spec!r} has no validation problems, so nothing could be "
                "measured; set task.n_test"
            )


def write(plan: Plan, options: Options, kinds: Kinds | None, say: Callable[[str], None], results_page: Path) -> str:
    """Print the section of all that is finished, and put it on the page unless this is a trial."""
    expected = kinds.chosen if kinds else expected_kinds(plan)
    found = cells(options.path, plan, expected, data=options.data, output=options.output, limit=options.limit)
    folder, budget = Path(found[0].config.run_dir), options.budget_tokens or plan.budget_tokens
    spent = generated(folder)
    notes = [] if plan.rule is None else [kinds.note(plan.rule) if kinds else "The kinds by rule are not chosen yet."]
    notes.append(f"Tokens generated: {spent:,} of {budget:,} allowed, with everything that was measured")
    if options.parallel > 1:
        notes.append(f"{options.parallel} trainings ran at once, so the seconds of each include the others'")
    finished = [] if plan.rule is not None and kinds is None else found
    results = {cell.name: result for cell in finished if (result := read_result(cell)) is not None}
    if missing := [cell.name for cell in found if cell.name not in results]:
        notes.append(f"Not run{' yet' if spent < budget else ', because the tokens are used up'}: {', '.join(missing)}")
        if spent >= budget:
            more = f"{options.command} --budget-tokens {2 * spent}"
            say(f"the tokens are used up ({spent:,} of {budget:,}); to go on: {more}")
    arms = list(plan.arms)
    ordered = sorted(results.values(), key=lambda each: (arms.index(each.arm), each.seed))
    text = page.section(options.path.stem, plan, ordered, command=options.command, notes=notes)
    print(text)
    if options.limit is None:
        page.put(results_page, options.path.stem, text)
        say(f"written: {results_page}")
    return text


if __name__ == "__main__":
    sys.exit(main())
