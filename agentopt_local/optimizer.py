"""Algorithm 1 of the paper, progressive function update: up to ``max_actions`` edits, one after another.

For each edit ``n_samples`` drafts are sampled at once: header, source, example arguments, trials in the sandbox, and
repairs after an error or wrong results. The best verified draft is applied, and the next edit starts from the result.
By default edits for different kinds of failed problems are sampled together, because a local engine has free slots.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agentopt_local import prompts
from agentopt_local.actions import header_constraint
from agentopt_local.chat import ChatModel, Thinking, Usage
from agentopt_local.concurrency import together
from agentopt_local.drafts import Draft, DraftContext
from agentopt_local.evidence import Evidence
from agentopt_local.fitting import fit
from agentopt_local.functions import FunctionSet
from agentopt_local.groups import Group, focus_groups, shown_of
from agentopt_local.outcomes import outcome_of
from agentopt_local.reasons import outcome_text
from agentopt_local.room import Room
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.seeds import derive
from agentopt_local.showing import failures_text, functions_text, transcripts_text
from agentopt_local.signatures import TYPES_ALLOWED
from agentopt_local.tasks.base import Task
from agentopt_local.train_state import FailedUpdate
from agentopt_local.update import ActionCounts, EditOutcome, OptimizerConfig, Update, Verified, grown

log = logging.getLogger("agentopt.optimizer")
OFTEN = 3
"""The limit of a source's tokens grows if one in so many was cut off there."""


class Material(NamedTuple):
    """What the author of an edit may be shown besides the failures."""

    functions: FunctionSet
    rollouts: Sequence[Evidence]
    """With these functions, on all problems of the step."""
    failures: Sequence[FailedUpdate]


class Edit(NamedTuple):
    """An edit that was drafted."""

    verified: Verified | None
    """The best draft; None if there is none to be applied."""
    outcome: EditOutcome
    usage: Usage
    shown: tuple[Evidence, ...]
    cut_sources: int = 0
    source_tokens: int = 0
    """The limit of a draft's sources, where it has become longest."""


class Optimizer:
    """Proposes updates of a function set, from rollouts made with it."""

    def __init__(
        self,
        model: ChatModel,
        task: Task,
        sandbox: Sandbox,
        config: OptimizerConfig,
        *,
        one_text: bool = False,
        thinking: Thinking | None = None,
        room: Room | None = None,
    ) -> None:
        """``model`` writes the functions, ``sandbox`` runs their trials and ``task`` grades the results.

        ``one_text``: functions take exactly one str. ``thinking``: how the model thinks before each reply. ``room``: of
        the model's context, where ``model`` does not know it itself.
        """
        self.model = model
        self.task = task
        self.sandbox = sandbox
        self.config = config
        self.one_text = one_text
        self.thinking = thinking
        self.room = Room(model) if room is None else room
        self.source_tokens = config.max_source_tokens
        """Generated tokens of a draft's first source; it grows where sources are cut off again and again."""

    def continue_from(self, updates: Iterable[Update]) -> None:
        """Go on as after ``updates``, which a run that is resumed has proposed before."""
        self.source_tokens = max([self.source_tokens, *(each.source_tokens or 0 for each in updates)])

    async def propose(
        self,
        functions: FunctionSet,
        rollouts: Sequence[Evidence],
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> Update:
        """An update. Its set equals ``functions`` if the optimizer terminates at once or no edit was verified.

        ``rollouts`` were made with ``functions`` on the training problems. Raises ModelError and SandboxError.
        """
        progressive, left = self.config.progressive, self.config.max_actions
        update = Update(functions=functions if progressive else FunctionSet())
        queue = focus_groups(rollouts, self.config.n_evidence if self.config.group_by_likeness else None)
        if not progressive:  # the functions of the new set are written at once, independently
            queue = (queue * left)[:left]
        while queue and left:
            wave = queue[: min(left, len(queue) if self.config.concurrent or not progressive else 1)]
            first = self.config.max_actions - left
            queue, left = queue[len(wave) :], left - len(wave)
            present = update.functions if progressive else functions
            material = Material(present, rollouts, failures)
            seeds = [derive(seed, "edit", first + index) for index in range(len(wave))]
            picked = [shown_of(group, self.config, each) for group, each in zip(wave, seeds, strict=True)]
            edits = await together(
                self._edit(update.functions, evidence, material, seed=each)
                for evidence, each in zip(picked, seeds, strict=True)
            )
            for group, edit in zip(wave, edits, strict=True):
                terminated = edit.outcome.end == "terminated"
                left = 0 if terminated else left
                if progressive and not terminated and not (edit.verified and edit.verified.complete):
                    queue.append(group)  # some of its problems are unanswered: another try, after the other kinds
                update = self._applied(update, edit, group)
            self._learn(edits)
        if self.source_tokens > self.config.max_source_tokens:
            update = update.model_copy(update={"source_tokens": self.source_tokens})
        return update if update.actions else update.model_copy(update={"functions": functions})

    @staticmethod
    def _applied(update: Update, edit: Edit, group: Group) -> Update:
        """The update after an edit, with what became of it."""
        outcome, before = edit.outcome.model_copy(update={"group": group.name}), update
        if edit.verified is not None and outcome.end == "applied":
            update = update.applying(edit.verified, [each.problem.id for each in edit.shown])
            if update is before:
                outcome = outcome.model_copy(update={"end": "taken"})
        log.info("edit %d, %s: %s", len(update.outcomes) + 1, outcome.about, outcome_text(outcome))
        return update.plus(outcome, edit.usage)

    def _learn(self, edits: Sequence[Edit]) -> None:
        """Allow longer sources from now on if they were cut off again and again."""
        cut = sum(edit.cut_sources for edit in edits)
        often = cut > 1 and cut * OFTEN >= sum(edit.outcome.counts.legal for edit in edits)
        if often and any(edit.source_tokens > self.source_tokens for edit in edits):
            self.source_tokens = grown(self.source_tokens, self.config.max_source_tokens)

    async def _edit(
        self, functions: FunctionSet, evidence: tuple[Evidence, ...], material: Material, *, seed: int
    ) -> Edit:
        """The best of ``n_samples`` drafts of one edit of ``functions``."""
        n, kind, usage = self.config.n_samples, evidence[0].problem.kind, Usage()
        while True:
            known = self.room.limit
            context = await self._context(functions, evidence, material)
            if context is None:
                counts = ActionCounts(unfit=n)
                return Edit(None, EditOutcome(kind=kind, drafts=n, end="unfit", counts=counts), usage, evidence)
            drafts = [Draft(context, derive(seed, "draft", index)) for index in range(n)]
            await self._run(drafts)
            usage = sum((draft.talk.usage for draft in drafts), usage)
            if self.room.limit == known or not all(draft.counts().unfit for draft in drafts):
                break  # else the context has turned out to be smaller than it was thought to be
        verified = best(drafts, self.config.min_matches)
        cut_sources = sum(draft.cut_sources for draft in drafts)
        source_tokens = max(draft.source_tokens for draft in drafts)
        outcome = outcome_of(kind, drafts, verified)
        return Edit(verified, outcome, usage, context.evidence, cut_sources, source_tokens)

    async def _context(
        self, functions: FunctionSet, evidence: tuple[Evidence, ...], material: Material
    ) -> DraftContext | None:
        """What the drafts of an edit share: as much evidence as the model's context has room for; None if for none."""
        config = self.config

        def write(shown: Sequence[Evidence], share: float) -> str:
            return prompts.fill(
                "optimizer",
                types="str" if self.one_text else TYPES_ALLOWED,
                packages=", ".join(config.allowed_packages),
                one_text="- It takes exactly one parameter, a str.\n" if self.one_text else "",
                functions=functions_text(material.functions, material.rollouts, int(config.functions_tokens * share)),
                failures=failures_text(
                    material.failures, int(config.failures_tokens * share), material.rollouts, evidence
                ),
                transcripts=transcripts_text(shown, int(config.evidence_tokens * share)),
            )

        fitted = await fit(write, evidence, self.room, config, self.thinking)
        if fitted is None:
            return None
        if fitted.share < 1 or len(fitted.evidence) < len(evidence):
            shown, share = f"{len(fitted.evidence)} of {len(evidence)} rollouts", 100 * fitted.share
            log.info(
                "the context of %s tokens has room for %s and %.0f %% of the budgets", self.room.limit, shown, share
            )
        return DraftContext(
            model=self.model,
            task=self.task,
            sandbox=self.sandbox,
            config=config,
            functions=functions,
            evidence=fitted.evidence,
            header=header_constraint(functions) if config.constrain else None,
            prompt=fitted.prompt,
            room=self.room,
            source_tokens=self.source_tokens,
            one_text=self.one_text,
            thinking=self.thinking,
        )

    async def _run(self, drafts: Sequence[Draft]) -> None:
        """Run drafts at once, until one answers all shown problems or all have ended."""
        tasks = [asyncio.create_task(draft.run()) for draft in drafts]
        try:
            for finished in asyncio.as_completed(tasks):
                verified = await finished
                if verified is not None and verified.complete:
                    break  # no other draft can do better
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def best(drafts: Sequence[Draft], min_matches: int = 0) -> Verified | None:
    """The verified edit that answers the most shown problems; of equals, the one of the earliest draft.

    Functions that answer fewer than ``min_matches`` of them are ignored.
    """
    verified = [
        draft.verified
        for draft in drafts
        if draft.verified is not None and (draft.verified.trials == 0 or draft.verified.matches >= min_matches)
    ]
    return max(verified, key=lambda each: each.matches / max(1, each.trials), default=None)
