"""The transfer matrix: trained on one domain, tested on another."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from agentopt_local.statistics import holm
from agentopt_local.trainings import Mean
from benchmarks.paper.protocol import Protocol
from benchmarks.paper.summary import interval, numbers
from benchmarks.paper.tables import line, regime_lines


def as_markdown(
    protocol: Protocol,
    names: Sequence[str],
    matrix: dict[tuple[str, str], dict[str, Mean]],
    regime: Sequence[str] = (),
) -> str:
    """A transfer matrix: trained on the row's domain, tested on the column's."""
    adjusted = adjusted_p(matrix)
    lines = [
        f"# {protocol.title}",
        "",
        "Per cent right on the column's test problems after training on the row's, and the gain over the untrained "
        f"agent in points, with 95 % intervals and p-values adjusted (Holm) for the {len(matrix)} pairs.",
        "",
    ]
    lines += [f"{protocol.note}\n"] if protocol.note else []
    lines += [line(["trained on", *(f"tested on {name}" for name in names)]), line(["---"] * (len(names) + 1))]
    for source in names:
        cells = [source]
        for target in names:
            found = matrix.get((source, target))
            gain = "" if found is None else f"{interval(found['gain'], sign=True)}, p {adjusted[source, target]:.2g}"
            cells.append("–" if found is None else f"{interval(found['trained'])} ({gain})")
        lines.append(line(cells))
    return "\n".join([*lines, *regime_lines(regime)]) + "\n"


def adjusted_p(matrix: dict[tuple[str, str], dict[str, Mean]]) -> dict[tuple[str, str], float]:
    """The p-value of each pair's gain, adjusted for all pairs."""
    return dict(zip(matrix, holm([found["gain"].p_value or 0.0 for found in matrix.values()]), strict=True))


def as_csv(matrix: dict[tuple[str, str], dict[str, Mean]]) -> str:
    """A transfer matrix, one line per pair."""
    adjusted = adjusted_p(matrix)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["trained_on", "tested_on", "accuracy", "low", "high", "gain", "gain_low", "gain_high", "gain_p", "gain_p_holm"]
    )
    for (source, target), found in matrix.items():
        figures = [*numbers(found["trained"]), *numbers(found["gain"]), found["gain"].p_value or 0.0]
        writer.writerow([source, target, *(f"{value:.6g}" for value in (*figures, adjusted[source, target]))])
    return out.getvalue()
