"""Finished cells as a table: CSV, Markdown, and the figures for the pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from agentopt_local.record import Record
from agentopt_local.statistics import holm
from agentopt_local.trainings import POINTS, Mean, outlook
from benchmarks.paper.protocol import Paper, Protocol
from benchmarks.paper.summary import difference, share

BASELINES = {
    "untrained": "untrained, interpreter only",
    "self_consistency": "self-consistency, at most the same tokens",
    "one_shot": "one-shot functions",
}
GAIN_PARTS = ("", "_low", "_high", "_p", "_p_holm", "_sd", "_each")


class Row(Record):
    """One line of a table: a combination of values over its finished seeds."""

    labels: tuple[str, ...]
    n: int
    """Test problems."""
    seeds: int
    paper: Paper | None
    train: tuple[Mean, Mean] | None
    """Training accuracy before and after; None if a cell trains on batches."""
    shares: dict[str, Mean]
    """Test accuracy of the trained agent and of each baseline."""
    gains: dict[str, Mean]
    """The trained agent minus each baseline; without those that had the trained set itself."""
    p_holm: dict[str, float] = Field(default={})
    """The p-values of ``gains``, adjusted for all of the table."""
    votes: float
    functions: float
    called: float
    """Share of test rollouts in which the trained agent called a learned function, in per cent."""
    tokens: dict[str, float]
    """Per seed."""


def rows(protocol: Protocol, results: Mapping[tuple[str, ...], Sequence[dict[str, Any]]]) -> list[Row]:
    """A row for each combination with a finished cell. ``results``: the cells' results by labels, one per seed."""
    table = [
        row_of(labels, cells, protocol.paper.get(" / ".join(labels))) for labels, cells in results.items() if cells
    ]
    adjusted = iter(holm([gain.p_value or 0.0 for row in table for gain in row.gains.values()]))
    return [row.model_copy(update={"p_holm": {side: next(adjusted) for side in row.gains}}) for row in table]


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
        gains={side: difference(right[side], right["trained"]) for side in BASELINES if not same_set(cells, side)},
        votes=mean(cell["votes"] for cell in cells),
        functions=mean(len(cell["functions"]) for cell in cells),
        called=100 * mean(cell["called"] / n for cell in cells),
        tokens={key: mean(cell["tokens"][key] for cell in cells) for key in cells[0]["tokens"]},
    )


def same_set(cells: Sequence[dict[str, Any]], side: str) -> bool:
    """Whether a baseline had the very set that was trained, in every cell: their difference is then no result."""
    sets = [cell.get("sets", {}) for cell in cells]
    return all(side in each and each[side] == each["trained"] for each in sets)


def mean(values: Any) -> float:
    """The arithmetic mean."""
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)


def markdown(
    protocol: Protocol,
    table: Sequence[Row],
    missing: Sequence[str],
    regime: Sequence[str] = (),
    see: float = POINTS,
) -> str:
    """The table for people, with the paper's figures next to ours.

    ``regime``: what differs from the authors' regime; ``see``: the gain for which the trainings needed are worked out.
    """
    names = [axis.name for axis in protocol.axes]
    head = [*names, "paper: train, test", "n × trainings", "train", *BASELINES.values(), "trained"]
    head += ["gain over untrained", "over self-consistency", "over one-shot", "functions (called)"]
    lines = [
        f"# {protocol.title}",
        "",
        "Per cent right, with 95 % intervals. Gains of the trained agent are in points, on the same problems and",
        f"seeds, with p-values, raw and adjusted (Holm) for the {sum(len(row.gains) for row in table)} of this table.",
        "",
    ]
    lines += [f"{protocol.note}\n"] if protocol.note else []
    lines += [line(head), line(["---"] * len(head))]
    for row in table:
        before, after = row.train or (None, None)
        cells = [*row.labels, paper_text(row.paper), f"{row.n} × {row.seeds}"]
        cells.append(f"{before.value:.1f} → {after.value:.1f}" if before and after else "–")
        for side in (*BASELINES, "trained"):
            votes = f", {row.votes:.0f} votes" if side == "self_consistency" else ""
            cells.append(f"{interval(row.shares[side])}{votes}")
        cells += [gain_text(row, side) for side in BASELINES]
        cells.append(f"{row.functions:.1f} ({row.called:.0f} %)")
        lines.append(line(cells))
    lines += over_trainings(table, see) + regime_lines(regime)
    if missing:
        lines += ["", "Not there yet: " + "; ".join(missing) + "."]
    return "\n".join(lines) + "\n"


def gain_text(row: Row, side: str) -> str:
    """``+12.5 [3.1, 21.9], p = 0.012, Holm 0.048``."""
    gain = row.gains.get(side)
    if gain is None:
        return "same set"
    return f"{interval(gain, sign=True)}, p = {gain.p_value:.2g}, Holm {row.p_holm.get(side, 1.0):.2g}"


def over_trainings(table: Sequence[Row], see: float) -> list[str]:
    """What the trainings of each row show together: each change, their spread, and how many more are needed."""
    if not table:
        return []
    if all(row.seeds == 1 for row in table):
        return [
            "",
            "One training each: intervals and p-values are for other problems and say nothing about other trainings.",
        ]
    lines = [
        "",
        "Intervals are for other trainings and other problems: each training drew its own training problems, all were "
        "tested on the same ones. Gains over the untrained agent by training, their standard deviation (sd), and how "
        "many more trainings find a true gain in 80 % of cases:",
        "",
    ]
    for row in table:
        gain = row.gains.get("untrained")
        if gain is not None:
            each = ", ".join(f"{value:+.1f}" for value in gain.each)
            spread = "" if gain.sd is None else f" (sd {gain.sd:.1f})"
            lines.append(f"* {' / '.join(row.labels)}: {each}{spread}; {outlook(gain, see)}")
    return lines


def regime_lines(regime: Sequence[str]) -> list[str]:
    """What differs from the authors' regime."""
    return (
        [
            "",
            "What differs from the authors' regime, whose figures these are beside:",
            "",
            *(f"* {each}" for each in regime),
        ]
        if regime
        else []
    )


def paper_text(paper: Paper | None) -> str:
    """``55.0 → 60.0, 83.8 → 82.5``."""
    if paper is None:
        return "–"
    shown = ["?" if math.isnan(value) else f"{value:.1f}" for value in paper]
    return f"{shown[0]} → {shown[1]}, {shown[2]} → {shown[3]}"


def interval(figure: Mean, *, sign: bool = False) -> str:
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
    head += [f"gain_over_{side}{part}" for side in BASELINES for part in GAIN_PARTS]
    head += ["votes", "functions", "called", *(f"tokens_{key}" for key in ("training", *sides[1:3], "trained"))]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in table:
        train = [figure.value for figure in row.train] if row.train else ["", ""]
        values: list[Any] = [*row.labels, row.n, row.seeds, *(row.paper or [""] * 4), *train]
        values += [value for side in sides for value in numbers(row.shares[side])]
        values += [value for side in BASELINES for value in gain_values(row, side)]
        values += [row.votes, row.functions, row.called]
        values += [row.tokens[key] for key in ("training", *sides[1:3], "trained")]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return out.getvalue()


def gain_values(row: Row, side: str) -> list[Any]:
    """A gain's values in the order of GAIN_PARTS; nothing if both had the same set."""
    gain = row.gains.get(side)
    if gain is None:
        return ["same set", *[""] * (len(GAIN_PARTS) - 1)]
    each = " ".join(f"{value:.6g}" for value in gain.each)
    return [*numbers(gain), gain.p_value, row.p_holm.get(side), "" if gain.sd is None else gain.sd, each]


def numbers(figure: Mean) -> tuple[float, float, float]:
    """Value and bounds."""
    return figure.value, figure.low, figure.high


def matrix_markdown(
    protocol: Protocol,
    names: Sequence[str],
    matrix: dict[tuple[str, str], dict[str, Mean]],
    regime: Sequence[str] = (),
) -> str:
    """A transfer matrix: trained on the row's domain, tested on the column's."""
    adjusted = matrix_holm(matrix)
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


def matrix_holm(matrix: dict[tuple[str, str], dict[str, Mean]]) -> dict[tuple[str, str], float]:
    """The p-value of each pair's gain, adjusted for all pairs."""
    return dict(zip(matrix, holm([found["gain"].p_value or 0.0 for found in matrix.values()]), strict=True))


def matrix_csv(matrix: dict[tuple[str, str], dict[str, Mean]]) -> str:
    """A transfer matrix, one line per pair."""
    adjusted = matrix_holm(matrix)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["trained_on", "tested_on", "accuracy", "low", "high", "gain", "gain_low", "gain_high", "gain_p", "gain_p_holm"]
    )
    for (source, target), found in matrix.items():
        figures = [*numbers(found["trained"]), *numbers(found["gain"]), found["gain"].p_value or 0.0]
        writer.writerow([source, target, *(f"{value:.6g}" for value in (*figures, adjusted[source, target]))])
    return out.getvalue()
