"""Why a step changed nothing, and why a run learned nothing, in sentences, each with what to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from agentopt_local.run.nothing import NothingLearned
from agentopt_local.run.rows import StepRow
from agentopt_local.train_state import StopCause
from agentopt_local.update import EditEnd, EditOutcome

LESS_TO_SHOW = "give the optimizer's model a longer context (engine.max_model_len) or lower optimizer.evidence_tokens"
LONGER = "raise optimizer.max_source_tokens"
BETTER = "more drafts (optimizer.n_samples), more repairs (optimizer.max_retries) or a larger optimizer_model"
REMEDIES: dict[EditEnd, str] = {
    "unmatched": f"{BETTER}; functions that help without answering alone need optimizer.min_matches = 0",
    "failed": BETTER,
    "refused": BETTER,
    "illegal": "optimizer.constrain = true, or a larger optimizer_model",
    "cut": f"{LONGER}, if the context has room for it",
    "unfit": LESS_TO_SHOW,
    "terminated": "a larger optimizer_model, or more drafts (optimizer.n_samples)",
    "taken": "more edits per step (optimizer.max_actions) or more steps (trainer.max_epochs)",
}
"""What to try where edits ended so."""
SOLVED = "choose harder problems (task.spec) or more of them (task.n_train): only failures can teach something"
ROLLED_BACK = "more training problems (task.n_train), on which a gain can be told from chance, or more steps"


def step_reasons(row: StepRow) -> list[str]:
    """Why a step changed nothing; empty if it did."""
    if row.decision == "accepted":
        return []
    if row.decision == "rolled_back":
        return [rolled_back(row)]
    if row.before.n and len(row.before.solved) == row.before.n:
        return ["all of its problems were solved already"]
    if row.outcomes:
        return list(by_kind(row.outcomes))
    if row.counts.sampled:
        return [f"of {row.counts.sampled} sampled actions {row.counts.verified} could be run and none was applied"]
    return ["the optimizer proposed nothing"]


def rolled_back(row: StepRow) -> str:
    """Why an update was undone."""
    tried = ", ".join(f"{each.kind.split('_')[0]} {each.name or ''}".strip() for each in row.actions) or "the update"
    judgement = row.candidates[0].judgement if row.candidates else None
    if judgement is None:
        return f"{tried}: accuracy {row.before.accuracy:.2f} -> {row.after.accuracy:.2f}, so it was undone"
    counted = "" if judgement.n == row.before.n else " that its author was not shown"
    changed = f"{judgement.gained} gained and {judgement.lost} lost of the {judgement.n} problems{counted}"
    enough = ", which may be chance" if judgement.gained > judgement.lost else ""
    return f"{tried}: {changed}{enough}, so it was undone"


def by_kind(outcomes: Sequence[EditOutcome]) -> Iterator[str]:
    """A sentence per kind of problem, or group of a kind, on the edit that got furthest."""
    for about in dict.fromkeys(each.about for each in outcomes):
        tries = [each for each in outcomes if each.about == about]
        best = max(tries, key=lambda each: (each.end == "applied", each.matches, each.counts.verified))
        again = f" (best of {len(tries)} tries)" if len(tries) > 1 else ""
        yield f"{about}: {outcome_text(best)}{again}"


def outcome_text(outcome: EditOutcome) -> str:
    """What became of an edit's drafts."""
    counts, drafts = outcome.counts, f"{outcome.drafts} draft{'' if outcome.drafts == 1 else 's'}"
    answered = f"the best answered {outcome.matches} of {outcome.shown} shown problems"
    text = {
        "applied": "an edit was applied" + (f"; {answered}" if outcome.shown else ""),
        "terminated": "the optimizer saw nothing to improve",
        "taken": f"another edit of the step had the same name; {answered}",
        "unmatched": f"no function of {drafts} answered enough of the shown problems: {answered}",
        "failed": f"every function of {drafts} failed in its trials",
        "refused": f"{drafts}, but no source passed the checks",
        "illegal": f"{drafts}, but none chose a possible action",
        "cut": f"{drafts}, but their sources were cut off before they were complete",
        "unfit": f"the context had no room for {'the draft' if outcome.drafts == 1 else f'any of {drafts}'}",
    }[outcome.end]
    if outcome.trouble and outcome.end in ("failed", "refused", "illegal"):
        text += f", most often: {outcome.trouble}"
    also = [
        f"{counts.cut} repl{'y was' if counts.cut == 1 else 'ies were'} cut off" if counts.cut else "",
        f"{counts.unfit} of the drafts did not fit into the context" if counts.unfit and outcome.end != "unfit" else "",
        f"{counts.repeated} repair{'' if counts.repeated == 1 else 's'} repeated what had failed"
        if counts.repeated
        else "",
    ]
    return "; ".join([text, *(each for each in also if each)])


def nothing_learned(steps: Sequence[StepRow], stopped: StopCause | None = None) -> NothingLearned | None:
    """Why a training with these steps has kept no update; None if it has, or if it has not tried any yet."""
    if any(row.decision == "accepted" for row in steps):
        return None
    if not steps:
        solved = NothingLearned(because=("all training problems were solved already",), remedies=(SOLVED,))
        return solved if stopped == "solved" else None
    because = tuple(f"step {row.step}: {'; '.join(step_reasons(row))}" for row in steps)
    return NothingLearned(because=because, remedies=tuple(remedies(steps)))


def remedies(steps: Sequence[StepRow]) -> list[str]:
    """What to try, by how often it would have been needed."""
    found: Counter[str] = Counter()
    for row in steps:
        if row.decision == "rolled_back":
            found[ROLLED_BACK] += 1
        elif row.before.n and len(row.before.solved) == row.before.n:
            found[SOLVED] += 1
        for each in row.outcomes:
            if each.end in REMEDIES:
                found[REMEDIES[each.end]] += 1
            if each.counts.cut * 2 > each.counts.legal:
                found[REMEDIES["cut"]] += 1
            if each.counts.unfit:
                found[LESS_TO_SHOW] += 1
    return [each for each, _ in found.most_common()]
