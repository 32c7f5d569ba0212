"""A simulated agent and optimizer with known true effects, for the real Trainer, its acceptance rule and Rollouts.

The agent's outcomes change by chance whenever its functions change, because every function changes the prompt. An edit
changes a share of all outcomes, ``FLIPS`` at least, so that the expected accuracy moves by the edit's true effect. An
edit that memorises also solves exactly the problems that it was shown, and its true effect is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from agentopt_local.actions import AddFunction
from agentopt_local.chat import Usage
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.incoming import Incoming
from agentopt_local.problem import Problem
from agentopt_local.record import Record
from agentopt_local.rollout import MemoryStore, Rollouts
from agentopt_local.run.rows import StepRow
from agentopt_local.train_state import FailedUpdate, TrainerConfig, TrainState
from agentopt_local.trainer import Trainer
from agentopt_local.trajectory import Trajectory
from agentopt_local.update import Update

BASE = 0.35
"""The untrained agent's accuracy."""
FLIPS = 0.12
"""The share of problems whose outcome changes with any edit, useful or not."""
N_SHOWN = 3
"""Failed problems that an edit is shown."""
LIMITS = (0.03, 0.97)
"""Where no edit can lower or raise the accuracy any further."""
GRADES = (Grade(reward=0.0, reason="wrong"), Grade(reward=1.0, reason="correct"))
NOTHING = Usage()

Outcomes = NDArray[np.bool_]


class Mix(Record):
    """How often the optimizer's edits have which true effect."""

    harmful: float
    """Share of edits that lower the accuracy by 10 points."""
    useless: float
    helpful: tuple[tuple[float, float], ...]
    """Shares of edits that raise it, and by how much."""
    memorising: float

    def memorising_more(self, share: float) -> Mix:
        """The mix with this share of edits that memorise; the other shares keep their proportions."""
        scale = (1 - share) / (1 - self.memorising)
        return Mix(
            harmful=self.harmful * scale,
            useless=self.useless * scale,
            helpful=tuple((each * scale, effect) for each, effect in self.helpful),
            memorising=share,
        )

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """The share of each of ``effects``; they add up to 1."""
        return (self.harmful, self.useless, *(share for share, _ in self.helpful), self.memorising)

    @cached_property
    def effects(self) -> tuple[tuple[float, bool], ...]:
        """The change in accuracy, and whether the edit memorises."""
        return ((-0.1, False), (0.0, False), *((effect, False) for _, effect in self.helpful), (0.0, True))


MIXES = {
    "MATH-like": Mix(harmful=0.45, useless=0.25, helpful=((0.10, 0.05), (0.05, 0.10)), memorising=0.15),
    "demo-like": Mix(harmful=0.35, useless=0.20, helpful=((0.15, 0.10), (0.15, 0.25)), memorising=0.15),
}
"""Sources: METHOD's review of runs on MATH with 8B models, and of the demo's 1.5B model."""


class Tool(Function):
    """A Function whose parts are worked out once, because all trainings of a process share it."""

    @cached_property
    def name(self) -> str:
        """The name of the ``def``."""
        return super().name

    def normalized(self) -> str:
        """The source without comments, docstrings and formatting."""
        return self._code

    @cached_property
    def _code(self) -> str:
        return super().normalized()


@cache
def tool(name: str) -> AddFunction:
    """The edit that adds a function of this name."""
    source = f'def {name}(x: int) -> int:\n    """Return x."""\n    return x\n'
    return AddFunction(function=Tool(source=source))


@cache
def quiz(n: int) -> tuple[Problem, ...]:
    """``n`` problems."""
    return tuple(Problem(id=f"p{index}", question=f"Question {index}", answer="yes", kind="k") for index in range(n))


class Hidden(Record):
    """What nobody but the simulation knows of an edit."""

    effect: float
    memorised: tuple[str, ...]
    """Ids of the problems that it solves because it was shown them."""
    seed: int
    """Of the outcomes that change by chance."""


class World:
    """The truth about every set of functions; as a Solver, the agent that lives in it."""

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.seed = seed
        self.number = {problem.id: index for index, problem in enumerate(problems)}
        self.edits: dict[str, Hidden] = {}
        """By the name of the function that the edit adds."""
        self.rollouts = 0
        self._outcomes: dict[tuple[tuple[str, ...], int], Outcomes] = {}

    def accuracy(self, names: tuple[str, ...]) -> float:
        """The expected accuracy with these functions on problems that no edit was shown, 0 to 1."""
        return self.accuracy(names[:-1]) + self.effect(names) if names else BASE

    def effect(self, names: tuple[str, ...]) -> float:
        """What the last of these functions adds to the accuracy."""
        old = self.accuracy(names[:-1])
        return min(max(old + self.edits[names[-1]].effect, LIMITS[0]), LIMITS[1]) - old

    def outcomes(self, names: tuple[str, ...], seed: int) -> Outcomes:
        """Which problems are solved with these functions in rollouts of this seed."""
        found = self._outcomes.get((names, seed))
        if found is None:
            found = self._outcomes[names, seed] = self._draw(names, seed)
        return found

    def _draw(self, names: tuple[str, ...], seed: int) -> Outcomes:
        first = self.seed
        if not names:
            if seed == first:
                return np.random.default_rng([first, 0]).random(len(self.number)) < BASE
            return flipped(self.outcomes((), first), BASE, 0.0, np.random.default_rng([first, seed, 1]))
        edit, old = self.edits[names[-1]], self.outcomes(names[:-1], seed)
        draw = np.random.default_rng([edit.seed, seed, 2])
        new = flipped(old, self.accuracy(names[:-1]), self.effect(names), draw)
        new[[self.number[each] for each in edit.memorised]] = True
        return new

    async def solve(self, problem: Problem, functions: FunctionSet, *, seed: int) -> Trajectory:
        """One graded attempt."""
        self.rollouts += 1
        solved = self.outcomes(functions.names, seed)[self.number[problem.id]]
        return Trajectory(
            problem_id=problem.id,
            functions=functions.fingerprint,
            seed=seed,
            steps=(),
            answer=None,
            stop_reason="answer",
            usage=NOTHING,
            wall_s=0.0,
            grade=GRADES[int(solved)],
        )


def flipped(old: Outcomes, accuracy: float, effect: float, draw: np.random.Generator) -> Outcomes:
    """``old`` after the changes of one edit: right ones lost, wrong ones gained, by ``effect`` more gained than lost.

    ``accuracy``: the expected accuracy of ``old``, 0 to 1.
    """
    share = max(FLIPS, abs(effect))
    gain = (share + effect) / 2 / max(1 - accuracy, 0.05)
    loss = (share - effect) / 2 / max(accuracy, 0.05)
    chance = draw.random(old.size)
    return np.where(old, chance >= loss, chance < gain)


class SimulatedOptimizer:
    """A Proposer: each update adds one function whose true effect is drawn from a mix."""

    def __init__(self, world: World, mix: Mix) -> None:
        self.world = world
        self.mix = mix

    async def propose(
        self, functions: FunctionSet, rollouts: Incoming, failures: Sequence[FailedUpdate], *, seed: int
    ) -> Update:
        """An update of ``functions``; its edit is shown a few failed problems."""
        draw = np.random.default_rng(seed)
        effect, memorises = self.mix.effects[draw.choice(len(self.mix.shares), p=self.mix.shares)]
        failed = [each.problem.id for each in await rollouts.all() if not each.trajectory.correct]
        most = min(N_SHOWN, max(1, len(failed) // 2))  # the optimizer holds back the other half
        shown = tuple(failed[index] for index in draw.permutation(len(failed))[:most])
        action = tool(f"edit_{len(self.world.edits) + 1}")
        self.world.edits[action.name] = Hidden(effect=effect, memorised=shown if memorises else (), seed=seed)
        return Update(
            functions=action.apply(functions),
            actions=(action,),
            shown=(shown,),
            matches=(f"{len(shown)}/{len(shown)}",),
        )


class NoRecord:
    """A TrainingLog that keeps nothing."""

    def proposals(self) -> dict[tuple[int, int], Update]:
        """No update was recorded."""
        return {}

    def keep_proposal(self, step: int, candidate: int, update: Update) -> None:
        """Forget an update."""

    def keep_step(self, row: StepRow) -> None:
        """Forget a step."""

    def keep_functions(self, step: int, functions: FunctionSet) -> None:
        """Forget a set."""

    def keep_state(self, state: TrainState) -> None:
        """Forget a state."""


class Training(Record):
    """What one training did, and what it was worth."""

    gain: float
    """The true change in accuracy, in points."""
    apparent: float
    """The change on the training problems, in points."""
    accepted: int
    """Steps whose update was kept."""
    useless: int
    """Of these, those whose true effect is zero or less."""
    rollouts: int


async def train(n: int, mix: Mix, config: TrainerConfig, seed: int) -> Training:
    """One training on ``n`` problems. Equal seeds give equal worlds and, for equal sets, equal proposals."""
    problems = quiz(n)
    world = World(problems, seed)
    rollouts = Rollouts(world, MemoryStore())
    trainer = Trainer(SimulatedOptimizer(world, mix), rollouts, NoRecord(), config, seed=seed)
    names = (await trainer.fit(problems, TrainState())).functions.names
    effects = [world.effect(names[: number + 1]) for number in range(len(names))]
    change = np.mean(world.outcomes(names, seed)) - np.mean(world.outcomes((), seed))
    return Training(
        gain=100 * sum(effects),
        apparent=100 * float(change),
        accepted=len(names),
        useless=sum(each <= 0 for each in effects),
        rollouts=world.rollouts,
    )
