"""Opening a run's task: by its spec, from the rows in the run folder, or as an object given in Python."""

from __future__ import annotations

import inspect
from pathlib import Path

from agentopt_local.errors import ConfigError
from agentopt_local.grading import Grade, as_grade
from agentopt_local.problem import Problem, Split
from agentopt_local.run.reader import read_problems, task_rows
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
    spec, seed = config.task.spec, config.task.seed
    task: Task
    if given is not None:
        task = given.with_seed(seed) if isinstance(given, RowsTask) else GivenTask(spec, given)
        check_same(task, config, run)
    elif spec.startswith(IN_PYTHON):
        rows = None if run is None else task_rows(run)
        if rows is None:
            raise only_in_python(spec, run)
        task = reopened(spec, rows, config.task.settings, seed)
    else:
        task = load_task(spec, seed=seed, settings=config.task.settings)
    task.problems("train", config.task.n_train)
    task.problems("test", config.task.n_test)
    return task


def check_same(task: Task, config: RunConfig, run: Path | None) -> None:
    """Raise ConfigError if ``task`` has other problems than those that are written down in ``run``."""
    known = {} if run is None else {each.id: each for each in read_problems(run)}
    for split, n in (("train", config.task.n_train), ("test", config.task.n_test)):
        wanted = {each.id: each for each in known.values() if each.split == split}
        if not wanted:
            continue
        for problem in task.problems("train" if split == "train" else "test", n):
            row = wanted.pop(problem.id, None)
            if row is None or (row.question, row.answer) != (problem.question, problem.answer):
                raise ConfigError(
                    f"{run} was started with another task: its {split} problems differ at {problem.id!r}; "
                    "give the same rows in full, or start a new run"
                )


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
