"""How far a training's own numbers can be trusted, measured where the truth is known. Prints Markdown tables.

    python -m benchmarks.trust [--trainings 1000] [--only trainings|certificates|intervals|idle|floor]

``trainings``: the real Trainer with a simulated agent and optimizer, under each acceptance rule; no engine, no sandbox.
The other parts are exact, or simulate the library's own functions.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence

from benchmarks.trust import decisions, intervals
from benchmarks.trust.simulation import MIXES
from benchmarks.trust.trainings import CANDIDATES, MEMORISING, RULES, SIZES, STEPS, cells, measure


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, row by row as they come."""
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def percent(share: float, limits: tuple[float, float] | None = None) -> str:
    """A share, with its 95 % limits where there are any."""
    return f"{100 * share:.1f} %" + (f" [{100 * limits[0]:.1f}, {100 * limits[1]:.1f}]" if limits else "")


def show_trainings(arguments: argparse.Namespace) -> None:
    """Whole trainings under each rule."""
    chosen = list(cells(arguments.n, arguments.mix, arguments.memorising, arguments.rules))
    steps = f"kept of {STEPS} steps"
    head = ("mix", "n", "rule", "true gain, points", steps, "useless or harmful", "gain shown", "rollouts")
    table(
        f"{arguments.trainings} trainings per row",
        head,
        (
            (
                f"{cell.mix}, {cell.memorising:.0%} memorise",
                str(cell.n),
                cell.rule,
                f"{got.gain:+.1f} ± {got.gain_error:.1f}",
                f"{got.accepted:.1f}",
                percent(got.useless, got.useless_ci95),
                f"{got.apparent:+.0f}",
                f"{got.rollouts:.0f}",
            )
            for cell, got in measure(chosen, arguments.trainings, arguments.processes)
        ),
    )


def show_certificates(arguments: argparse.Namespace) -> None:
    """How often a certificate is given, by the true effect."""
    table(
        f"Certificates, at most {decisions.CAP} problems",
        ("true effect", "alpha", "helps", "does not help", "no evidence", "mean problems"),
        (
            (
                each.effect,
                f"{each.alpha}",
                percent(each.helps, each.helps_ci95),
                percent(each.does_not_help),
                percent(each.no_evidence),
                f"{each.problems:.0f}",
            )
            for each in decisions.certificates(10 * arguments.trainings)
        ),
    )


def show_intervals(arguments: argparse.Namespace) -> None:
    """Coverage of each interval in use."""
    table(
        "Coverage of 95 % intervals; 94 % is wanted",
        ("interval", "n", "truths", "mean", "lowest", "at", "truths below 94 %"),
        (
            (
                each.interval,
                str(each.n),
                str(each.truths),
                percent(each.mean),
                percent(each.lowest),
                each.at,
                str(each.below),
            )
            for each in intervals.coverages(arguments.trainings)
        ),
    )


def show_idle(arguments: argparse.Namespace) -> None:
    """How often an edit that does not help is accepted."""
    table(
        f"Edits that do not help: accepted, one / best of {CANDIDATES}",
        ("true effect, points", "rule", "n", *(f"q = {rate}" for rate in decisions.FLIP_RATES)),
        decisions.idle_edits(),
    )


def show_floor(arguments: argparse.Namespace) -> None:
    """The gain that n problems can show: how often it is seen."""
    table(
        "The gain that n problems can show (80 % of cases in a one-sided test at 5 %): how often it is seen",
        ("n", "q", "gain, points", "normal test", "exact sign test", "kept by `unseen`"),
        decisions.floor_power(),
    )


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "trainings": show_trainings,
    "certificates": show_certificates,
    "intervals": show_intervals,
    "idle": show_idle,
    "floor": show_floor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trust",
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--trainings", type=int, default=1000, help="trainings per row, at least 2")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--n", type=int, nargs="+", default=SIZES, help="training problems")
    parser.add_argument("--mix", nargs="+", choices=MIXES, default=tuple(MIXES), help="what the optimizer proposes")
    parser.add_argument("--memorising", type=float, nargs="+", default=MEMORISING, help="share of edits that memorise")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES, help="acceptance rules")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes that train")
    arguments = parser.parse_args(argv)
    if arguments.trainings < 2:
        parser.error(f"argument --trainings: {arguments.trainings} trainings have no spread; use 2 or more")
    for name, show in PARTS.items():
        if arguments.only in (None, name):
            show(arguments)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
