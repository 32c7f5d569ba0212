"""What a task promises, and what a kind of task declares about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from agentopt_local.grading import Grade
from agentopt_local.problem import Problem, Split
from agentopt_local.record import Record
from agentopt_local.tasks.graded_rows import RowGrader

if TYPE_CHECKING:
    from agentopt_local.sandbox.base import Sandbox


IN_PYTHON = "python:"
"""The prefix of a task's spec, or of a model's name, if it was given in Python as an object."""


class Problems(Protocol):
    """The least that a task must have: problems, and grades for answers to them."""

    def problems(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``. A larger ``n`` extends the problems of a smaller one.

        Raises :class:`~agentopt_local.errors.ConfigError` if there are fewer than ``n``.
        """
        ...

    async def grade(self, problem: Problem, answer: str | None, sandbox: Sandbox) -> Grade:
        """Grade ``answer``; None means that the agent gave none.

        Raises :class:`~agentopt_local.errors.SandboxError` if the sandbox fails, and
        :class:`~agentopt_local.errors.ConfigError` if a user-supplied grader fails.
        """
        ...


class Task(Problems, Protocol):
    """A source of problems that can grade answers to them."""

    name: str
    """The spec that :func:`~agentopt_local.tasks.catalog.load_task` was given."""
    preload: tuple[str, ...]
    """Modules that the grader needs in the sandbox; open the sandbox with them."""


class TaskKind(Record):
    """One kind of task. A file in ``tasks/`` declares it as ``KIND``; the file's name is the prefix of its specs."""

    argument: str
    """What follows the prefix and its colon in a spec, as messages show it: ``PATH``."""
    open: Callable[..., Task]
    """Opens a task: ``open(argument, seed=0, settings={})``, where ``settings`` are the task's own.

    Raises ConfigError if the argument, a setting or a file is wrong.
    """
    reads_path: bool = False
    """Whether the argument is a path on this machine, or ``hf:OWNER/NAME``, with or without ``?options``.

    An export then shows only the path's last part."""
    row_graders: dict[str, RowGrader] = Field(default_factory=dict)
    """How ``agentopt grade NAME`` grades a row, by NAME."""
    lenient_row_graders: dict[str, RowGrader] = Field(default_factory=dict)
    """The same for ``--lenient``, for official rules that have a repaired variant."""
    official_row_graders: dict[str, RowGrader] = Field(default_factory=dict)
    """The same for ``--official``: the official rule to the letter, for the whole prediction."""
