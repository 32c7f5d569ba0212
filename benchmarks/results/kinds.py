"""Choosing kinds of reasoning_gym by a plan's rule: the untrained agent on training problems, never on the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import ceil
from pathlib import Path

from pydantic import Field

from agentopt_local.callback import ProgressOnly
from agentopt_local.chat import ChatModel
from agentopt_local.concurrency import together
from agentopt_local.errors import ConfigError
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.rollout import Progress
from agentopt_local.run.files import read_json, write_json
from agentopt_local.run.parsing import validated
from agentopt_local.stage import Stage
from benchmarks.paper.cells import open_cell
from benchmarks.paper.protocol import Cell
from benchmarks.results.plan import Rule, in_order
from ray_jobs.config import RunConfig
from ray_jobs.open_models import Models
from ray_jobs.open_task import task_of
from ray_jobs.provenance import describe_run
from ray_jobs.session import open_session

OpenModels = Callable[[RunConfig], Awaitable[ChatModel | Models | None]]
"""Opens the models with these settings, or returns those that are open."""
BLOCK = "block.json"
"""What was measured in a block's folder."""


class Block(Record):
    """Kinds that were measured together."""

    right: dict[str, int] = Field(default={})
    """How many training problems the untrained agent solved, by kind."""
    left_out: dict[str, str] = Field(default={})
    """Kinds with too few problems, each with the reason."""


class Kinds(Record):
    """What a rule has found."""

    chosen: tuple[str, ...]
    blocks: tuple[Block, ...] = ()

    def note(self, rule: Rule) -> str:
        """The measurement in a few sentences, for the table."""
        low, high = (f"{100 * bound:g}" for bound in rule.bounds)
        right = {kind: n for block in self.blocks for kind, n in block.right.items()}
        figures = ", ".join(f"{f'**{kind}**' if kind in self.chosen else kind} {n}" for kind, n in right.items())
        also = f" Always taken: {', '.join(rule.include)}." if rule.include else ""
        without = ", ".join(kind for block in self.blocks for kind in block.left_out)
        return (
            f"Kinds by rule: in the order shuffled by seed {rule.seed}, the first {rule.count} of which the untrained "
            f"agent solves {low} to {high} % of {rule.n} training problems (in bold). Solved: {figures}.{also}"
            + (f" Left out, for too few problems: {without}." if without else "")
        )


class Survey:
    """Measures kinds in blocks. Each is a run folder beside those of the trainings; finished ones are read."""

    def __init__(self, rule: Rule, like: RunConfig, models: OpenModels, progress: Progress) -> None:
        """``like``: the settings of a training. ``models`` opens the models when they are first needed."""
        self.rule = rule
        self.like = like
        self.models = models
        self.progress = progress

    async def choose(self, say: Callable[[str], None], allowed: Callable[[], bool]) -> Kinds | None:
        """Measure block after block until enough kinds are within the bounds.

        Returns None if ``allowed`` says, before a block, that the plan's tokens are used up. Raises ConfigError if too
        few kinds are within the bounds.
        """
        rule, order = self.rule, in_order(self.rule)
        blocks, found = list[Block](), list[str]()
        low, high = rule.bounds
        for number, start in enumerate(range(0, len(order), rule.block)):
            name, kinds = f"rule-{number}", order[start : start + rule.block]
            if not (Path(self.like.run_dir) / name / BLOCK).is_file() and not allowed():
                return None
            block = await self.measured(name, kinds)
            blocks.append(block)
            found += [kind for kind, right in block.right.items() if low <= right / rule.n <= high]
            solved = ", ".join(f"{kind} {right}" for kind, right in block.right.items())
            say(f"{name}, solved of {rule.n}: {solved}; within the bounds so far: {', '.join(found) or 'none'}")
            if len(found) >= rule.count:
                return Kinds(chosen=(*rule.include, *found[: rule.count]), blocks=tuple(blocks))
        raise ConfigError(
            f"rule.count = {rule.count}, but of {len(order)} kinds only {len(found)} are within rule.bounds = "
            f"{[low, high]}: {', '.join(found) or 'none'}; write a new plan with a smaller count, or wider bounds"
        )

    async def measured(self, name: str, kinds: Sequence[str]) -> Block:
        """How many training problems of each kind the untrained agent solves, from the folder if it is known."""
        values = read_json(Path(self.like.run_dir) / name / BLOCK)
        known = None if values is None else validated(Block, values, f"{name}/{BLOCK}")
        left_out = await self.too_small(kinds) if known is None else known.left_out
        able = [kind for kind in kinds if kind not in left_out]
        if not able:
            return Block(left_out=left_out)
        cell = self.cell(name, able)
        run_dir = open_cell(cell)
        try:
            if known is not None:
                return known
            model, heard = await self.models(cell.config), [ProgressOnly(self.progress)]
            async with open_session(cell.config, run_dir, heard, model=model) as session:
                if run_dir.meta() is None:
                    run_dir.write_meta(describe_run(session))
                problems = session.task.problems("train", cell.config.task.n_train)
                run_dir.keep_problems("train", problems)
                stage = Stage(split="train", part="before")
                done = await session.rollouts.run(FunctionSet(), problems, seed=cell.seed, stage=stage)
            solved = [problem.kind for problem, each in zip(problems, done, strict=True) if each.correct]
            block = Block(right={kind: solved.count(kind) for kind in able}, left_out=left_out)
            write_json(cell.path / BLOCK, block.model_dump(mode="json"))
            return block
        finally:
            run_dir.close()

    def cell(self, name: str, kinds: Sequence[str]) -> Cell:
        """A block as a run without a test, on training problems that no training of the plan draws."""
        like, seed = self.like, self.rule.seed
        task = {
            "spec": f"reasoning_gym:{','.join(kinds)}",
            "n_train": self.rule.n * len(kinds),
            "n_test": 0,
            "train_seed": seed,
            "settings": {kind: options for kind, options in like.task.settings.items() if kind in kinds},
        }
        changes = {"task": like.task.model_copy(update=task), "run_name": name, "seed": seed}
        return Cell(labels=("rule",), seed=seed, config=like.model_copy(update=changes))

    async def too_small(self, kinds: Sequence[str]) -> dict[str, str]:
        """The kinds that have too few problems to be measured, or for a training or a test, each with the reason."""
        if not self.lacking(kinds):  # the usual case: one opening instead of one for each
            return {}
        reasons = await together(asyncio.to_thread(self.lacking, [kind]) for kind in kinds)
        return {kind: reason for kind, reason in zip(kinds, reasons, strict=True) if reason}

    def lacking(self, kinds: Sequence[str]) -> str:
        """Why one of ``kinds`` has too few problems; empty if all have enough."""
        config, share = self.cell("", kinds).config, self.rule.count + len(self.rule.include)
        n_train = max(self.rule.n, ceil(self.like.task.n_train / share))
        n_test = ceil(self.like.task.n_test / share)
        most = {"n_train": n_train * len(kinds), "n_test": n_test * len(kinds)}
        try:
            task_of(config.model_copy(update={"task": config.task.model_copy(update=most)}))
        except ConfigError as error:
            return str(error)
        return ""
