"""Plain text that commands print: a report, a diff of function sets, an error."""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agentopt_local.plain_text import PrintableFormatter, printable
from agentopt_local.problem import Split
from agentopt_local.run.contribution import Memorising
from agentopt_local.run.report import (
    Arm,
    Certificate,
    Comparison,
    Difference,
    Flips,
    FunctionResult,
    NoiseFloor,
    Report,
    Side,
    Visible,
)

ARMS = {
    "placebo": "placebo function",
    "self_consistency": "votes for the tokens of the test",
    "self_consistency_total": "votes for the tokens of training and test",
    "one_shot": "first proposal",
}
"""How baselines are called."""
SAME_SET = "the same set as the trained agent's, so there is nothing to compare"


def report_text(report: Report, split: Split = "test") -> str:
    """A report in a few lines."""
    test = report.on(split)
    certificate = [] if report.certificate is None else [certificate_text(report.certificate)]
    if test is None or test.n == 0:
        return "\n".join(["No held-out problems were asked for (task.n_test = 0).", *certificate])
    lines = [f"Held-out problems: {test.n} (split {split}, the same ones before and after)"]
    lines += [f"  before  {side_text(test.before)}", f"  after   {side_text(test.after)}"]
    same = test.same_set or not report.functions
    lines.append(f"  change  {'none: both are the agent without functions' if same else change_text(test.difference)}")
    if test.look is not None:
        lines.append(f"  {look_text(test)}")
    if len(test.kinds) > 1:
        lines += [f"  {kind}: {row.before} -> {row.after} of {row.n}" for kind, row in test.kinds.items()]
    lines += arm_lines(test)
    lines += certificate
    if report.noise_floor is not None:
        lines += floor_lines(report.noise_floor)
    lines.append("Functions learned:" if report.functions else "No function was learned.")
    lines += [
        f"  {each.signature}\n    {first_line(each.description)}\n    {use_text(each)}" for each in report.functions
    ]
    lines += [] if report.offers is None else [f"{report.offers.text}."]
    lines += [] if report.nothing_learned is None else [str(report.nothing_learned)]
    lines += memory_warnings(report.memorising)
    counts, costs = report.actions, report.costs
    lines.append(
        f"Actions: {counts.sampled} sampled, {counts.legal} legal, {counts.verified} verified, {counts.applied} applied"
    )
    if report.regime:
        lines += ['preset = "paper", but not the authors\' regime:', *(f"  {each}" for each in report.regime)]
    if parts := {part: each for part, each in report.seconds.parts.items() if each >= 0.5}:
        lines.append("Seconds: " + ", ".join(f"{part} {each:.0f}" for part, each in parts.items()))
    if costs.money:
        lines.append(f"Cost: {costs.money:.4f} (agent {costs.agent.cost:.4f}, optimizer {costs.optimizer.cost:.4f})")
    return "\n".join(lines)


def first_line(text: str) -> str:
    """The first line of a description; empty if there is none."""
    return next(iter(text.splitlines()), "")


def use_text(function: FunctionResult) -> str:
    """How a function was used, with what failed and what was called from code."""
    failed, code = function.calls - function.ok, function.only_in_code
    direct = plural(function.calls, "direct call") + (f", {failed} of them failed" if failed else "")
    parts = [direct] if function.calls else []
    parts += [f"called from code only in {plural(code, 'attempt')}"] if code else []
    used = f"{function.solved} of {function.problems} problems that used it were solved"
    return "; ".join([*parts, used] if parts else ["never called"])


def memory_warnings(found: Sequence[Memorising]) -> list[str]:
    """A line for each function that looks memorised."""
    return [f"Warning: {each.text}" for each in found]


def look_text(test: Comparison) -> str:
    """Which look at the test problems this was, and what follows from it."""
    text = f"look {test.look} of this test set (sha256 {test.test_set[:12]})"
    if test.look is None or test.look == 1:
        return text
    return f"{text}: of {test.look} looks the best one needs p < {0.05 / test.look:.2g} for what 0.05 says of one"


def certificate_text(certificate: Certificate) -> str:
    """A certificate in one or two lines."""
    basis = certificate.basis()
    return f"Certificate: {certificate.summary()}" + (f"\n  {basis}" if basis else "")


def side_text(side: Side) -> str:
    """An accuracy with its interval."""
    low, high = side.ci95
    return f"{100 * side.accuracy:5.1f} %   95 % interval {100 * low:.1f} to {100 * high:.1f}"


def change_text(change: Difference) -> str:
    """A paired difference with its interval and test."""
    low, high = change.ci95
    return (
        f"{change.points:+5.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, "
        f"McNemar p = {change.p_value:.2g} ({change.gained} gained, {change.lost} lost)"
    )


def arm_lines(test: Comparison) -> list[str]:
    """The other baselines, each with the trained agent's change against it."""
    if not test.arms:
        return []
    return ["Baselines on the same problems, and the trained agent's change against each:", *map(arm_line, test.arms)]


def arm_line(arm: Arm) -> str:
    """One baseline."""
    name = ARMS.get(arm.name, arm.name)
    if arm.votes is not None:
        name = f"{name} ({arm.votes} per problem)"
    if arm.result is None:
        return f"  {name}: not even one vote per problem fits into {arm.budget:,} tokens"
    change = SAME_SET if arm.difference is None else change_text(arm.difference)
    return f"  {name}: {side_text(arm.result).strip()}\n    {change.strip()}"


def floor_lines(floor: NoiseFloor) -> list[str]:
    """What chance does to the outcomes, and the gain that can be seen above it."""
    seen = f"With {seen_text(floor.train, 'training')}"
    if floor.test is not None:
        seen += f", with {seen_text(floor.test, 'test')}"
    return [
        f"Noise floor of {plural(floor.n, 'training problem')}, nothing learned: outcomes changed in "
        f"{flips_text(floor.again)} with another seed, in {flips_text(floor.placebo)} with a placebo function",
        seen,
    ]


def flips_text(flips: Flips) -> str:
    """A flip rate with its interval and what it consists of."""
    low, high = flips.ci95
    counts = f"{flips.gained} gained, {flips.lost} lost"
    return f"{100 * flips.rate:.0f} % ({100 * low:.0f} to {100 * high:.0f}; {counts})"


def seen_text(seen: Visible, kind: str) -> str:
    """The smallest gain that so many problems show."""
    problems = plural(seen.n, f"{kind} problem")
    if seen.points >= 100:
        return f"{problems} you will not see any gain"
    most = f" ({seen.at_most:.0f} if chance is at the upper end)" if round(seen.at_most) > round(seen.points) else ""
    return f"{problems} you will not see a gain of less than {seen.points:.0f} points{most}"


def plural(n: int, noun: str) -> str:
    """``1 problem``, ``2 problems``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def functions_diff(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """A unified diff between two sets of functions: their sources by the names of their files."""
    parts: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        parts += difflib.unified_diff(
            before.get(name, "").splitlines(keepends=True),
            after.get(name, "").splitlines(keepends=True),
            f"a/{name}" if name in before else "/dev/null",
            f"b/{name}" if name in after else "/dev/null",
        )
    return "".join(parts)


def say(text: object, *, error: bool = False) -> None:
    """Print a line on standard output, or on standard error: all that the commands print passes here."""
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(printable(str(text)).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def error_line(text: str) -> None:
    """Print an error on standard error."""
    say(f"agentopt: {text}", error=True)


class PlainParser(argparse.ArgumentParser):
    """A parser whose messages, which quote what was given, cannot control the terminal."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


def plain_warnings() -> None:
    """Let the warnings that no log takes, and that Python prints itself, not control the terminal either."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
