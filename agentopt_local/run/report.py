"""report.json: the evaluation of a run."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agentopt_local.chat import Usage
from agentopt_local.problem import SPLITS, Split
from agentopt_local.record import Record
from agentopt_local.run.contribution import Memorising
from agentopt_local.train_state import StopCause
from agentopt_local.update import ActionCounts


class Side(Record):
    """How one function set did."""

    accuracy: float
    """Share of problems solved."""
    reward: float | None = None
    """Mean reward; None in reports of older versions."""
    ci95: tuple[float, float]
    """95 % Wilson interval of ``accuracy``."""
    correct: int = 0
    """Problems solved."""
    exact: int | None = None
    """Answers that equal the expected text, where the task reports that too."""
    tokens: Usage = Usage()
    turns: int = 0
    stop_reasons: dict[str, int] = Field(default={})
    """How attempts ended."""


class Difference(Record):
    """After minus before on the same problems."""

    points: float
    """Percentage points."""
    ci95: tuple[float, float]
    """95 % interval of ``points``."""
    p_value: float
    """Exact two-sided McNemar test of "no change"."""
    gained: int
    """Problems that only the trained agent solved."""
    lost: int
    """Problems that only the untrained agent solved."""


class KindCounts(Record):
    """Problems of one kind, and how many of them were solved."""

    n: int
    before: int
    after: int


class Comparison(Record):
    """The untrained and the trained agent on the same problems."""

    n: int
    """Problems."""
    before: Side
    after: Side
    difference: Difference
    kinds: dict[str, KindCounts] = Field(default={})


class FunctionResult(Record):
    """A function and how it fared in the evaluation."""

    name: str
    signature: str
    description: str
    calls: int
    """Direct calls."""
    ok: int
    """Calls without error."""
    problems: int
    """Attempts that used it, in code too."""
    only_in_code: int = 0
    """Of these, the ones that called it from code only, which ``calls`` does not count."""
    solved: int
    """Of these, the solved ones."""


class TrainingSummary(Record):
    """How the training went."""

    steps: int = 0
    accepted: int = 0
    rolled_back: int = 0
    skipped: int = 0
    stopped: StopCause | None = None


class Spent(Record):
    """Tokens and their price."""

    tokens: Usage = Usage()
    cost: float = 0.0


class Costs(Record):
    """What the run has cost so far, over all of its processes."""

    stages: dict[str, Spent] = Field(default={})
    agent: Spent = Spent()
    optimizer: Spent = Spent()
    money: float = 0.0
    """Of both roles."""
    requests_lost: int = 0
    """Requests given up while the model was answering."""


class Seconds(Record):
    """Where the time went."""

    training_steps: float = 0.0
    this_process: float = 0.0


class Report(Record):
    """The evaluation of a run on one split, the field of that name."""

    task: str = ""
    model: str = ""
    seed: int = 0
    test: Comparison | None = None
    validation: Comparison | None = None
    train: Comparison | None = None
    functions: tuple[FunctionResult, ...] = ()
    """The tested set, in its order."""
    memorising: tuple[Memorising, ...] = ()
    """Functions that look as if they held answers of the problems that their author was shown."""
    actions: ActionCounts = ActionCounts()
    training: TrainingSummary = TrainingSummary()
    tokens: dict[str, Usage] = Field(default={})
    """By ``optimizer``, ``test_before`` and ``test_after``."""
    costs: Costs = Costs()
    seconds: Seconds = Seconds()

    def on(self, split: Split) -> Comparison | None:
        """The comparison on ``split``, if it is the one that was evaluated."""
        return {"test": self.test, "validation": self.validation, "train": self.train}[split]

    def on_disk(self) -> dict[str, Any]:
        """The report as JSON values, without the splits that it is not about."""
        others: set[str] = {split for split in SPLITS if self.on(split) is None}
        return self.model_dump(mode="json", exclude=others)
