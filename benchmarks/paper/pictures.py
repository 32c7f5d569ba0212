"""Pictures of tables, curves and matrices, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from agentopt_local.trainings import Mean

COLOURS = ("#9a9a9a", "#e0a030", "#7aa6c2", "#1f5f8b", "#b0413e", "#4b8b3b", "#7a4fa3")
Point = tuple[float, float]
EXPLORATORY = "Exploratory: each point is another look at the test problems. Do not choose a step by them."
LEFT, TOP, HEIGHT, BOTTOM = 50, 70, 220, 90


def document(width: float, title: str, parts: Sequence[str], height: float = TOP + HEIGHT + BOTTOM) -> str:
    """An SVG document."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f"{text(10, 20, title, size=14)}{''.join(parts)}</svg>\n"
    )


def text(x: float, y: float, words: str, *, size: int = 11, anchor: str = "start", turn: int = 0) -> str:
    """A piece of text."""
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def rule(start: Point, end: Point, colour: str = "#333", width: float = 1) -> str:
    """A straight line."""
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def height_of(per_cent: float) -> float:
    """The y coordinate of a share in per cent."""
    return TOP + HEIGHT * (1 - per_cent / 100)


def axis(right: float) -> list[str]:
    """Grid lines every 20 per cent."""
    parts = []
    for value in range(0, 101, 20):
        y = height_of(value)
        parts += [rule((LEFT, y), (right, y), "#ddd"), text(LEFT - 6, y + 4, f"{value} %", anchor="end")]
    return parts


def legend(names: Sequence[str]) -> list[str]:
    """Names with their colours, in a row under the title."""
    parts, x = [], float(LEFT)
    for name, colour in zip(names, COLOURS, strict=False):
        parts.append(f'<rect x="{x:.1f}" y="32" width="10" height="10" fill="{colour}"/>')
        parts.append(text(x + 14, 41, name))
        x += 30 + 6.2 * len(name)
    return parts


def bars(title: str, groups: Sequence[tuple[str, Sequence[Mean], Sequence[float]]], names: Sequence[str]) -> str:
    """Groups of bars with intervals. Dashes in a group show the paper's figures before and after training."""
    wide = 16 * len(names) + 24
    right = LEFT + wide * max(1, len(groups))
    parts = axis(right) + legend(names)
    if any(dashes for _, _, dashes in groups):
        parts.append(rule((LEFT, 52), (LEFT + 10, 52), "#b0413e", 1.5))
        parts.append(text(LEFT + 14, 56, "the paper, before and after training"))
    for index, (label, figures, dashes) in enumerate(groups):
        x = LEFT + index * wide + 8
        for figure, colour in zip(figures, COLOURS, strict=False):
            top = height_of(figure.value)
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="14" height="{TOP + HEIGHT - top:.1f}" fill="{colour}"/>'
            )
            parts.append(rule((x + 7, height_of(figure.low)), (x + 7, height_of(figure.high))))
            x += 16
        for y in (height_of(each) for each in dashes if not math.isnan(each)):
            parts.append(rule((x - 16 * len(figures) - 3, y), (x + 1, y), "#b0413e", 1.5))
        parts.append(text(LEFT + index * wide + 8, TOP + HEIGHT + 14, label, turn=20))
    width = max(right + 60, LEFT + sum(30 + 6.2 * len(name) for name in names), 30 + 8 * len(title))
    return document(width, title, parts)


def curves(title: str, lines: Sequence[tuple[str, Sequence[tuple[float, Mean]]]]) -> str:
    """Lines with intervals; each is a name and its points (step, share). Marked as exploratory."""
    last = max((x for _, points in lines for x, _ in points), default=1) or 1
    right = LEFT + 420.0
    parts = axis(right) + legend([name for name, _ in lines])
    for index, ((_, points), colour) in enumerate(zip(lines, COLOURS, strict=False)):
        placed = [(LEFT + 10 + 3 * index + 400 * x / last, figure) for x, figure in points]
        path = " ".join(f"{x:.1f},{height_of(figure.value):.1f}" for x, figure in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, figure in placed:
            parts.append(rule((x, height_of(figure.low)), (x, height_of(figure.high)), colour))
            parts.append(f'<circle cx="{x:.1f}" cy="{height_of(figure.value):.1f}" r="3" fill="{colour}"/>')
    for step in range(int(last) + 1):
        parts.append(text(LEFT + 10 + 400 * step / last, TOP + HEIGHT + 16, str(step), anchor="middle"))
    parts.append(text(LEFT + 210, TOP + HEIGHT + 34, "step", anchor="middle"))
    parts.append(text(LEFT, TOP + HEIGHT + 56, EXPLORATORY))
    width = max(
        right + 30,
        LEFT + sum(30 + 6.2 * len(name) for name, _ in lines),
        30 + 8 * len(title),
        LEFT + 5.6 * len(EXPLORATORY),
    )
    return document(width, title, parts)


def heat_map(title: str, names: Sequence[str], matrix: dict[tuple[str, str], dict[str, Mean]]) -> str:
    """A transfer matrix: trained on the row, tested on the column; the colour is the gain over the untrained agent."""
    side, left = 110, 140
    parts = [text(left + side * len(names) / 2, 45, "tested on", anchor="middle")]
    parts.append(text(left - 8, 62, "trained on", anchor="end"))
    for column, name in enumerate(names):
        parts.append(text(left + side * (column + 0.5), 62, name, anchor="middle"))
    for row, source in enumerate(names):
        y = 70 + side * row
        parts.append(text(left - 8, y + side / 2, source, anchor="end"))
        for column, target in enumerate(names):
            found = matrix.get((source, target))
            if found is None:
                continue
            gain = found["gain"]
            strength = min(1.0, abs(gain.value) / 30)
            colour = "#4b8b3b" if gain.value >= 0 else "#b0413e"
            x = left + side * column
            box = f'x="{x}" y="{y}" width="{side - 4}" height="{side - 4}"'
            parts.append(f'<rect {box} fill="{colour}" fill-opacity="{0.1 + 0.6 * strength:.2f}"/>')
            middle = x + side / 2 - 2
            parts.append(text(middle, y + 45, f"{found['trained'].value:.1f} %", size=14, anchor="middle"))
            parts.append(text(middle, y + 63, f"{gain.value:+.1f} points", anchor="middle"))
            parts.append(text(middle, y + 78, f"[{gain.low:+.1f}, {gain.high:+.1f}]", anchor="middle"))
    width = max(left + side * len(names) + 20, 30 + 8 * len(title))
    return document(width, title, parts, 80 + side * len(names))
