"""Where a function comes from: the problems that its edits were shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.run.rows import StepRow
from agentopt_local.update import Update


class Origin(Record):
    """What the edits that wrote a function were shown."""

    shown: frozenset[str] = frozenset()
    """Ids of the problems; all training problems if a run of an older version does not say which."""
    kinds: frozenset[str] = frozenset()
    """The kinds of these problems, for which it was written; none if that is not known, or nothing was shown."""
    known: bool = True
    """Whether the run says which problems were shown."""

    def wrote_for(self, problem: Problem) -> bool:
        """Whether the function was written for problems of this kind."""
        return not self.kinds or problem.kind in self.kinds


def origins(
    functions: FunctionSet,
    steps: Iterable[StepRow],
    updates: Mapping[tuple[int, int], Update],
    problems: Sequence[Problem],
) -> dict[str, Origin]:
    """The origin of each function of a set that was trained on ``problems``.

    ``updates``: by step and candidate. What counts are the accepted edits since the function was last added; one that
    the training started from was shown nothing.
    """
    shown: dict[str, frozenset[str]] = {}
    unknown: set[str] = set()
    for row in steps:
        update = updates.get((row.step, row.candidate or 0))
        if row.decision != "accepted":
            continue
        edits = {(each.kind, each.name) for each in row.actions}
        if update is None or len(update.shown) < len(update.actions):  # of an older version
            unknown |= {each.name for each in row.actions if each.name}
            continue
        for action, seen in ((each, ids) for at, ids in enumerate(update.shown) for each in update.drafted(at)):
            name = getattr(action, "name", None)
            if name is None or (action.kind, name) not in edits:
                continue
            before = frozenset[str]() if action.kind == "add_function" else shown.get(name, frozenset())
            shown[name] = before | frozenset(seen)
    kinds = {each.id: each.kind for each in problems}
    everything = Origin(shown=frozenset(kinds), known=False)
    found = {}
    for name in functions.names:
        ids = shown.get(name, frozenset())
        known = Origin(shown=ids, kinds=frozenset(kinds[each] for each in ids if each in kinds))
        found[name] = everything if name in unknown else known
    return found
