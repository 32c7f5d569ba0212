"""``ao.train`` and its relatives: starting, continuing and opening runs from Python."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentopt_local.callback import Callback
from agentopt_local.errors import AgentOptError
from agentopt_local.functions import FunctionSet
from agentopt_local.plain_files import own_path
from agentopt_local.tasks.base import Problems
from ray_jobs.api.finished_run import Run
from ray_jobs.api.given import Model, check_callbacks, dotted, given, given_again, nested, path_text
from ray_jobs.interrupts import run_blocking
from ray_jobs.lifecycle import create_run, reopen, show_sizes, train_run
from ray_jobs.terminal.display import Display

DEFAULT_MODEL = "qwen2.5-coder-1.5b"


def train(
    task: str | Problems,
    *,
    model: Model = DEFAULT_MODEL,
    n_train: int = 24,
    n_test: int = 60,
    run_dir: str | Path = "runs",
    run_name: str | None = None,
    start_functions: str | Path | Run | FunctionSet | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train an agent's functions on a task, evaluate them on held-out problems, and return the run.

    ``task``: what ``ao.task`` returns, or a spec as on the command line, such as ``reasoning_gym:spell_backward`` or
    ``jsonl:problems.jsonl``.

    ``model``: the model of the agent and the optimizer: an embedded model's name (``agentopt models list``), a folder,
    a Hugging Face id, ``ao.Endpoint(url, name)``, or any object with ``async complete(request)``.

    ``n_train``, ``n_test``: the number of training problems, and of held-out problems to evaluate on.

    ``run_dir``, ``run_name``: where the run's folder is created, and its name (None: from the task and the time).

    ``start_functions``: functions to start from: a run, an exported package, a folder of .py files, a .py file, or an
    ``ao.FunctionSet``.

    ``callbacks``: instances of ``ao.Callback`` classes. ``progress``: show the progress on standard error.

    ``settings``: any other setting of a run, by section or by dotted key: ``trainer={"max_epochs": 3}``, ``seed=1``,
    ``**{"agent.max_turns": 4}``. ``optimizer_model`` takes the same values as ``model``.

    Blocks until the run has ended. In a notebook it works in a thread. Ctrl-C (in a notebook: interrupting the kernel)
    shuts down engines and sandboxes in order and raises KeyboardInterrupt; ``ao.resume`` continues the run.

    Raises ConfigError for mistakes in the arguments, before anything starts, and if a grader fails; ModelError,
    BudgetError or SandboxError if the model fails, the budget is used up or the sandbox fails; RunDirError if the run's
    folder already exists or cannot be written. Finished work is kept.

    ::

        run = ao.train(ao.task(rows), n_train=20, n_test=40, trainer={"max_epochs": 3})
        print(run.accuracy)
    """
    return run_blocking(
        atrain(
            task,
            model=model,
            n_train=n_train,
            n_test=n_test,
            run_dir=run_dir,
            run_name=run_name,
            start_functions=start_functions,
            callbacks=callbacks,
            progress=progress,
            **settings,
        )
    )


async def atrain(
    task: str | Problems,
    *,
    model: Model = DEFAULT_MODEL,
    n_train: int = 24,
    n_test: int = 60,
    run_dir: str | Path = "runs",
    run_name: str | None = None,
    start_functions: str | Path | Run | FunctionSet | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
    **settings: Any,
) -> Run:
    """:func:`train` as a coroutine: it works in the running event loop, beside other tasks.

    Cancelling it shuts the run down in order.

    ::

        runs = await asyncio.gather(*(ao.atrain(task, seed=seed, model=model) for seed in range(3)))
    """
    values = {
        "task": {"n_train": n_train, "n_test": n_test},
        "run_dir": path_text("ao.train", "run_dir", run_dir),
        "run_name": run_name,
    }
    chosen = given("ao.train", task, model, start=start_functions, values=values, settings=settings)
    heard = check_callbacks("ao.train", callbacks)
    objects: dict[str, Any] = {"model": chosen.model, "task": chosen.task}
    made = await create_run(chosen.config, start=chosen.start, **objects)
    display = Display() if progress else None
    if display is not None:
        show_sizes(chosen.config, display)
    with saying_how_to_continue(made.path, display):
        await train_run(chosen.config, made, display=display, callbacks=heard, **objects)
    return Run(made.path)


def resume(
    run: str | Path | Run,
    *,
    task: Problems | None = None,
    model: Model | None = None,
    optimizer_model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
    **budget: Any,
) -> Run:
    """Continue a run that was interrupted, was killed, or ran out of budget, and return it.

    ``run``: the run or its folder. ``task``: the task it was started with, if it was given in Python and its rows are
    not in the folder. ``model``, ``optimizer_model``: the same models again, if they were given as objects, or an
    ``ao.Endpoint`` with the same name at another address. ``callbacks``, ``progress``: as for ``ao.train``.
    ``budget``: a new budget, the only setting that may change: ``budget={"max_cost": 20}``. Blocks like ``ao.train``.

    Raises ConfigError if the task or a model is missing or is not the same; RunDirError if the folder is not a run or
    is in use by another process; and everything that ``ao.train`` raises.

    ::

        run = ao.resume("runs/first", task=task)
    """
    job = aresume(
        run,
        task=task,
        model=model,
        optimizer_model=optimizer_model,
        callbacks=callbacks,
        progress=progress,
        **budget,
    )
    return run_blocking(job)


async def aresume(
    run: str | Path | Run,
    *,
    task: Problems | None = None,
    model: Model | None = None,
    optimizer_model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
    **budget: Any,
) -> Run:
    """:func:`resume` as a coroutine.

    ::

        run = await ao.aresume("runs/first", task=task)
    """
    path = Path(path_text("ao.resume", "run", run))
    heard = check_callbacks("ao.resume", callbacks)
    changes = dict(dotted(nested(budget)))
    models, elsewhere = given_again("ao.resume", path, model, optimizer_model)
    config, run_dir = reopen(path, changes.items(), prefix="ao.resume: ", model=models, task=task, elsewhere=elsewhere)
    display = Display() if progress else None
    with saying_how_to_continue(path, display):
        await train_run(config, run_dir, display=display, callbacks=heard, model=models, task=task)
    return Run(path)


def load(path: str | Path) -> Run:
    """Open the run in the folder ``path``, even if it is old or unfinished. Takes no lock.

    Raises RunDirError if ``path`` is not a run folder.

    ::

        run = ao.load("runs/first")
    """
    return Run(own_path(str(path), "ao.load"))


@contextmanager
def saying_how_to_continue(path: Path, display: Display | None) -> Iterator[None]:
    """If the run is cut short, say how to continue it: in a note on the error, or on the display."""
    remedy = f"To continue: ao.resume({str(path)!r})"
    try:
        yield
    except AgentOptError as error:
        error.add_note(remedy)
        raise
    except asyncio.CancelledError:
        if display is not None:
            display.line(remedy)
        raise
