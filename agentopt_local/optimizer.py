"""Algorithm 1 of the paper, progressive function update: up to ``max_actions`` edits, one after another.

Each edit is sampled ``n_samples`` times at once, each sample in a :class:`Draft` of its own: header, source, example
arguments, trial in the sandbox, and repairs with the error or the wrong results put to the model. The best
verified draft is applied; the next edit sees its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import Field

from agentopt_local import prompts
from agentopt_local.actions import Action, Terminate, header_constraint
from agentopt_local.chat import ChatModel, Usage
from agentopt_local.concurrency import together
from agentopt_local.drafts import Draft, DraftContext, Verified
from agentopt_local.errors import FunctionError
from agentopt_local.evidence import (
    Attempted,
    FailedUpdate,
    failures_text,
    focus_groups,
    functions_text,
    pick,
    transcripts_text,
)
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.source import TYPES_ALLOWED
from agentopt_local.task import Task

STDLIB_ALLOWED = (
    "bisect", "calendar", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "json", "math", "numbers", "operator", "random", "re", "statistics", "string", "textwrap", "time",
    "typing", "unicodedata",
)  # fmt: skip


class OptimizerConfig(Record):
    """How the optimizer samples and checks its edits."""

    max_actions: int = Field(default=3, ge=1)
    """Edits of one step."""
    concurrent: bool = True
    """Sample edits for different kinds of failed problems at once, on the same set, and apply them in order; False:
    one after another, each on the result of the one before, as in the paper."""
    progressive: bool = True
    """Edit the set; False: write a whole new one in each step, which replaces it (the paper's ablation)."""
    n_samples: int = Field(default=8, ge=1)
    """Samples of one edit, drawn at once; the best verified one is applied."""
    max_retries: int = Field(default=2, ge=0)
    """How often a sample goes back to the model with its error or its wrong results."""
    min_matches: int = Field(default=1, ge=0)
    """A function is applied only if its trials answered this many of the shown (failed) problems; 0 as in the paper."""
    n_evidence: int = Field(default=3, ge=1)
    """Attempts shown for one edit."""
    evidence_tokens: int = Field(default=1500, ge=100)
    """Budget for them in the prompt, about."""
    functions_tokens: int = Field(default=1500, ge=100)
    """Budget for the present functions' sources in the prompt, about."""
    failures_tokens: int = Field(default=300, ge=0)
    """Budget for the record of updates that did not help, about."""
    max_source_tokens: int = Field(default=400, ge=64)
    """Generated tokens of one source."""
    temperature: float = Field(default=0.8, ge=0)
    repair_temperature: float = Field(default=1.0, ge=0)
    """Of a source written after feedback: a small model that is not pushed repeats itself."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    constrain: bool = True
    """Sample under grammars; without, replies are checked and sampled again (an ablation)."""
    constrain_source: bool = True
    """Sources too: large models need no grammar to write Python, and write more freely without."""
    allowed_packages: tuple[str, ...] = (*STDLIB_ALLOWED, "sympy", "numpy")
    """Top-level packages that a function may import."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Wall-clock limit of one trial call."""


class ActionCounts(Record):
    """What became of sampled actions."""

    sampled: int = 0
    """Actions drawn from the model, repairs included."""
    legal: int = 0
    """Of these, well-formed and allowed on the set they were drawn for."""
    verified: int = 0
    """Of these, compiled, typed, with allowed imports, and run without error on their examples."""
    applied: int = 0
    """Of these, applied to a set that was then rolled out."""

    def __add__(self, other: ActionCounts) -> ActionCounts:
        return ActionCounts(
            sampled=self.sampled + other.sampled,
            legal=self.legal + other.legal,
            verified=self.verified + other.verified,
            applied=self.applied + other.applied,
        )


class Proposal(Record):
    """An update: the edited set and how it came about."""

    functions: FunctionSet
    actions: tuple[Action, ...] = ()
    matches: tuple[str, ...] = ()
    """For each action, how many of the shown problems its function answered right in trials, as ``2/3``."""
    counts: ActionCounts = ActionCounts()
    usage: Usage = Usage()

    def plus(self, counts: ActionCounts, usage: Usage) -> Proposal:
        """With more spent."""
        return self.model_copy(update={"counts": self.counts + counts, "usage": self.usage + usage})

    def applying(self, verified: Verified) -> Proposal:
        """With one more edit; the same if another edit of this step took the name first."""
        try:
            functions = verified.action.apply(self.functions)
        except FunctionError:
            return self
        return self.model_copy(
            update={
                "functions": functions,
                "actions": (*self.actions, verified.action),
                "matches": (*self.matches, f"{verified.matches}/{verified.trials}"),
                "counts": self.counts + ActionCounts(applied=1),
            }
        )

    def only(self, base: FunctionSet, indices: Sequence[int]) -> Proposal | None:
        """The update with some of its actions alone, applied to ``base``; None if they need the others."""
        functions = base
        try:
            for index in indices:
                functions = self.actions[index].apply(functions)
        except FunctionError:
            return None
        return self.model_copy(
            update={
                "functions": functions,
                "actions": tuple(self.actions[index] for index in indices),
                "matches": tuple(self.matches[index] for index in indices),
            }
        )

    def summaries(self) -> tuple[str, ...]:
        """``kind name`` of each action."""
        return tuple(f"{each.kind} {getattr(each, 'name', '')}".strip() for each in self.actions)


class Optimizer:
    """Proposes edits of a function set from what happened with it."""

    def __init__(
        self, model: ChatModel, task: Task, sandbox: Sandbox, config: OptimizerConfig, *, one_text: bool = False
    ) -> None:
        """``model`` writes, ``sandbox`` tries, ``task`` judges what a trial returned. ``one_text``: the agent's
        functions take one str and nothing else."""
        self.model = model
        self.task = task
        self.sandbox = sandbox
        self.config = config
        self.one_text = one_text

    async def propose(
        self,
        functions: FunctionSet,
        attempts: Sequence[Attempted],
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> Proposal:
        """An edited set. Equal to ``functions`` if the optimizer terminates at once or nothing was verified.

        ``attempts`` are those of ``functions`` on the training problems. Raises ModelError and SandboxError.
        """
        progressive, left = self.config.progressive, self.config.max_actions
        proposal = Proposal(functions=functions if progressive else FunctionSet())
        queue = focus_groups(attempts)
        if not progressive:  # all functions of the new set are written at once, none knowing of the others
            queue = (queue * left)[:left]
        while queue and left:
            wave = queue[: min(left, len(queue) if self.config.concurrent or not progressive else 1)]
            queue, left = queue[len(wave) :], left - len(wave)
            present = proposal.functions if progressive else functions
            shown = functions_text(present, attempts, self.config.functions_tokens)
            edits = await together(
                self._edit(proposal.functions, group, shown, failures, seed=seed * 1000 + left + index)
                for index, group in enumerate(wave)
            )
            for group, (verified, counts, usage) in zip(wave, edits, strict=True):
                proposal = proposal.plus(counts, usage)
                if verified is None:
                    continue
                if isinstance(verified.action, Terminate):
                    left = 0
                    continue
                if progressive and not verified.complete:
                    queue.append(group)  # there is more to mend: it comes round again after the other kinds
                proposal = proposal.applying(verified)
        return proposal if proposal.actions else proposal.model_copy(update={"functions": functions})

    async def _edit(
        self,
        functions: FunctionSet,
        group: Sequence[Attempted],
        shown: str,
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> tuple[Verified | None, ActionCounts, Usage]:
        """The best of ``n_samples`` drafts of one edit of ``functions``; ``shown``: the present ones in words."""
        config = self.config
        evidence = pick(group, config.n_evidence, seed)
        context = DraftContext(
            model=self.model,
            task=self.task,
            sandbox=self.sandbox,
            config=config,
            functions=functions,
            evidence=evidence,
            header=header_constraint(functions) if config.constrain else None,
            one_text=self.one_text,
            prompt=prompts.fill(
                "optimizer",
                types="str" if self.one_text else TYPES_ALLOWED,
                packages=", ".join(config.allowed_packages),
                one_text="- It takes exactly one parameter, a str.\n" if self.one_text else "",
                functions=shown,
                failures=failures_text(failures, config.failures_tokens),
                transcripts=transcripts_text(evidence, config.evidence_tokens),
            ),
        )
        drafts = [Draft(context, seed * 1000 + index) for index in range(config.n_samples)]
        tasks = [asyncio.create_task(draft.run()) for draft in drafts]
        try:
            for finished in asyncio.as_completed(tasks):
                verified = await finished
                if verified is not None and verified.complete:
                    break  # it answers every shown problem: the other drafts cannot do better
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        counts = sum((draft.counts() for draft in drafts), ActionCounts())
        usage = sum((draft.usage for draft in drafts), Usage())
        return best(drafts, config.min_matches), counts, usage


def best(drafts: Sequence[Draft], min_matches: int = 0) -> Verified | None:
    """The verified edit that answers most of the shown problems; the earliest draft among equals.

    A function that answers fewer than ``min_matches`` of them is left out.
    """
    verified = [
        draft.verified
        for draft in drafts
        if draft.verified is not None and (draft.verified.trials == 0 or draft.verified.matches >= min_matches)
    ]
    return max(verified, key=lambda each: each.matches / max(1, each.trials), default=None)
