"""What a training left, read from its folder."""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt_local.errors import RunDirError
from agentopt_local.exporting.learned import read_learned
from agentopt_local.functions import FunctionSet
from agentopt_local.plain_files import own_path
from agentopt_local.plain_text import printable
from agentopt_local.record import Record
from agentopt_local.run import files
from agentopt_local.run.contribution import Credit
from agentopt_local.run.credits import find_credit
from agentopt_local.run.reader import RunFiles, read_config, read_reports, read_run
from agentopt_local.run.report import Certificate, Report
from ray_jobs.agreement import AGENT, check_agreed
from ray_jobs.api import data_frames
from ray_jobs.api.given import Model, given_model
from ray_jobs.api.trained_agent import TrainedAgent
from ray_jobs.config import build
from ray_jobs.exports import export_run
from ray_jobs.interrupts import run_blocking
from ray_jobs.open_models import agent_alone, check_model
from ray_jobs.terminal.display import Display

if TYPE_CHECKING:
    import pandas as pd


class Estimate(Record):
    """A measured value with its 95 % interval, all as shares: 0.25 is 25 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


class Accuracy(Record):
    """The share of test problems solved, without the learned functions and with them."""

    n: int
    """Test problems, the same before and after."""
    before: Estimate
    after: Estimate
    difference: Estimate
    """After minus before, with Tango's interval for paired proportions; 0.1 is 10 percentage points."""

    def __str__(self) -> str:
        points, low, high = (100 * each for each in (self.difference.value, self.difference.low, self.difference.high))
        return f"{self.before} -> {self.after} on {self.n} problems, {points:+.1f} points ({low:+.1f} to {high:+.1f})"


class Run:
    """A run: what a training left in its folder, finished or not.

    ``ao.train`` returns one, and ``ao.load(path)`` opens any run's folder. What was read once stays as it was; load the
    run again to see the progress of a training. Reading takes no lock, so a training in progress is not disturbed.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises RunDirError if ``path`` is not a run folder."""
        self.path = Path(path)
        """The run's folder."""
        files.check_run(self.path)

    @cached_property
    def _files(self) -> RunFiles:
        return read_run(self.path)

    @cached_property
    def functions(self) -> FunctionSet:
        """The learned functions, as the evaluation tested them.

        ``run.functions.names``, ``print(run.functions.source)``, ``run.functions.get(name)``.
        """
        try:
            return read_learned(self.path).functions
        except RunDirError:  # written by another version; the state may still be readable
            return self._files.state.functions

    @cached_property
    def report(self) -> Report | None:
        """The evaluation on the test problems: results, functions, tokens, costs, seconds. None before it has ended."""
        return read_reports(self.path, []).get("test")

    @cached_property
    def credit(self) -> Credit | None:
        """What each function contributes: effects with intervals, verdicts, signs of memorising. None if not measured.

        ``print(run.credit)`` shows it as a table.
        """
        return find_credit(self.path, [])

    @property
    def certificate(self) -> Certificate | None:
        """Whether the functions help, on problems that played no part in training. None if none was asked for.

        ``run.certificate.verdict``, ``run.certificate.summary()``; see :func:`ao.certify`.
        """
        return None if self.report is None else self.report.certificate

    @property
    def accuracy(self) -> Accuracy | None:
        """Accuracy on the test problems: ``before`` and ``after`` training, and the ``difference``.

        Each has a ``value`` and a 95 % interval from ``low`` to ``high``, as shares from 0 to 1 (the difference from -1
        to 1). None before the evaluation has ended.

        ::

            print(run.accuracy)
            run.accuracy.difference.low > 0
        """
        test = None if self.report is None else self.report.test
        if test is None or test.n == 0:
            return None
        before, after, change = test.before, test.after, test.difference
        return Accuracy(
            n=test.n,
            before=Estimate(value=before.accuracy, low=before.ci95[0], high=before.ci95[1]),
            after=Estimate(value=after.accuracy, low=after.ci95[0], high=after.ci95[1]),
            difference=Estimate(value=change.points / 100, low=change.ci95[0] / 100, high=change.ci95[1] / 100),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the run, as nested dicts."""
        return read_config(self.path)

    @property
    def curve(self) -> pd.DataFrame:
        """The learning curve: ``step``, ``before``, ``after`` (accuracy on the step's problems, 0 to 1), ``decision``.

        ``run.curve.plot(x="step", y=["before", "after"])`` draws it.
        """
        return data_frames.curve(self._files.steps)

    @property
    def steps(self) -> pd.DataFrame:
        """One row per training step.

        Its decision, its actions as text, ``n`` problems, accuracy and reward (0 to 1) before and after, the functions
        in force after it, the number of updates tried, tokens, seconds.
        """
        return data_frames.steps(self._files.steps)

    @property
    def rollouts(self) -> pd.DataFrame:
        """One row per graded attempt, in training and evaluation.

        Its stage (``step 1 before``, ``test after``), problem, answer, reward (0 to 1) with the reason, how it ended,
        turns, calls, tokens, seconds; ``functions`` is the fingerprint of the function set.
        """
        return data_frames.rollouts(self._files.rollouts, self._files.questions)

    @property
    def problems(self) -> pd.DataFrame:
        """The problems that were rolled out: ``id``, ``split``, ``kind``, ``question``, ``answer``."""
        return data_frames.problems(self._files.questions.values())

    def save(self, path: str | Path) -> Run:
        """Copy the run's folder to ``path`` and return the copy. Raises RunDirError if ``path`` exists already."""
        target = own_path(str(path), "Run.save")
        files.copy_run(self.path, target)
        return Run(target)

    def export(
        self,
        format: str,  # noqa: A002 - the flag's name too
        output: str | Path | None = None,
        force: bool = False,
        *,
        name: str | None = None,
    ) -> Path:
        """Write the functions for use elsewhere, like ``agentopt export``; returns the path that was written.

        ``format``: ``python`` (a package with tests), ``openai``, ``openai-responses``, ``anthropic`` (tool
        definitions), ``mcp`` (an entry for ``mcp.json``), or ``inspect`` (the evaluation as logs of Inspect AI).
        ``output``: the file or folder to write (None: next to the run). ``force``: replace an earlier export.
        ``name``: the name of the package or server.

        Raises ConfigError if there is nothing to export or ``output`` must not be replaced.

        ::

            run.export("python", "my_tools")
        """
        target = None if output is None else own_path(str(output), "Run.export: output")
        return run_blocking(export_run(self.path, format, target, name=name, force=force))

    def agent(
        self, *, model: Model | None = None, functions: FunctionSet | None = None, progress: bool = True
    ) -> TrainedAgent:
        """The agent of this run. Open it with ``with`` or ``async with``, then call ``agent.solve(question)``.

        ``model``: a model to use instead of the run's; required if the run's was given as an object. ``functions``:
        functions to use instead of the learned ones; ``ao.FunctionSet()`` gives the untrained agent. ``progress``: show
        on standard error what is being started.

        Raises ConfigError if the model is not on this machine.

        ::

            with run.agent() as agent:
                print(agent.solve("What is 2 + 3?").answer)
        """
        values = read_config(self.path)
        chat_model = None
        if model is not None:
            values["model"], chat_model = given_model("Run.agent", "model", model)
        config = agent_alone(build(values, str(self.path), stored=True))
        check_agreed(config, self.path, used=AGENT if model is None else ("sandbox",))
        if chat_model is None:
            check_model(config, self.path)
        show = Display().on_progress if progress else lambda stage, done, total: None
        return TrainedAgent(config, self.functions if functions is None else functions, chat_model, show)

    def __repr__(self) -> str:
        return printable(f"<Run {self.path}: {self._summary()}>")

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<li><code>{html.escape(each.signature)}</code> {html.escape(first_line(each.description))}</li>"
            for each in self.functions.each()
        )
        return f"<p><b>{html.escape(str(self.path))}</b>: {html.escape(self._summary())}</p><ul>{rows}</ul>"

    def _summary(self) -> str:
        n = len(self.functions)
        result = "not evaluated yet" if self.accuracy is None else f"accuracy {self.accuracy}"
        return f"{n} function{'' if n == 1 else 's'}, {result}"


def first_line(text: str) -> str:
    """The first line of a docstring; empty if there is none."""
    return text.strip().split("\n")[0]
