"""An update of the function set, counts of its actions, and the settings of the optimizer that samples them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
    n_solved: int = Field(default=1, ge=0, le=10_000)
    """Right rollouts of the same kind shown beside them, as examples of what works."""
    n_screen: int = Field(default=24, ge=0, le=100_000)
    """Training problems of its kind that a draft's function is tried on besides those shown, before an edit is chosen:
    the model writes arguments for them without seeing answers. At most so many, drawn by the seed; 0: none."""
    extra_edits: int = Field(default=3, ge=0, le=1000)
    """Edits that a step may draft beyond ``max_actions``, for kinds of which no draft was right."""
    n_alternatives: int = Field(default=2, ge=0, le=100)
    """Other names and docstrings for a right function, from other drafts or written anew in the problems' words. They
    are rolled out too if more than a quarter of the problems of its kind fail without a use of the function. Unless it
    is 0, a function that is added with the code of one in the set gives that one its docstring instead."""
    max_helpers: int = Field(default=0, ge=0, le=1000)
    """Edits per step that learn from success: programs that solved problems are factored into a function and programs
    that call it. They are part of ``max_actions``."""
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
    max_reflection_tokens: int = Field(default=100, ge=0)
    """Generated tokens of what a draft says about its wrong results before it writes another source: a sentence or two
    about the form of the expected ones and how to get there. 0: it writes at once. A model that thinks needs none."""
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


GOOD = 0.8
"""Share of the pool that a right function answers at least: some of the arguments for it are wrong."""


class Verified(Record):
    """An action that passed every check."""

    action: Action
    matches: int = 0
    """Shown problems that the function answered when called directly, or programs that were right with it."""
    trials: int = 0
    """Shown problems, or programs, that it was tried on."""
    screened: int | None = None
    """Of the pool, problems that it answered; None if it was not tried on them."""
    pool: int = 0
    """Problems of the pool."""

    @property
    def complete(self) -> bool:
        """Whether it answered all shown problems."""
        return 0 < self.trials == self.matches

    @property
    def share(self) -> float:
        """Of all problems that it was tried on, those that it answered."""
        return (self.matches + (self.screened or 0)) / max(1, self.trials + self.pool)

    @property
    def right(self) -> bool:
        """Whether it answered all shown problems, and as many of the pool as a right function does."""
        return self.complete and (self.screened or 0) >= GOOD * self.pool


class Update(Record):
    """The edited set and the actions that produced it."""

    functions: FunctionSet
    actions: tuple[Action, ...] = ()
    shown: tuple[tuple[str, ...], ...] = ()
    """For each action, the ids of the problems that its author was shown; empty in updates of older versions."""
    matches: tuple[str, ...] = ()
    """For each action, how many of the shown problems its function answered correctly in trials, as ``2/3``."""
    alternatives: tuple[tuple[Action, ...], ...] = ()
    """For each action, others that were just as right; empty where there are none."""
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

    def applying(self, verified: Verified, shown: Sequence[str] = (), alternatives: Sequence[Action] = ()) -> Update:
        """The update with one more edit; unchanged if an earlier edit of the step has taken the name.

        ``shown``: ids of the problems that its author was shown. ``alternatives``: others that are just as right.
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
                "alternatives": (*self._alternatives, tuple(alternatives)),
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
                "alternatives": tuple(self._alternatives[index] for index in kept),
            }
        )

    @property
    def _alternatives(self) -> tuple[tuple[Action, ...], ...]:
        return self.alternatives or tuple(() for _ in self.actions)

    def drafted(self, index: int) -> tuple[Action, ...]:
        """The edit at ``index`` and its alternatives, one of which may have been kept in its place."""
        return (self.actions[index], *self._alternatives[index])

    def choices(self, index: int) -> Iterator[Update]:
        """The update, and the same with each alternative in place of the edit at ``index``."""
        return (self.choosing({index: each}) for each in self.drafted(index))

    def choosing(self, actions: Mapping[int, Action]) -> Update:
        """The update with other actions at some indices; its ``functions`` are those of before."""
        chosen = tuple(actions.get(index, action) for index, action in enumerate(self.actions))
        return self.model_copy(update={"actions": chosen})

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
