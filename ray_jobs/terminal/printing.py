"""Plain text that commands print: a report, a diff of function sets, an error."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.problem import Split
from agentopt_local.run.contribution import Memorising
from agentopt_local.run.report import FunctionResult, Report

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line breaks and tabs, marks of direction, and halves of surrogate pairs."""


def report_text(report: Report, split: Split = "test") -> str:
    """A report in a few lines."""
    test = report.on(split)
    if test is None or test.n == 0:
        return "No held-out problems were asked for (task.n_test = 0)."
    lines = [f"Held-out problems: {test.n} (split {split}, the same ones before and after)"]
    for label, side in (("before", test.before), ("after ", test.after)):
        low, high = side.ci95
        lines.append(f"  {label}  {100 * side.accuracy:5.1f} %   95 % interval {100 * low:.1f} to {100 * high:.1f}")
    change = test.difference
    low, high = change.ci95
    lines.append(
        f"  change  {change.points:+5.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, "
        f"McNemar p = {change.p_value:.2g} ({change.gained} gained, {change.lost} lost)"
        if report.functions
        else "  change  none: both are the agent without functions"
    )
    if len(test.kinds) > 1:
        lines += [f"  {kind}: {row.before} -> {row.after} of {row.n}" for kind, row in test.kinds.items()]
    lines.append("Functions learned:" if report.functions else "No function was learned.")
    lines += [
        f"  {each.signature}\n    {each.description.splitlines()[0]}\n    {use_text(each)}" for each in report.functions
    ]
    lines += memory_warnings(report.memorising)
    counts, costs = report.actions, report.costs
    lines.append(
        f"Actions: {counts.sampled} sampled, {counts.legal} legal, {counts.verified} verified, {counts.applied} applied"
    )
    if costs.money:
        lines.append(f"Cost: {costs.money:.4f} (agent {costs.agent.cost:.4f}, optimizer {costs.optimizer.cost:.4f})")
    return "\n".join(lines)


def use_text(function: FunctionResult) -> str:
    """How a function was used, with what failed and what was called from code."""
    calls, failed, code = function.calls, function.calls - function.ok, function.only_in_code
    parts = (
        [f"{calls} direct call{'' if calls == 1 else 's'}{f', {failed} of them failed' if failed else ''}"]
        if calls
        else []
    )
    parts += [f"called from code only in {code} attempt{'' if code == 1 else 's'}"] if code else []
    used = f"{function.solved} of {function.problems} problems that used it were solved"
    return "; ".join([*parts, used] if parts else ["never called"])


def memory_warnings(found: Sequence[Memorising]) -> list[str]:
    """A line for each function that looks memorised."""
    return [f"Warning: {each.text}" for each in found]


def functions_diff(old: Path | None, new: Path) -> str:
    """A unified diff between two ``functions/NNNN`` folders; everything is new if ``old`` is None."""
    before = {path.name: path.read_text(encoding="utf-8") for path in old.glob("*.py")} if old else {}
    after = {path.name: path.read_text(encoding="utf-8") for path in new.glob("*.py")}
    parts: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        parts += difflib.unified_diff(
            before.get(name, "").splitlines(keepends=True),
            after.get(name, "").splitlines(keepends=True),
            f"a/{name}" if name in before else "/dev/null",
            f"b/{name}" if name in after else "/dev/null",
        )
    return "".join(parts)


def printable(text: str) -> str:
    """``text`` without what could control a terminal: escapes, returns to the line's start, changes of direction.

    Models, files and strangers' run folders decide about most of what is shown.
    """
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def say(text: object, *, error: bool = False) -> None:
    """Print a line on standard output, or on standard error: all that the commands print passes here."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def error_line(text: str) -> None:
    """Print an error on standard error."""
    say(f"agentopt: {text}", error=True)
