"""Finished cells as a table: CSV, Markdown, and the figures for the pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from agentopt_local.record import Record
from benchmarks.paper.protocol import Protocol
from benchmarks.paper.summary import Figure, difference, share

BASELINES = {
    "untrained": "untrained, interpreter only",
    "self_consistency": "self-consistency, at most the same tokens",
    "one_shot": "one-shot functions",
}
Paper = tuple[float, float, float, float]


class Row(Record):
    """One line of a table: a combination of values over its finished seeds."""

    labels: tuple[str, ...]
    n: int
    """Test problems."""
    seeds: int
    paper: Paper | None
    train: tuple[Figure, Figure] | None
    """Training accuracy before and after; None if a cell trains on batches."""
    shares: dict[str, Figure]
    """Test accuracy of the trained agent and of each baseline."""
    gains: dict[str, Figure]
    """The trained agent minus each baseline."""
    votes: float
    functions: float
    called: float
    """Share of test rollouts in which the trained agent called a learned function, in per cent."""
    tokens: dict[str, float]
    """Per seed."""


def rows(protocol: Protocol, results: Mapping[tuple[str, ...], Sequence[dict[str, Any]]]) -> list[Row]:
    """A row for each combination with a finished cell. ``results``: the cells' results by labels, one per seed."""
    return [row_of(labels, cells, protocol.paper.get(" / ".join(labels))) for labels, cells in results.items() if cells]


def row_of(labels: tuple[str, ...], cells: Sequence[dict[str, Any]], paper: Paper | None) -> Row:
    """The row of one combination. Raises ValueError if its seeds were tested on different problems."""
    if any(cell["problems"] != cells[0]["problems"] for cell in cells):
        raise ValueError(f"the seeds of {' / '.join(labels)} were tested on different problems")
    right = {side: [cell[side] for cell in cells] for side in ("trained", *BASELINES)}
    train = None
    if all("train" in cell for cell in cells):
        before, after = ([cell["train"][side] for cell in cells] for side in ("untrained", "trained"))
        train = (share(before), share(after))
    n = len(cells[0]["problems"])
    return Row(
        labels=labels,
        n=n,
        seeds=len(cells),
        paper=paper,
        train=train,
        shares={side: share(right[side]) for side in right},
        gains={side: difference(right[side], right["trained"]) for side in BASELINES},
        votes=mean(cell["votes"] for cell in cells),
        functions=mean(len(cell["functions"]) for cell in cells),
        called=100 * mean(cell["called"] / n for cell in cells),
        tokens={key: mean(cell["tokens"][key] for cell in cells) for key in cells[0]["tokens"]},
    )


def mean(values: Any) -> float:
    """The arithmetic mean."""
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)


def markdown(protocol: Protocol, table: Sequence[Row], missing: Sequence[str]) -> str:
    """The table for people, with the paper's figures next to ours."""
    names = [axis.name for axis in protocol.axes]
    head = [*names, "paper: train, test", "n × seeds", "train", *BASELINES.values(), "trained"]
    head += ["gain over untrained", "over self-consistency", "over one-shot", "functions (called)"]
    lines = [
        f"# {protocol.title}",
        "",
        "Per cent right, with 95 % intervals. Gains of the trained agent are in points, on the",
    ]
    lines += ["same problems and seeds, with their p-values.", ""]
    lines += [f"{protocol.note}\n"] if protocol.note else []
    lines += [line(head), line(["---"] * len(head))]
    for row in table:
        before, after = row.train or (None, None)
        cells = [*row.labels, paper_text(row.paper), f"{row.n} × {row.seeds}"]
        cells.append(f"{before.value:.1f} → {after.value:.1f}" if before and after else "–")
        for side in (*BASELINES, "trained"):
            votes = f", {row.votes:.0f} votes" if side == "self_consistency" else ""
            cells.append(f"{interval(row.shares[side])}{votes}")
        cells += [f"{interval(row.gains[side], sign=True)}, p = {row.gains[side].p_value:.2g}" for side in BASELINES]
        cells.append(f"{row.functions:.1f} ({row.called:.0f} %)")
        lines.append(line(cells))
    if missing:
        lines += ["", "Not there yet: " + "; ".join(missing) + "."]
    return "\n".join(lines) + "\n"


def paper_text(paper: Paper | None) -> str:
    """``55.0 → 60.0, 83.8 → 82.5``."""
    if paper is None:
        return "–"
    shown = ["?" if math.isnan(value) else f"{value:.1f}" for value in paper]
    return f"{shown[0]} → {shown[1]}, {shown[2]} → {shown[3]}"


def interval(figure: Figure, *, sign: bool = False) -> str:
    """``52.5 [47.0, 58.1]``."""
    form = "+.1f" if sign else ".1f"
    value, low, high = (round(number, 1) + 0.0 for number in numbers(figure))  # + 0.0: no "-0.0"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_csv(protocol: Protocol, table: Sequence[Row]) -> str:
    """The table for programs."""
    out = io.StringIO()
    sides = ("trained", *BASELINES)
    head = [axis.name for axis in protocol.axes] + ["n", "seeds"]
    head += [f"paper_{name}" for name in ("train_before", "train_after", "test_before", "test_after")]
    head += [f"train_{side}" for side in ("untrained", "trained")]
    head += [f"{side}{part}" for side in sides for part in ("", "_low", "_high")]
    head += [f"gain_over_{side}{part}" for side in BASELINES for part in ("", "_low", "_high", "_p")]
    head += ["votes", "functions", "called", *(f"tokens_{key}" for key in ("training", *sides[1:3], "trained"))]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in table:
        train = [figure.value for figure in row.train] if row.train else ["", ""]
        values: list[Any] = [*row.labels, row.n, row.seeds, *(row.paper or [""] * 4), *train]
        values += [value for side in sides for value in numbers(row.shares[side])]
        values += [value for side in BASELINES for value in (*numbers(row.gains[side]), row.gains[side].p_value)]
        values += [row.votes, row.functions, row.called]
        values += [row.tokens[key] for key in ("training", *sides[1:3], "trained")]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return out.getvalue()


def numbers(figure: Figure) -> tuple[float, float, float]:
    """Value and bounds."""
    return figure.value, figure.low, figure.high


def matrix_markdown(protocol: Protocol, names: Sequence[str], matrix: dict[tuple[str, str], dict[str, Figure]]) -> str:
    """A transfer matrix: trained on the row's domain, tested on the column's."""
    lines = [
        f"# {protocol.title}",
        "",
        "Per cent right on the column's test problems after training on the row's, and the",
    ]
    lines += ["gain over the untrained agent in points, with 95 % intervals.", ""]
    lines += [f"{protocol.note}\n"] if protocol.note else []
    lines += [line(["trained on", *(f"tested on {name}" for name in names)]), line(["---"] * (len(names) + 1))]
    for source in names:
        cells = [source]
        for target in names:
            found = matrix.get((source, target))
            text = "–" if found is None else f"{interval(found['trained'])} ({interval(found['gain'], sign=True)})"
            cells.append(text)
        lines.append(line(cells))
    return "\n".join(lines) + "\n"


def matrix_csv(matrix: dict[tuple[str, str], dict[str, Figure]]) -> str:
    """A transfer matrix, one line per pair."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trained_on", "tested_on", "accuracy", "low", "high", "gain", "gain_low", "gain_high", "gain_p"])
    for (source, target), found in matrix.items():
        figures = [*numbers(found["trained"]), *numbers(found["gain"]), found["gain"].p_value or 0.0]
        writer.writerow([source, target, *(f"{value:.6g}" for value in figures)])
    return out.getvalue()
