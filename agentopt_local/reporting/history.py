"""The history and use of each function: its edits as diffs, its calls, and the problems solved only with it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from agentopt_local.actions import Action, AddFunction, ReviseFunction
from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.problem import Split
from agentopt_local.run.reader import RunFiles
from agentopt_local.run.rows import StepRow
from agentopt_local.trajectory import Trajectory, function_use
from agentopt_local.update import Update

Row = dict[str, Any]


def histories(run: RunFiles) -> dict[str, list[Row]]:
    """Every edit that was ever tried, by function name and in order.

    An edit is ``{"step", "kind", "decision", "kept", "matches", "source", "diff"}``. ``diff`` holds the lines of a
    unified diff against the source that was in force when the edit was made.
    """
    current: Mapping[str, str] = {}
    found: dict[str, list[Row]] = {}
    for step in run.steps:
        updates = run.proposals.get(step.step, {})
        accepted = step.decision == "accepted"
        after = run.sources.get(step.step) if accepted else current
        best = best_candidate(step, updates, after or {})
        if after is None:  # the folder is gone: use the whole update instead
            after = sources(updates[best]) if best is not None else current
        shown: list[tuple[Action, ...]] = []
        for number, update in sorted(updates.items()):
            if update.actions in shown:  # identical candidates are tried once
                continue
            shown.append(update.actions)
            add_edits(found, step, update, current, after if accepted and number == best else None)
        if not any(update.actions for update in updates.values()):
            for name in sorted(current.keys() | after.keys()):
                if current.get(name) != after.get(name):
                    found.setdefault(name, []).append(edit_from_folder(step.step, name, current, after))
        current = after
    return found


def add_edits(
    found: dict[str, list[Row]],
    step: StepRow,
    update: Update,
    current: Mapping[str, str],
    after: Mapping[str, str] | None,
) -> None:
    """Add the edits of one update to ``found``. ``after``: the sources after it, or None if it was not accepted."""
    working = dict(current)
    for index, matches in enumerate(update.matches[: len(update.actions)]):
        drafted = update.drafted(index)
        inforce = (each for each in drafted if after and after.get(getattr(each, "name", ""), "") == source_of(each))
        action = next(inforce, drafted[0])
        name = getattr(action, "name", "")
        if not name:
            continue
        old = working.get(name, "")
        new = source_of(action)
        found.setdefault(name, []).append(
            {
                "step": step.step,
                "kind": action.kind,
                "decision": step.decision,
                "kept": after is not None and after.get(name, "") == new,
                "matches": matches,
                "source": new,
                "diff": diff(old, new, name),
            }
        )
        working[name] = new


def best_candidate(step: StepRow, updates: Mapping[int, Update], after: Mapping[str, str]) -> int | None:
    """Which of a step's candidates was the best; None if none is recorded. ``after``: the sources after the step."""
    if step.candidate in updates:
        return step.candidate
    tried = step.fingerprint.after if step.fingerprint else None
    for number, update in sorted(updates.items()):  # rows of older versions name the actions, not the candidate
        written = {(str(each.kind), getattr(each, "name", None)): source_of(each) for each in update.actions}
        same = all(written.get((each.kind, each.name)) == after.get(each.name or "", "") for each in step.actions)
        if update.functions.fingerprint == tried or (step.actions and same):
            return number
    return min(updates, default=None)


def source_of(action: Action) -> str:
    """The source that an action writes; empty if it writes none."""
    return action.function.source if isinstance(action, (AddFunction, ReviseFunction)) else ""


def sources(update: Update) -> dict[str, str]:
    """The sources of the whole updated set."""
    return {each.name: each.source for each in update.functions.each()}


def edit_from_folder(number: int, name: str, before: Mapping[str, str], after: Mapping[str, str]) -> Row:
    """An accepted edit whose update was not recorded, reconstructed from the function folders."""
    kind = "remove_function" if name not in after else "revise_function" if name in before else "add_function"
    old, new = before.get(name, ""), after.get(name, "")
    return {
        "step": number,
        "kind": kind,
        "decision": "accepted",
        "kept": True,
        "matches": "",
        "source": new,
        "diff": diff(old, new, name),
    }


def diff(old: str, new: str, name: str) -> list[str]:
    """The lines of a unified diff without its two header lines."""
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="", n=4))[2:]


def final_functions(run: RunFiles) -> FunctionSet:
    """The best accepted set: from the state, or from the newest folder if there is no readable state."""
    if run.state.functions.functions or not run.sources:
        return run.state.functions
    parsed = [parse(source) for source in run.sources[max(run.sources)].values()]
    return FunctionSet(functions=tuple(each for each in parsed if each is not None))


def parse(source: str) -> Function | None:
    """``source`` as a function; None if it is not a valid one, for example because somebody edited the file."""
    try:
        return Function(source=source)
    except (FunctionError, ValueError):
        return None


def function_rows(
    run: RunFiles,
    splits: Mapping[Split, tuple[Mapping[str, Trajectory], Mapping[str, Trajectory]]],
) -> list[Row]:
    """One row for each function that was ever part of an update; learned ones come first, in the set's order.

    ``splits``: for each split the rollouts of the untrained and of the trained agent, by problem id.
    """
    final = final_functions(run)
    tried = histories(run)
    names = [*final.names, *(name for name in tried if name not in final)]
    ever_kept = {name for name, edits in tried.items() if any(edit["kept"] for edit in edits)}
    everything = [each.trajectory for each in run.rollouts]
    rows = []
    for name in names:
        history = tried.get(name, [])
        last = next((edit["source"] for edit in reversed(history) if edit["source"]), "")
        function = final.get(name) if name in final else parse(last)
        rows.append(
            {
                "name": name,
                "status": "learned" if name in final else "removed" if name in ever_kept else "never kept",
                "signature": function.signature if function else name,
                "description": function.description if function else "",
                "source": function.source if function else last,
                "schema": function.parameters if function else None,
                "history": history,
                "use": {split: use(name, *sides) for split, sides in splits.items()},
                "all": function_use(name, everything),
            }
        )
    return rows


def use(name: str, before: Mapping[str, Trajectory], after: Mapping[str, Trajectory]) -> Row:
    """The trained agent's calls of a function, and the problems that it solves only with them."""
    only = [
        problem
        for problem, trajectory in after.items()
        if trajectory.correct and problem in before and not before[problem].correct and trajectory.used(name)
    ]
    return {**function_use(name, list(after.values())), "only_with": only}
