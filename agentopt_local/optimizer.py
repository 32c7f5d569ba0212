"""Algorithm 1 of the paper, progressive function update: up to ``max_actions`` edits, one after another.

For each edit ``n_samples`` drafts are sampled at once: header, source, example arguments, trials in the sandbox, and
repairs after an error or wrong results. The best verified draft is applied, and the next edit starts from the result.
By default edits for different kinds of failed problems are sampled together, because a local engine has free slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentopt_local import prompts
from agentopt_local.actions import Terminate, header_constraint
from agentopt_local.chat import ChatModel, Thinking, Usage
from agentopt_local.concurrency import together
from agentopt_local.drafts import Draft, DraftContext
from agentopt_local.evidence import (
    Evidence,
    failures_text,
    focus_groups,
    functions_text,
    pick,
    transcripts_text,
)
from agentopt_local.functions import FunctionSet
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.seeds import derive
from agentopt_local.signatures import TYPES_ALLOWED
from agentopt_local.tasks.base import Task
from agentopt_local.train_state import FailedUpdate
from agentopt_local.update import ActionCounts, OptimizerConfig, Update, Verified


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
    ) -> None:
        """``model`` writes the functions, ``sandbox`` runs their trials and ``task`` grades the results.

        ``one_text``: functions take exactly one str. ``thinking``: how the model thinks before each reply.
        """
        self.model = model
        self.task = task
        self.sandbox = sandbox
        self.config = config
        self.one_text = one_text
        self.thinking = thinking

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
        queue = focus_groups(rollouts)
        if not progressive:  # the functions of the new set are written at once, independently
            queue = (queue * left)[:left]
        while queue and left:
            wave = queue[: min(left, len(queue) if self.config.concurrent or not progressive else 1)]
            first = self.config.max_actions - left
            queue, left = queue[len(wave) :], left - len(wave)
            present = update.functions if progressive else functions
            shown = functions_text(present, rollouts, self.config.functions_tokens)
            seeds = [derive(seed, "edit", first + index) for index in range(len(wave))]
            picked = [self._pick(group, each) for group, each in zip(wave, seeds, strict=True)]
            edits = await together(
                self._edit(update.functions, evidence, shown, failures, seed=each)
                for evidence, each in zip(picked, seeds, strict=True)
            )
            for group, evidence, (verified, counts, usage) in zip(wave, picked, edits, strict=True):
                update = update.plus(counts, usage)
                if verified is not None and isinstance(verified.action, Terminate):
                    left = 0
                    continue
                if progressive and (verified is None or not verified.complete):
                    queue.append(group)  # some of its problems are unanswered: another try, after the other kinds
                if verified is not None:
                    update = update.applying(verified, [each.problem.id for each in evidence])
        return update if update.actions else update.model_copy(update={"functions": functions})

    def _pick(self, group: Sequence[Evidence], seed: int) -> tuple[Evidence, ...]:
        """The failures of a kind that an edit's drafts are shown."""
        most = max(1, len(group) // 2) if self.config.hold_back else len(group)
        return pick(group, min(self.config.n_evidence, most), seed)

    async def _edit(
        self,
        functions: FunctionSet,
        evidence: tuple[Evidence, ...],
        shown: str,
        failures: Sequence[FailedUpdate],
        *,
        seed: int,
    ) -> tuple[Verified | None, ActionCounts, Usage]:
        """The best of ``n_samples`` drafts of one edit of ``functions``; ``shown``: the current functions as text."""
        config = self.config
        context = DraftContext(
            model=self.model,
            task=self.task,
            sandbox=self.sandbox,
            config=config,
            functions=functions,
            evidence=evidence,
            header=header_constraint(functions) if config.constrain else None,
            one_text=self.one_text,
            thinking=self.thinking,
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
        drafts = [Draft(context, derive(seed, "draft", index)) for index in range(config.n_samples)]
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
        counts = sum((draft.counts() for draft in drafts), ActionCounts())
        usage = sum((draft.usage for draft in drafts), Usage())
        return best(drafts, config.min_matches), counts, usage


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
