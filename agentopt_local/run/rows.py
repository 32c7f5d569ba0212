"""The rows of a run folder's files. Their fields are the keys on disk."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from agentopt_local.acceptance import Judgement
from agentopt_local.chat import Usage
from agentopt_local.problem import Split
from agentopt_local.record import Record
from agentopt_local.run.report import Certificate
from agentopt_local.setting_types import Count, Elapsed, Share
from agentopt_local.stage import Stage
from agentopt_local.train_state import Decision
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import ActionCounts, EditOutcome, Update

Role = Literal["agent", "optimizer"]
"""Who a completion was for."""


class ProblemRow(Record):
    """A problem without its metadata."""

    id: str
    split: Split | None = None
    kind: str = ""
    question: str = ""
    answer: str = ""


class RolloutRow(Record):
    """A finished rollout. On disk its stage is one more key of the trajectory."""

    stage: Stage
    trajectory: Trajectory

    @model_validator(mode="before")
    @classmethod
    def _from_disk(cls, row: Any) -> Any:
        if isinstance(row, dict) and "trajectory" not in row:
            return {"stage": row.get("stage"), "trajectory": {key: row[key] for key in row if key != "stage"}}
        return row

    def on_disk(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {"stage": str(self.stage), **self.trajectory.model_dump(mode="json")}


class ProposalRow(Record):
    """An update that a step tries."""

    step: Count
    candidate: Count = 0
    proposal: Update


class ActionRow(Record):
    """An action of an update."""

    kind: str
    name: str | None = None
    matches: str | int = ""
    """Shown problems that its function answered in trials, as ``2/3``."""


class Scored(Record):
    """An accuracy and the mean reward that goes with it."""

    accuracy: Share
    """Share of problems solved."""
    reward: Share
    """Mean reward, 0 to 1: what updates are judged by. Equal to ``accuracy`` where grades are right or wrong."""

    @model_validator(mode="before")
    @classmethod
    def _without_reward(cls, row: Any) -> Any:
        # Rows written before there was a mean reward have exact tasks' accuracy only.
        return {"reward": row.get("accuracy"), **row} if isinstance(row, dict) else row


class Score(Scored):
    """How a set did on a step's problems."""

    n: Count
    """Problems."""
    solved: tuple[str, ...] = ()
    """Ids of the problems solved."""


class CandidateRow(Scored):
    """An update, or a part of one, that a step tried."""

    actions: tuple[str, ...]
    """``kind name`` of each action."""
    judgement: Judgement | None = None
    """On the problems that count for the decision; None in rows of older versions."""


class Fingerprints(Record):
    """Of the set before a step and of the best one that it tried."""

    before: str
    after: str


class StepTokens(Record):
    """Tokens of one step."""

    optimizer: Usage = Usage()
    rollouts: Usage = Usage()


class StepRow(Record):
    """A finished step."""

    step: Count
    decision: Decision
    actions: tuple[ActionRow, ...] = ()
    """Of the best candidate."""
    before: Score
    after: Score
    """Of the best candidate; problems that it was not tried on count as before."""
    candidates: tuple[CandidateRow, ...] = ()
    """Everything that was rolled out, best first."""
    candidate: int | None = None
    """Which of the step's proposals the best candidate belongs to; None in rows of older versions."""
    functions: tuple[str, ...] = ()
    """Names of the functions in force after the step."""
    fingerprint: Fingerprints | None = None
    counts: ActionCounts = ActionCounts()
    outcomes: tuple[EditOutcome, ...] = ()
    """Of the edits that its candidates drafted, applied or not; empty in rows of older versions."""
    source_tokens: int | None = None
    """What ``optimizer.max_source_tokens`` has grown to, because sources were cut off; None if it has not."""
    tokens: StepTokens = StepTokens()
    seconds: Elapsed


class MetricRow(Record):
    """What a run is doing. Values that are not known are None."""

    time: Elapsed = 0.0
    """Unix time, s."""
    seconds: Elapsed
    """Of work on this run so far, over all of its processes."""
    step: Count = 0
    """Steps finished."""
    stage: Stage
    done: Count = 0
    """Rollouts of the stage that have ended."""
    total: Count = 0
    """Rollouts of the stage; 0 where it counts none."""
    under_way: int = 0
    """Rollouts (requests of the optimizer where the stage counts no rollouts) that are running."""
    accuracy: Share | None = None
    """Of the rollouts done; of a step's row, of the update that it tried."""
    ci95: tuple[float, float] | None = None
    """95 % interval of ``accuracy``."""
    tokens: Count
    """Generated so far, over all processes."""
    prompt_tokens: Count = 0
    """Read so far, over all processes."""
    tokens_per_s: float | None = None
    """Generated per second over the last WINDOW_S seconds."""
    read_per_s: float | None = None
    """Prompt tokens computed per second over the last WINDOW_S seconds."""
    cached: float | None = None
    """Share of the prompt tokens that came from the prefix cache, over the last WINDOW_S seconds."""
    seconds_left: float | None = None
    """About, until the run ends."""
    decision: Decision | None = None
    """Of the step that just ended; None in all other rows."""
    accuracy_before: Share | None = None
    """Before the step that just ended."""


class LookRow(Record):
    """A look at the test problems: an evaluation of a set that shows something new about it."""

    look: Count
    """Counted from 1."""
    functions: str
    """Fingerprint of the set."""
    n: Count
    """Problems."""
    points: float
    """Change from the untrained agent, in percentage points."""
    p_value: float
    """Exact two-sided McNemar test of "no change"."""
    purpose: str = "evaluation"
    """``evaluation``, or of an experiment: ``one-shot``, ``learning curve``, ``transfer``."""
    date: str = ""
    """When, in ISO 8601; empty for a look of an older version."""


class CertificateRow(Record):
    """A comparison of two sets on validation problems, when it begins and again when it has ended."""

    functions: str
    """Fingerprint of the set that is certified."""
    baseline: str
    """Fingerprint of the set that it is compared with."""
    use: Count = 0
    """Which use of the validation problems it is, from 1; 0 if none were rolled out for it."""
    problems: tuple[str, ...] = ()
    """Ids in the order in which they count."""
    certificate: Certificate | None = None
    """None when it begins."""


class CostRow(Record):
    """One completion."""

    role: Role
    usage: Usage
    cost: float
    lost: bool = False
    """Given up while the model was answering: its cost is not known."""
