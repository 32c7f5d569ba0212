"""Opening a run's task: by its spec, from the rows in the run folder, or as an object given in Python."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.errors import ConfigError
from agentopt_local.grading import Grade, as_grade
from agentopt_local.problem import Problem, Split
from agentopt_local.run.reader import read_problems, task_rows
from agentopt_local.run.test_lock import check_locked
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.tasks.base import IN_PYTHON, Problems, Task
from agentopt_local.tasks.catalog import load_task
from agentopt_local.tasks.python import only_in_python, reopened
from agentopt_local.tasks.row_task import RowsTask
from ray_jobs.config import RunConfig


def task_of(config: RunConfig, run: Path | None = None, given: Problems | None = None) -> Task:
    """The task of a run with these settings.

    ``run`` is its folder, if it exists; ``given`` is a task given in Python. Raises ConfigError if it cannot be opened,
    has too few problems, or is not the task that the run was started with.
    """
    task = with_seed(config, config.task.seed, run, given)
    train_seed = config.task.train_seed
    if train_seed is not None and train_seed != config.task.seed:
        task = OtherTraining(task, with_seed(config, train_seed, run, given))
    train = task.problems("train", config.task.n_train)
    test = task.problems("test", config.task.n_test)
    if run is not None:
        if given is not None:
            check_same(train, run)
        check_locked(run, test)
    return task


def with_seed(config: RunConfig, seed: int, run: Path | None, given: Problems | None) -> Task:
    """The task whose problems ``seed`` draws. Raises ConfigError if it cannot be opened."""
    spec, settings = config.task.spec, config.task.settings
    if isinstance(given, RowsTask):
        return given.with_seed(seed)
    if given is not None:
        return GivenTask(spec, given if seed == config.task.seed else drawn_again(given, seed))
    if not spec.startswith(IN_PYTHON):
        return load_task(spec, seed=seed, settings=settings)
    rows = None if run is None else task_rows(run)
    if rows is None:
        raise only_in_python(spec, run)
    return reopened(spec, rows, settings, seed)


def drawn_again(given: Problems, seed: int) -> Problems:
    """The task object with the problems of another seed. Raises ConfigError if it cannot draw others."""
    draw = getattr(given, "with_seed", None)
    if draw is None:
        raise ConfigError(
            f"task.train_seed = {seed}: {type(given).__name__} cannot draw other training problems. Give it a method "
            "with_seed(seed) that returns the task with those of another seed, or leave task.train_seed out"
        )
    other: Problems = draw(seed)
    return other


def check_same(problems: Sequence[Problem], run: Path) -> None:
    """Raise ConfigError if these training problems are not those that are written down in ``run``."""
    known = {each.id: each for each in read_problems(run) if each.split == "train"}
    for problem in problems if known else ():
        row = known.get(problem.id)
        if row is None or (row.question, row.answer) != (problem.question, problem.answer):
            raise ConfigError(
                f"{run} was started with another task: its train problems differ at {problem.id!r}; "
                "give the same rows in full, or start a new run"
            )


class OtherTraining:
    """A task whose training problems are those of another seed; validation and test stay.

    Which split a problem belongs to does not depend on the seed, so no training problem is a test problem.
    """

    def __init__(self, task: Task, training: Task) -> None:
        self.name = task.name
        self.preload = task.preload
        self.task = task
        self.training = training
        self.description = getattr(training, "description", None)

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``."""
        return (self.training if split == "train" else self.task).problems(split, n)

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """The task's grade."""
        return await self.task.grade(problem, answer, sandbox)

    def for_grading(self) -> Task:
        """All that a grading process needs: the task, which grades both, as small as it can be."""
        smaller = getattr(self.task, "for_grading", None)
        task: Task = self.task if smaller is None else smaller()
        return task


class GivenTask:
    """Any object with ``problems`` and ``grade`` as a Task; what it returns is checked."""

    def __init__(self, spec: str, task: Problems) -> None:
        self.name = spec
        self.task = task
        self.preload: tuple[str, ...] = tuple(getattr(task, "preload", ()))

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems. Raises ConfigError if the object returns anything else."""
        found = tuple(self.task.problems(split, n)) if n else ()
        for each in found:
            if not isinstance(each, Problem):
                raise ConfigError(
                    f"task {self.title!r}: problems() returned a {type(each).__name__}, not an ao.Problem"
                )
        if len(found) != n:
            raise ConfigError(f"task {self.title!r}: problems({split!r}, {n}) returned {len(found)} problems")
        if len({each.id for each in found}) < n:
            raise ConfigError(f"task {self.title!r}: problems({split!r}, {n}) returned an id twice")
        return found

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """The object's grade. Raises ConfigError if it returns something that is not a grade."""
        result = self.task.grade(problem, answer, sandbox)
        return as_grade(self.title, await result if inspect.isawaitable(result) else result, problem, answer or "")

    def for_grading(self) -> GivenTask:
        """This task with its object's own ``for_grading()``, if it has one."""
        smaller = getattr(self.task, "for_grading", None)
        return self if smaller is None else GivenTask(self.name, smaller())

    @property
    def title(self) -> str:
        """Its name without the prefix of a spec."""
        return self.name.removeprefix(IN_PYTHON)
