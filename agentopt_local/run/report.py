"""report.json: the evaluation of a run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentopt_local.chat import Usage
from agentopt_local.problem import SPLITS, Split
from agentopt_local.record import Record
from agentopt_local.run.contribution import Memorising, Offers
from agentopt_local.run.nothing import NothingLearned
from agentopt_local.setting_types import Count, Elapsed, Share
from agentopt_local.train_state import StopCause
from agentopt_local.update import ActionCounts


class Side(Record):
    """How one function set did."""

    accuracy: Share
    """Share of problems solved."""
    reward: Share | None = None
    """Mean reward; None in reports of older versions."""
    ci95: tuple[float, float]
    """95 % Wilson interval of ``accuracy``."""
    correct: Count = 0
    """Problems solved."""
    exact: int | None = None
    """Answers that equal the expected text, where the task reports that too."""
    tokens: Usage = Usage()
    turns: Count = 0
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
    gained: Count
    """Problems that only the trained agent solved."""
    lost: Count
    """Problems that only the untrained agent solved."""


class KindCounts(Record):
    """Problems of one kind, and how many of them were solved."""

    n: Count
    before: Count
    after: Count


class Arm(Record):
    """A baseline on the same problems as the trained agent."""

    name: str
    """``placebo``, ``self_consistency``, ``self_consistency_total`` or ``one_shot``."""
    result: Side | None = None
    """How it did, with the tokens of all its votes; None if not even one vote fits into its budget."""
    difference: Difference | None = None
    """The trained agent minus this one; None where there is no result or both have one set of functions."""
    same_set: bool = False
    """Whether it has the trained agent's functions, so that there is nothing to compare."""
    functions: tuple[str, ...] = ()
    """Their names."""
    votes: int | None = None
    """Answers per problem; None for an arm that does not vote."""
    budget: int | None = None
    """Tokens, read and generated, that all votes together may use; None for an arm that does not vote."""


class Comparison(Record):
    """The untrained and the trained agent on the same problems."""

    n: Count
    """Problems."""
    before: Side
    after: Side
    difference: Difference
    same_set: bool = False
    """Whether both have the same functions, so that the difference says nothing."""
    kinds: dict[str, KindCounts] = Field(default={})
    look: int | None = None
    """Which look at the run's test problems this was, from 1; None on other splits and in reports of older versions."""
    test_set: str = ""
    """SHA-256 of the test problems; empty on other splits."""
    arms: tuple[Arm, ...] = ()
    """The other baselines."""


class Flips(Record):
    """How many outcomes changed although nothing was learned."""

    gained: Count
    """Problems solved only the second time."""
    lost: Count
    """Problems solved only the first time."""
    rate: Share
    """Share of the problems whose outcome changed, either way."""
    ci95: tuple[float, float]
    """95 % Wilson interval of ``rate``."""
    gained_ci95: tuple[float, float]
    """95 % Wilson interval of the share of gained problems."""
    lost_ci95: tuple[float, float]
    """95 % Wilson interval of the share of lost problems."""


class Visible(Record):
    """The smallest gain that a number of problems can show, in percentage points."""

    n: Count
    """Problems."""
    points: float
    at_most: float
    """The same if outcomes change as often as the upper end of the flip rate's interval says."""


class NoiseFloor(Record):
    """What chance alone does to the outcomes of the agent that a training starts from."""

    n: Count
    """Training problems that it was measured on."""
    again: Flips
    """The same agent with another seed."""
    placebo: Flips
    """The agent with one more function, which does nothing useful; its ``rate`` is the q of ``train`` and ``test``."""
    train: Visible
    """For the problems of a training step."""
    test: Visible | None = None
    """For the test problems; None if there are none."""


class Certificate(Record):
    """Whether a set of functions helps, on validation problems that played no part in training."""

    verdict: Literal["helps", "no_evidence", "does_not_help", "same_set", "not_possible"]
    """``helps``: certified · ``no_evidence``: the problems ended before a decision · ``does_not_help``: stopped early,
    because more problems were lost than gained · ``same_set``: both sets are the same · ``not_possible``: see
    ``reason``."""
    against: str
    """What the set was compared with, in words."""
    n: Count = 0
    """Problems that counted, up to the decision."""
    n_max: Count = 0
    """Problems that could have been used."""
    gained: Count = 0
    """Problems whose reward is higher with the set."""
    lost: Count = 0
    """Problems whose reward is lower with the set."""
    evidence: float = 1.0
    """The e-value of "the set is more likely to gain a problem than to lose it"."""
    alpha: float = Field(ge=1e-9, le=1)
    """How often at most a set that does not help may be certified, over all ``trainings`` and ``uses`` together."""
    trainings: int = Field(default=1, ge=1)
    """Trainings of a sweep that share ``alpha``."""
    uses: int = Field(default=1, ge=1)
    """Comparisons of this run on these problems that share ``alpha``, up to this one."""
    reason: str = ""
    """Why no certificate was possible."""
    note: str = ""
    """What else differs between two runs whose sets were compared."""

    @property
    def level(self) -> float:
        """``alpha`` over everything that shares it: the evidence must be 1/``level``."""
        return self.alpha / (self.trainings * self.uses)

    def summary(self) -> str:
        """The verdict in a few words."""
        evidence, problems = f"E = {self.evidence:.3g}", f"{self.n} problem{'' if self.n == 1 else 's'}"
        return {
            "helps": f"certified: helps ({evidence}, {problems})",
            "no_evidence": f"no evidence of help in {problems} ({evidence})",
            "does_not_help": f"does not help ({self.gained} gained, {self.lost} lost, {problems})",
            "same_set": "same set: nothing to certify",
            "not_possible": f"not possible: {self.reason}",
        }[self.verdict]

    def __str__(self) -> str:
        return "; ".join(filter(None, [self.summary(), self.basis()]))

    def basis(self) -> str:
        """What the verdict rests on: the other set, the changed problems, the evidence needed; empty if impossible."""
        against = f"compared with {self.against}"
        if self.verdict == "not_possible":
            return ""
        if self.verdict == "same_set":
            return against
        shared = f"{self.alpha:g}" + (f" / {self.trainings} trainings" if self.trainings > 1 else "")
        shared += f" / {self.uses} uses of these problems" if self.uses > 1 else ""
        needed = f"E >= {1 / self.level:.3g} was needed (alpha {shared})"
        parts = [f"{against} on validation problems: {self.gained} gained, {self.lost} lost", needed, self.note]
        return "; ".join(part for part in parts if part)


class FunctionResult(Record):
    """A function and how it fared in the evaluation."""

    name: str
    signature: str
    description: str
    calls: Count
    """Direct calls."""
    ok: Count
    """Calls without error."""
    problems: Count
    """Attempts that used it, in code too."""
    only_in_code: Count = 0
    """Of these, the ones that called it from code only, which ``calls`` does not count."""
    solved: Count
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

    training_steps: Elapsed = 0.0
    this_process: Elapsed = 0.0
    parts: dict[str, float] = Field(default={})
    """Of ``this_process``: noise floor, training, credit, certificate, test. The untrained agent's test runs during
    the training."""


class Report(Record):
    """The evaluation of a run on one split, the field of that name."""

    task: str = ""
    model: str = ""
    seed: int = 0
    test: Comparison | None = None
    validation: Comparison | None = None
    train: Comparison | None = None
    certificate: Certificate | None = None
    """Of the tested set; None if none was asked for."""
    noise_floor: NoiseFloor | None = None
    """Measured before step 1; None if that was switched off."""
    functions: tuple[FunctionResult, ...] = ()
    """The tested set, in its order."""
    memorising: tuple[Memorising, ...] = ()
    """Functions that look as if they held answers of the problems that their author was shown."""
    offers: Offers | None = None
    """What the problems were offered; None if each was offered all functions."""
    actions: ActionCounts = ActionCounts()
    training: TrainingSummary = TrainingSummary()
    tokens: dict[str, Usage] = Field(default={})
    """By ``optimizer``, ``test_before`` and ``test_after``."""
    nothing_learned: NothingLearned | None = None
    """None if a step was accepted, or none was tried."""
    costs: Costs = Costs()
    seconds: Seconds = Seconds()
    regime: tuple[str, ...] = ()
    """With ``preset = "paper"``: what differs from the authors' regime, in sentences."""

    def on(self, split: Split) -> Comparison | None:
        """The comparison on ``split``, if it is the one that was evaluated."""
        return {"test": self.test, "validation": self.validation, "train": self.train}[split]

    def on_disk(self) -> dict[str, Any]:
        """The report as JSON values, without the splits that it is not about and what was not asked for."""
        others: set[str] = {split for split in SPLITS if self.on(split) is None}
        others |= {name for name in ("certificate", "nothing_learned", "offers") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=others)
