"""RESULTS.md: a section for each plan that was run. A new run of a plan replaces its section; the others stay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from agentopt_local.run.files import write_atomically
from benchmarks.results.cells import Result
from benchmarks.results.plan import Plan
from benchmarks.results.table import table

PAGE = Path(__file__).resolve().parents[1] / "RESULTS.md"
HEAD = """# Results

Each section is a run of a plan in `benchmarks/plans/`. A plan is written before anything is measured: the kinds of
problems or the rule that chooses them, the number of problems and trainings, the arms and the tokens allowed.
`python -m benchmarks.results PLAN` writes a section, or replaces that of the same plan. Trials (`--limit`) are never
written here.

How to read a section:

* A line is one training. Each draws its own training problems, and all are tested on the same ones. Its interval is for
  other test problems and says nothing about other trainings.
* The certificate is about that training's functions alone: a sequential test on further problems that played no part in
  the training. All trainings of the plan share its error rate. *helps* is the strongest statement in the table.
* What the method does on average is below the table, with an interval over trainings. Where it includes 0, the
  trainings claim nothing about the method.
* Processors and cards compute differently, so another machine may give other figures with the same settings.

[docs/statistics.md](../docs/statistics.md) explains the tests.
"""


def section(
    name: str,
    plan: Plan,
    results: Sequence[Result],
    *,
    command: str,
    notes: Sequence[str] = (),
    today: date | None = None,
) -> str:
    """The section of a plan. ``notes``: what was chosen by rule, what is missing and why."""
    commits = " and ".join(sorted({each.commit or "unknown" for each in results})) or "–"
    lines = [f"## {plan.title}", ""]
    lines += [plan.note.strip(), ""] if plan.note.strip() else []
    lines += [
        f"* Command: `{command}` (plan `{name}`)",
        f"* Date: {today or date.today()}; commit {commits}",
        f"* Model: {' and '.join(sorted({each.model for each in results})) or '–'}",
        f"* Machine: {'; '.join(sorted({each.machine for each in results})) or '–'}",
        *(f"* {note}" for note in notes),
        "",
        *table(results),
    ]
    return "\n".join(lines).rstrip() + "\n"


def put(page: Path, name: str, text: str) -> None:
    """Write the section of plan ``name`` into ``page``: in place of its last one, or above the others."""
    begin, end = f"<!-- plan: {name} -->", f"<!-- end of plan: {name} -->"
    block = f"{begin}\n{text}{end}\n"
    known = page.read_text(encoding="utf-8") if page.is_file() else HEAD
    old = re.compile(re.escape(begin) + r"\n.*?" + re.escape(end) + r"\n", re.DOTALL)
    if old.search(known):
        known = old.sub(lambda _: block, known, count=1)
    else:
        above, first, below = known.partition("<!-- plan: ")
        known = f"{above.rstrip()}\n\n{block}" + (f"\n{first}{below}" if first else "")
    write_atomically(page, known)
