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
from benchmarks.paper.protocol import ArmName, Paper, Protocol
from benchmarks.paper.summary import difference, interval, mean, numbers, share

BASELINES = {
    "untrained": "untrained, interpreter only",
    "self_consistency": "self-consistency, at most the same tokens",
    "one_shot": "one-shot functions",
}
ARMS: dict[ArmName, str] = {"creator": "CREATOR, at most the same tokens", "craft": "CRAFT, at most the same tokens"}
SHORT = {"self_consistency": "self-consistency", "one_shot": "one-shot", "creator": "CREATOR", "craft": "CRAFT"}
SPENT = ("building", "once", "votes")
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
    arms: dict[str, ArmFigures] = Field(default={})


class ArmFigures(Record):
    """What else there is of an arm with votes."""

    once: Mean
    """Test accuracy of one attempt per problem."""
    votes: float
    tools: float
    tokens: dict[str, float]
    """Per seed: of ``building`` the tools, of ``once``, of the ``votes``."""


def baselines(protocol: Protocol) -> dict[str, str]:
    """What the trained agent is compared with, with titles."""
    return {**BASELINES, **{name: ARMS[name] for name in protocol.arms}}


def rows(protocol: Protocol, results: Mapping[tuple[str, ...], Sequence[dict[str, Any]]]) -> list[Row]:
    """A row for each combination with a finished cell. ``results``: the cells' results by labels, one per seed."""
    table = [
        row_of(labels, cells, protocol.paper.get(" / ".join(labels)), list(baselines(protocol)))
        for labels, cells in results.items()
        if cells
    ]
    adjusted = iter(holm([gain.p_value or 0.0 for row in table for gain in row.gains.values()]))
    return [row.model_copy(update={"p_holm": {side: next(adjusted) for side in row.gains}}) for row in table]


def row_of(
    labels: tuple[str, ...], cells: Sequence[dict[str, Any]], paper: Paper | None, against: Sequence[str]
) -> Row:
    """The row of one combination. Raises ValueError if its seeds were tested on different problems."""
    if any(cell["problems"] != cells[0]["problems"] for cell in cells):
        raise ValueError(f"the seeds of {' / '.join(labels)} were tested on different problems")
    right = {side: [cell[side] for cell in cells] for side in ("trained", *against)}
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
        gains={side: difference(right[side], right["trained"]) for side in against if not same_set(cells, side)},
        votes=mean(cell["votes"] for cell in cells),
        functions=mean(len(cell["functions"]) for cell in cells),
        called=100 * mean(cell["called"] / n for cell in cells),
        tokens=means([cell["tokens"] for cell in cells]),
        arms={name: arm_figures([cell["arms"][name] for cell in cells]) for name in against if name in ARMS},
    )


def arm_figures(found: Sequence[dict[str, Any]]) -> ArmFigures:
    """The figures of one arm over its seeds."""
    votes, tools = (mean(each[key] for each in found) for key in ("votes", "tools"))
    spent = means([each["tokens"] for each in found])
    return ArmFigures(once=share([each["once"] for each in found]), votes=votes, tools=tools, tokens=spent)


def means(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean of each value."""
    return {key: mean(each[key] for each in found) for key in found[0]}


def same_set(cells: Sequence[dict[str, Any]], side: str) -> bool:
    """Whether a baseline had the very set that was trained, in every cell: their difference is then no result."""
    sets = [cell.get("sets", {}) for cell in cells]
    return all(side in each and each[side] == each["trained"] for each in sets)


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
    against = baselines(protocol)
    head = [*names, "paper: train, test", "n × trainings", "train", *against.values(), "trained"]
    head += ["gain over untrained", *(f"over {SHORT[side]}" for side in [*against][1:]), "functions (called)"]
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
        votes = {"self_consistency": row.votes, **{name: arm.votes for name, arm in row.arms.items()}}
        counted = {side: f", {votes[side]:.0f} votes" if side in votes else "" for side in (*against, "trained")}
        cells += [f"{interval(row.shares[side])}{text}" for side, text in counted.items()]
        cells += [gain_text(row, side) for side in against]
        cells.append(f"{row.functions:.1f} ({row.called:.0f} %)")
        lines.append(line(cells))
    lines += arm_lines(table) + over_trainings(table, see) + regime_lines(regime)
    if missing:
        lines += ["", "Not there yet: " + "; ".join(missing) + "."]
    return "\n".join(lines) + "\n"


def gain_text(row: Row, side: str) -> str:
    """``+12.5 [3.1, 21.9], p = 0.012, Holm 0.048``."""
    gain = row.gains.get(side)
    if gain is None:
        return "same set"
    return f"{interval(gain, sign=True)}, p = {gain.p_value:.2g}, Holm {row.p_holm.get(side, 1.0):.2g}"


def arm_lines(table: Sequence[Row]) -> list[str]:
    """One attempt per problem of each arm, and what all arms and the trained agent have read and generated."""
    if not any(row.arms for row in table):
        return []
    lines = ["", "One attempt per problem, as published, and tokens per test problem with what was spent before:", ""]
    for row in table:
        spent = {"trained": row.tokens["training"] + row.tokens["trained"], "untrained": row.tokens["untrained"]}
        parts = [f"{side} {total / row.n:.0f}" for side, total in spent.items()]
        for name, arm in row.arms.items():
            once, votes = ((arm.tokens["building"] + arm.tokens[key]) / row.n for key in ("once", "votes"))
            tools = f"tools: {arm.tools:.0f}, " if name == "craft" else ""
            parts.append(f"{SHORT[name]} {interval(arm.once)} ({tools}{once:.0f} tokens; with votes {votes:.0f})")
        lines.append(f"* {' / '.join(row.labels)}: {', '.join(parts)}")
    return lines


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


def line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_csv(protocol: Protocol, table: Sequence[Row]) -> str:
    """The table for programs."""
    out = io.StringIO()
    against = baselines(protocol)
    sides = ("trained", *against)
    head = [axis.name for axis in protocol.axes] + ["n", "seeds"]
    head += [f"paper_{name}" for name in ("train_before", "train_after", "test_before", "test_after")]
    head += [f"train_{side}" for side in ("untrained", "trained")]
    head += [f"{side}{part}" for side in sides for part in ("", "_low", "_high")]
    head += [f"gain_over_{side}{part}" for side in against for part in GAIN_PARTS]
    head += ["votes", "functions", "called", *(f"tokens_{key}" for key in ("training", *sides[1:3], "trained"))]
    for name in protocol.arms:
        head += [f"{name}_{key}" for key in ("once", "votes", "tools", *(f"tokens_{each}" for each in SPENT))]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in table:
        train = [figure.value for figure in row.train] if row.train else ["", ""]
        values: list[Any] = [*row.labels, row.n, row.seeds, *(row.paper or [""] * 4), *train]
        values += [value for side in sides for value in numbers(row.shares[side])]
        values += [value for side in against for value in gain_values(row, side)]
        values += [row.votes, row.functions, row.called]
        values += [row.tokens[key] for key in ("training", *sides[1:3], "trained")]
        for arm in row.arms.values():
            values += [arm.once.value, arm.votes, arm.tools, *(arm.tokens[key] for key in SPENT)]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return out.getvalue()


def gain_values(row: Row, side: str) -> list[Any]:
    """A gain's values in the order of GAIN_PARTS; nothing if both had the same set."""
    gain = row.gains.get(side)
    if gain is None:
        return ["same set", *[""] * (len(GAIN_PARTS) - 1)]
    each = " ".join(f"{value:.6g}" for value in gain.each)
    return [*numbers(gain), gain.p_value, row.p_holm.get(side), "" if gain.sd is None else gain.sd, each]
