"""An update of the function set, counts of its actions, and the settings of the optimizer that samples them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import Field

from agentopt_local.actions import Action, AddFunction, ReviseFunction
from agentopt_local.chat import Usage
from agentopt_local.errors import FunctionError
from agentopt_local.functions import FunctionSet
from agentopt_local.record import Record
from agentopt_local.setting_types import Seconds
from agentopt_local.source import unbound_names

GROWTH = 3
"""How many times as large a limit of tokens may become that replies reach again and again."""

STDLIB_ALLOWED = (
    "bisect", "calendar", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "json", "math", "numbers", "operator", "random", "re", "statistics", "string", "textwrap", "time",
    "typing", "unicodedata",
)  # fmt: skip


class OptimizerConfig(Record):
    """How the optimizer samples and checks its edits."""

    max_actions: int = Field(default=3, ge=1, le=1000)
    """Edits per step."""
    concurrent: bool = True
    """Sample edits for different kinds of failed problems at once, on the same set, and apply them in order.

    False: one after another, each on the result of the previous one, as in the paper."""
    progressive: bool = True
    """Edit the set; False: write a complete new set in each step that replaces it (the paper's ablation)."""
    n_samples: int = Field(default=8, ge=1, le=10_000)
    """Drafts of one edit, sampled at once; the best verified one is applied."""
    max_retries: int = Field(default=2, ge=0, le=10_000)
    """How often a draft is returned to the model with its error or wrong results."""
    min_matches: int = Field(default=1, ge=0)
    """A function is applied only if its trials answered this many of the shown (failed) problems; 0 as in the paper."""
    n_evidence: int = Field(default=3, ge=1, le=10_000)
    """Failed rollouts shown for each edit."""
    hold_back: bool = True
    """Show at most half of a kind's failures, so that the others can tell whether an edit helps where it was not shown
    the answers."""
    group_by_likeness: bool = True
    """Split the failures of a kind by their questions and the agent's programs, so that problems which are shown
    together are alike. A generated data set, as of reasoning_gym, stays whole."""
    evidence_tokens: int = Field(default=1500, ge=100)
    """Approximate budget for them in the prompt."""
    functions_tokens: int = Field(default=1500, ge=100)
    """Approximate budget for the sources of the current functions in the prompt."""
    failures_tokens: int = Field(default=600, ge=0)
    """Approximate budget for the updates that did not help: their scores, code, and problems fixed and broken."""
    max_header_tokens: int = Field(default=64, ge=16)
    """Generated tokens of an action's kind and name."""
    max_source_tokens: int = Field(default=400, ge=64)
    """Generated tokens of one source. Where sources are cut off there again and again, more are allowed: at most three
    times as many."""
    max_arguments_tokens: int = Field(default=100, ge=16)
    """Generated tokens of the arguments of trial calls, for each of ``n_evidence`` problems."""
    temperature: float = Field(default=0.8, ge=0, le=100)
    repair_temperature: float = Field(default=1.0, ge=0, le=100)
    """Temperature for sources written after feedback; higher, because small models tend to repeat themselves."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    constrain: bool = True
    """Sample under grammars; False: check replies and sample again (an ablation)."""
    constrain_source: bool = True
    """Constrain sources too. Large models can write Python without a grammar, and write more freely without one."""
    allowed_packages: tuple[str, ...] = (*STDLIB_ALLOWED, "sympy", "numpy")
    """Top-level packages that a function may import."""
    timeout_s: Seconds = 5.0
    """Wall-clock limit of one trial call."""


def grown(limit: int, configured: int) -> int:
    """The limit of tokens after one that cut a reply off: half as much again, at most GROWTH times ``configured``."""
    return min(limit * 3 // 2, max(limit, GROWTH * configured))


class ActionCounts(Record):
    """What happened to sampled actions."""

    sampled: int = 0
    """Actions sampled from the model, including repairs."""
    legal: int = 0
    """Of these, well-formed and allowed for the set that they were sampled for."""
    verified: int = 0
    """Of these, compiled, typed, with allowed imports, and run without an error on their examples."""
    applied: int = 0
    """Of these, applied to a set that was then rolled out."""
    repeated: int = 0
    """Repairs that repeated a failed source, or its results, and were refused."""
    cut: int = 0
    """Replies that a limit of tokens, or the end of the context, has cut off."""
    unfit: int = 0
    """Drafts that ended without an edit because the model's context had no room for them."""

    def __add__(self, other: ActionCounts) -> ActionCounts:
        return ActionCounts(**{name: getattr(self, name) + getattr(other, name) for name in ActionCounts.model_fields})


EditEnd = Literal["applied", "terminated", "taken", "unmatched", "failed", "refused", "illegal", "cut", "unfit"]
"""``applied``: to the set that was rolled out · ``terminated``: the optimizer saw nothing to improve · ``taken``: an
earlier edit of the step has the name · ``unmatched``: the functions ran and answered too few shown problems ·
``failed``: all that were tried raised errors · ``refused``: no source passed the checks · ``illegal``: no draft chose a
possible action · ``cut``: all sources were cut off · ``unfit``: the context had no room."""


class EditOutcome(Record):
    """What became of all drafts of one edit."""

    kind: str = ""
    """Of the problems that its author was shown."""
    group: str = ""
    """The part of the kind that they are from, with the kind; empty if the kind was not split."""
    drafts: int = 0
    end: EditEnd
    matches: int = 0
    """Most shown problems that a draft's function answered."""
    shown: int = 0
    """Problems that were shown."""
    counts: ActionCounts = ActionCounts()
    trouble: str = ""
    """What was most often wrong with a draft's last sample."""

    @property
    def about(self) -> str:
        """The group, or else the kind, of the problems."""
        return self.group or self.kind or "problems"


class Verified(Record):
    """An action that passed every check."""

    action: Action
    matches: int = 0
    """Shown problems that the function answered correctly when called directly."""
    trials: int = 0
    """Shown problems that it was tried on."""

    @property
    def complete(self) -> bool:
        """Whether it answered all shown problems."""
        return self.trials > 0 and self.matches == self.trials


class Update(Record):
    """The edited set and the actions that produced it."""

    functions: FunctionSet
    actions: tuple[Action, ...] = ()
    shown: tuple[tuple[str, ...], ...] = ()
    """For each action, the ids of the problems that its author was shown; empty in updates of older versions."""
    matches: tuple[str, ...] = ()
    """For each action, how many of the shown problems its function answered correctly in trials, as ``2/3``."""
    counts: ActionCounts = ActionCounts()
    usage: Usage = Usage()
    outcomes: tuple[EditOutcome, ...] = ()
    """Of all edits that were drafted, applied or not; empty in updates of older versions."""
    source_tokens: int | None = None
    """What ``max_source_tokens`` has grown to; None if it has not."""

    def plus(self, outcome: EditOutcome, usage: Usage) -> Update:
        """The update with one more edit's ``outcome`` and ``usage`` added."""
        counts = self.counts + outcome.counts
        outcomes = (*self.outcomes, outcome)
        return self.model_copy(update={"counts": counts, "usage": self.usage + usage, "outcomes": outcomes})

    @property
    def seen(self) -> frozenset[str]:
        """Ids of all problems that its authors were shown."""
        return frozenset(each for ids in self.shown for each in ids)

    def applying(self, verified: Verified, shown: Sequence[str] = ()) -> Update:
        """The update with one more edit; unchanged if an earlier edit of the step has taken the name.

        ``shown``: ids of the problems that its author was shown.
        """
        try:
            functions = verified.action.apply(self.functions)
        except FunctionError:
            return self
        return self.model_copy(
            update={
                "functions": functions,
                "actions": (*self.actions, verified.action),
                "shown": (*self.shown, tuple(shown)),
                "matches": (*self.matches, f"{verified.matches}/{verified.trials}"),
                "counts": self.counts + ActionCounts(applied=1),
            }
        )

    def having(self, base: FunctionSet, edits: Collection[int]) -> Update:
        """The update with only the edits at these indices, applied to ``base``. Raises FunctionError if they depend on
        others; see :meth:`needs`."""
        functions, kept = base, sorted(edits)
        for index in kept:
            functions = self.actions[index].apply(functions)
        return self.model_copy(
            update={
                "functions": functions,
                "actions": tuple(self.actions[index] for index in kept),
                "shown": tuple(self.shown[index] for index in kept) if self.shown else (),
                "matches": tuple(self.matches[index] for index in kept),
            }
        )

    def needs(self, index: int) -> frozenset[int]:
        """Indices of the edits without which the edit at ``index`` cannot be tried, itself included: earlier edits of
        the same function, and of functions that its own calls, with what they need."""
        action = self.actions[index]
        names = {getattr(action, "name", "")}
        if isinstance(action, AddFunction | ReviseFunction):
            names.update(unbound_names(action.function.source))
        found = {index}
        for earlier in reversed(range(index)):
            if getattr(self.actions[earlier], "name", None) in names:
                found |= self.needs(earlier)
        return frozenset(found)

    def summaries(self) -> tuple[str, ...]:
        """``kind name`` of each action."""
        return tuple(f"{each.kind} {getattr(each, 'name', '')}".strip() for each in self.actions)
