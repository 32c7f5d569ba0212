"""What a person sees while a run works: a live view with bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import difflib
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ray_jobs.live import LiveView, pace

log = logging.getLogger("agentopt")
LOGGERS = ("agentopt", "agentopt_local", "serving", "ray_jobs")
"""What a run's log holds."""
PLAIN_S = 15.0
"""Between two lines on how a stage goes on, elsewhere than on a terminal."""


class Display:
    """Shows stages and steps; every line also goes to the run's log."""

    def __init__(self, console: Console | None = None) -> None:
        """``console``: where to write; standard error by default, so that results stay alone on standard output."""
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.view = LiveView()
        self._tasks: dict[str, TaskID] = {}
        self._since: dict[str, float] = {}
        self._shown: set[str] = set()
        self._told = -PLAIN_S

    @contextmanager
    def live(self) -> Iterator[Display]:
        """Draw the view and the bars while the context is open, if the console is a terminal."""
        if self.console.is_terminal:
            with Live(
                get_renderable=lambda: Group(self.view.render(), self.bars.get_renderable()),
                console=self.console,
                refresh_per_second=2,
                transient=True,
            ):
                yield self
        else:
            yield self

    def line(self, text: str) -> None:
        """One line that stays."""
        log.info("%s", text)
        self.console.print(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` in ``stage``; ``total`` 0: a stage without a count has begun."""
        now = time.monotonic()
        if total == 0 and stage in self._since:
            return  # a watcher is told again and again that it goes on
        if done == 0 or stage not in self._since:
            self._since[stage] = now
        since = self._since[stage]
        if self.console.is_terminal and total:
            self._draw(stage, done, total)
        elif total == 0 or done in (0, total):
            counted = f": {done}/{total}" if total else " ..."
            self.line(f"{stage}{counted}" + (f" in {now - since:.0f} s" if total and done == total else ""))

    def _draw(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(stage, total=total)
        self.bars.update(self._tasks[stage], completed=done, total=total)
        if done == total:
            self.bars.remove_task(self._tasks.pop(stage))
            self.line(f"{stage}: {total} in {time.monotonic() - self._since[stage]:.0f} s")

    def metrics(self, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl; elsewhere than on a terminal a line every PLAIN_S."""
        self.view.metrics(row)
        if self.console.is_terminal or "decision" in row or row["done"] == row["total"] != 0:
            return
        now = time.monotonic()
        if now - self._told >= PLAIN_S or row["stage"] not in self._shown:
            self._told = now
            self._shown.add(row["stage"])
            counted = f" {row['done']}/{row['total']}," if row["total"] else ""
            self.line(f"{row['stage']}:{counted} {', '.join(pace(row))}")

    def step(self, row: dict[str, Any]) -> None:
        """A finished step; one that was shown already is passed over."""
        if not self.view.step(row):
            return
        actions = ", ".join(f"{each['kind'].split('_')[0]} {each['name'] or ''}".strip() for each in row["actions"])
        before, after = row["before"], row["after"]
        self.line(
            f"step {row['step']}: {row['decision'].replace('_', ' ')}  accuracy {before['accuracy']:.2f} -> "
            f"{after['accuracy']:.2f} on the same {before['n']} problems  [{actions or 'no action'}]  "
            f"{row['seconds']:.0f} s"
        )


def report_text(report: dict[str, Any], split: str = "test") -> str:
    """A report in a few lines."""
    test = report[split]
    if test["n"] == 0:
        return "No held-out problems were asked for (task.n_test = 0)."
    difference = test["difference"]
    lines = [f"Held-out problems: {test['n']} (split {split}, the same ones before and after)"]
    for side, label in (("before", "before"), ("after", "after ")):
        low, high = test[side]["ci95"]
        lines.append(
            f"  {label}  {100 * test[side]['accuracy']:5.1f} %   95 % interval {100 * low:.1f} to {100 * high:.1f}"
        )
    low, high = difference["ci95"]
    lines.append(
        f"  change  {difference['points']:+5.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, "
        f"McNemar p = {difference['p_value']:.2g} ({difference['gained']} gained, {difference['lost']} lost)"
    )
    if len(test["kinds"]) > 1:
        lines += [f"  {kind}: {row['before']} -> {row['after']} of {row['n']}" for kind, row in test["kinds"].items()]
    lines.append("Functions learned:" if report["functions"] else "No function was learned.")
    lines += [
        f"  {each['signature']}\n    {each['description'].splitlines()[0]}\n"
        f"    {each['calls']} calls, {each['ok']} without error; "
        f"{each['solved']} of {each['problems']} problems that used it were solved"
        for each in report["functions"]
    ]
    counts = report["actions"]
    lines.append(
        f"Actions: {counts['sampled']} sampled, {counts['legal']} legal, {counts['verified']} verified, "
        f"{counts['applied']} applied"
    )
    if (costs := report.get("costs", {})).get("money"):
        agent, optimizer = (costs[role]["cost"] for role in ("agent", "optimizer"))
        lines.append(f"Cost: {costs['money']:.4f} (agent {agent:.4f}, optimizer {optimizer:.4f})")
    return "\n".join(lines)


def functions_diff(old: Path | None, new: Path) -> str:
    """What changed from one ``functions/NNNN`` folder to the next, as a unified diff."""
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


def log_to(path: Path) -> logging.Handler:
    """Send the package's log lines to ``path``; the caller removes the handler."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # the run folder's own writes tell it
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
    return handler


def stop_logging(handler: logging.Handler) -> None:
    """Undo :func:`log_to`."""
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(handler)
    with suppress(OSError):  # a full disk
        handler.close()


def error_line(text: str) -> None:
    """A user's mistake or a failure, on standard error."""
    print(f"agentopt: {text}", file=sys.stderr)
