"""The tables of a sweep: a row per training, and one per setting with its trainings together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from agentopt_local.statistics import PairedDifference, holm, sign_test, tango
from agentopt_local.trainings import POINTS, mean_change, trainings_needed

Row = dict[str, Any]
SAME_SET = "same set"
"""The note on a training that learned nothing, so that its test compares the untrained agent with itself."""


def with_holm(rows: Sequence[Row]) -> list[Row]:
    """``rows`` with Holm's p-values behind their own, over all that have one. Sets without functions have none."""
    tested = [index for index, row in enumerate(rows) if row.get("p") is not None]
    adjusted = dict(zip(tested, holm([rows[index]["p"] for index in tested]), strict=True))
    return [
        {key: value for name in row for key, value in ((name, row[name]), *holm_column(name, adjusted.get(index)))}
        for index, row in enumerate(rows)
    ]


def holm_column(name: str, value: float | None) -> list[tuple[str, Any]]:
    """The column that follows ``p``."""
    return [("p_holm", value)] if name == "p" else []


def over_seeds(rows: Sequence[Row], varied: Sequence[str], points: float = POINTS) -> list[Row]:
    """The trainings of each combination of the other settings in ``varied`` together, a row for each.

    ``more_for_N``: more trainings that a t test needs to find a true gain of ``points`` in 80 % of cases;
    ``more_for_mean``: the same for a gain as large as the observed mean.
    """
    others = [key for key in varied if key != "seed"]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if "points" in row:
            groups.setdefault(json.dumps([row[key] for key in others]), []).append(row)
    found = [{key: same[0][key] for key in others} | together(same, points) for same in groups.values()]
    return with_holm(found)


def together(same: Sequence[Row], points: float) -> Row:
    """The columns of several trainings with the same settings, tested on the same problems."""
    mean = mean_change([difference(row) for row in same])
    sd = mean.sd
    alike = all(row.get("note") == SAME_SET for row in same)
    needed = {f"more_for_{points:g}": points, "more_for_mean": mean.value}
    return {
        "seeds": len(same),
        "n": same[0]["n"],
        "before": round(fmean(row["before"] for row in same), 4),
        "after": round(fmean(row["after"] for row in same), 4),
        "points": round(mean.value, 2),
        "low": None if alike else round(mean.low, 2),
        "high": None if alike else round(mean.high, 2),
        "p": None if alike else mean.p_value,
        "each": " ".join(f"{value:+.1f}" for value in mean.each),
        "sd": None if sd is None else round(sd, 2),
        "left_open": None if alike else round(mean.left_open, 2),
        **{key: None if sd is None or alike else more(gain, sd, len(same)) for key, gain in needed.items()},
        **({"note": SAME_SET} if alike else {}),
    }


def difference(row: Row) -> PairedDifference:
    """A training's change on its test problems."""
    low, high = tango(row["gained"], row["lost"], row["n"])
    return PairedDifference(
        n=row["n"],
        points=100 * (row["gained"] - row["lost"]) / row["n"],
        ci95=(100 * low, 100 * high),
        p_value=sign_test(row["gained"], row["lost"]),
        gained=row["gained"],
        lost=row["lost"],
    )


def more(gain: float, sd: float, have: int) -> int | None:
    """How many more trainings find a true gain of ``gain`` points; None if there is none, or it takes too many."""
    needed = trainings_needed(gain, sd)
    return None if needed is None else max(0, needed - have)


def table_text(rows: Sequence[Row]) -> str:
    """Format rows as aligned columns, one for each key that occurs in any row."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([shown(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)


def shown(value: Any) -> str:
    """The text of a table cell."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def footnotes(rows: Sequence[Row], means: Sequence[Row]) -> str:
    """What the reader of the two tables must know."""
    tested = sum(row.get("p") is not None for row in rows)
    lines = [f"p: McNemar. p_holm: adjusted (Holm) for the {tested} p-values of the trainings' table."]
    if any(row.get("note") == SAME_SET for row in rows):
        lines.append(f"{SAME_SET}: nothing was learned, so the agent would be compared with itself.")
    if means:
        adjusted = sum(row["p"] is not None for row in means)
        lines += [
            "Over seeds: each training drew its own training problems, and all were tested on the same ones.",
            f"low to high: 95 % interval for other trainings and other problems; p_holm: adjusted for {adjusted}.",
            "left_open: ± points that the test problems alone leave, however many trainings there are.",
            "more_for: trainings to add until a true gain of so many points is found in 80 % of cases.",
        ]
    if any(row["seeds"] == 1 for row in means):
        lines.append("One training says nothing about other trainings: its interval is for other problems only.")
    return "\n".join(lines)
