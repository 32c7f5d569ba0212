"""The table of a plan: a line for each training, then each arm over its trainings, then the kinds of problems."""

from __future__ import annotations

from collections.abc import Sequence

from agentopt_local.chat import Usage
from agentopt_local.run.report import Arm, Certificate, Difference
from agentopt_local.statistics import holm
from agentopt_local.trainings import Mean, mean_change, outlook
from benchmarks.paper.tables import interval, line
from benchmarks.results.cells import Result
from ray_jobs.grid_tables import difference
from ray_jobs.terminal.printing import ARMS

SAME_SET = "same set"
HEAD = (
    "arm", "training", "untrained", "trained", "difference", "certificate", "kept functions",
    "steps accepted / rolled back / skipped", "optimizer", "rollouts", "test", "checks", "seconds",
)  # fmt: skip
READ_IT = (
    "Per cent right; differences in points on the same problems and seeds, with 95 % intervals (Tango) and p-values, "
    "raw (McNemar) and adjusted (Holm) for the trainings of this table. Tokens of the optimizer, the training's "
    "rollouts, the test with its baselines, and the checks (noise floor, certificate) in thousands: generated (read). "
    "Behind a baseline stands what the trained agent has over it."
)


def table(results: Sequence[Result]) -> list[str]:
    """The lines of the table and of what follows it. ``results``: in the order of the plan."""
    if not results:
        return ["No training is finished."]
    baselines = list(dict.fromkeys(each.name for result in results for each in result.comparison.arms))
    head = [*HEAD[:5], *(ARMS.get(name, name) for name in baselines), *HEAD[5:]]
    tested = [result for result in results if not result.comparison.same_set]
    adjusted = dict(zip(map(id, tested), holm([each.comparison.difference.p_value for each in tested]), strict=True))
    lines = [READ_IT, "", measured_on(results), "", line(head), line(["---"] * len(head))]
    for result in results:
        compared = result.comparison
        arms = {each.name: each for each in compared.arms}
        gain = SAME_SET
        if not compared.same_set:
            p = f"p = {compared.difference.p_value:.2g}, Holm {adjusted[id(result)]:.2g}"
            gain = f"{change(compared.difference)}, {p}"
        steps = result.training
        cells = [result.arm, str(result.seed), per_cent(compared.before.accuracy), per_cent(compared.after.accuracy)]
        cells += [gain, *(baseline(arms.get(name)) for name in baselines), certificate(result.certificate)]
        cells += [f"{len(result.functions)}: {', '.join(map(code, result.functions))}" if result.functions else "0"]
        cells += [f"{steps.accepted} / {steps.rolled_back} / {steps.skipped}"]
        cells += [thousands(result.tokens[use]) for use in HEAD[8:12]]
        lines.append(line([*cells, f"{result.seconds:.0f}"]))
    return [*lines, "", *over_trainings(results), "", *kinds(results)]


def measured_on(results: Sequence[Result]) -> str:
    """What the accuracies are about, and what the certificates were held to."""
    sizes = " or ".join(sorted({f"{each.comparison.n} {each.split} problems" for each in results}))
    shown = "" if any(each.split == "test" for each in results) else ", none of which was shown in training"
    levels = sorted({f"{c.alpha:g} / {c.trainings}" for each in results if (c := each.certificate) is not None})
    shared = f" Certificates share alpha over the trainings of the plan: {', '.join(levels)}." if levels else ""
    return f"Measured on {sizes}{shown}.{shared}"


def over_trainings(results: Sequence[Result]) -> list[str]:
    """What the trainings of each arm show together, and what they do not."""
    lines = []
    for arm in dict.fromkeys(each.arm for each in results):
        mine = [each for each in results if each.arm == arm]
        if len({each.problems for each in mine}) > 1:
            lines.append(f"* {arm}: its trainings were measured on different problems, so there is no mean.")
        elif len(mine) == 1:
            lines.append(f"* {arm}: one training, which claims nothing about the method.")
        else:
            lines.append(f"* {arm}: {together(mine)}")
    return ["Over trainings:", "", *lines]


def together(results: Sequence[Result]) -> str:
    """The mean gain of an arm with its interval, and what may be claimed."""
    if all(each.comparison.same_set for each in results):
        return f"no function was kept in {len(results)} trainings; they claim nothing about the method."
    mean = mean_change(
        [
            difference({"gained": found.gained, "lost": found.lost, "n": each.comparison.n})
            for each in results
            for found in (each.comparison.difference,)
        ]
    )
    each = ", ".join(f"{value:+.1f}" for value in mean.each)
    spread = f"{each}; standard deviation {mean.sd or 0.0:.1f}"
    return f"mean gain {interval(mean, sign=True)} points over {len(results)} trainings ({spread}). {claim(mean)}"


def claim(mean: Mean) -> str:
    """What a mean over trainings allows to say about the method."""
    if mean.low <= 0 <= mean.high:
        width = (mean.high - mean.low) / 2
        return f"With ±{width:.1f} points they claim nothing about the method; {outlook(mean)}."
    return f"On average, trainings with these settings {'gain' if mean.low > 0 else 'lose'}."


def kinds(results: Sequence[Result]) -> list[str]:
    """Problems solved by kind, for each arm the trainings in turn."""
    names = list(dict.fromkeys(kind for each in results for kind in each.comparison.kinds))
    arms = list(dict.fromkeys(each.arm for each in results))
    lines = ["By kind, solved untrained → trained, a training after the other:", ""]
    lines += [line(["kind", "problems", *arms]), line(["---"] * (len(arms) + 2))]
    for kind in names:
        found = {
            arm: [r.comparison.kinds[kind] for r in results if r.arm == arm and kind in r.comparison.kinds]
            for arm in arms
        }
        sizes = sorted({each.n for counts in found.values() for each in counts})
        shown = [", ".join(f"{each.before} → {each.after}" for each in found[arm]) or "–" for arm in arms]
        lines.append(line([kind, " or ".join(map(str, sizes)), *shown]))
    return lines


def certificate(found: Certificate | None) -> str:
    """The verdict with its counts."""
    if found is None:
        return "none asked for"
    if found.verdict in ("same_set", "not_possible"):
        return found.summary()
    verdict = {"helps": "**helps**", "does_not_help": "does not help"}.get(found.verdict, "no evidence")
    return f"{verdict}: {found.gained} gained, {found.lost} lost of {found.n} (E = {found.evidence:.3g})"


def baseline(arm: Arm | None) -> str:
    """How a baseline did, and what the trained agent has over it."""
    if arm is None:
        return "–"
    if arm.result is None:
        return "no vote fits"
    votes = "" if arm.votes is None else f", {arm.votes} vote{'' if arm.votes == 1 else 's'}"
    over = SAME_SET if arm.difference is None else change(arm.difference)
    return f"{per_cent(arm.result.accuracy)}{votes} ({over})"


def change(found: Difference) -> str:
    """``+30.0 [17.8, 43.0]``."""
    low, high = found.ci95
    return f"{found.points + 0.0:+.1f} [{low:+.1f}, {high:+.1f}]"


def per_cent(share: float) -> str:
    """``31.7``."""
    return f"{100 * share:.1f}"


def thousands(usage: Usage) -> str:
    """``9.3 (41.2)``."""
    return f"{usage.completion_tokens / 1000:.1f} ({usage.prompt_tokens / 1000:.1f})"


def code(name: str) -> str:
    """A name as code."""
    return f"`{name}`"
