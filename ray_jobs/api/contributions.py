"""``ao.credit``: what each function of a run contributes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agentopt_local.callback import Callback
from agentopt_local.errors import ConfigError
from agentopt_local.problem import Split
from agentopt_local.run.contribution import Credit
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.base import Problems
from ray_jobs.api.finished_run import Run
from ray_jobs.api.given import Model, check_callbacks, given_again, path_text
from ray_jobs.interrupts import run_blocking
from ray_jobs.lifecycle import credit_run, reopen
from ray_jobs.terminal.display import Display

SPLITS = ("train", "validation")


def credit(
    run: str | Path | Run,
    *,
    split: Split | None = None,
    n: int | None = None,
    prune: bool = False,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Credit:
    """Measure what each function of a run contributes, on problems that its edits were not shown.

    Every function is left out once, and the whole set minus the rest is its effect. In sets of more than five, random
    halves are rolled out too. The result is also written to the run.

    ``run``: the run or its folder. ``split``: ``"train"`` or ``"validation"``, where the problems come from (None:
    both). ``n``: at most so many problems. ``prune``: remove functions that hurt or only cost tokens, if the set
    without them is no worse; a run that was tested stays as it is, and ``credit.pruned.run`` names the copy beside it
    that has the smaller set. ``task``, ``model``, ``callbacks``, ``progress``: as for ``ao.resume``. Blocks like
    ``ao.train``.

    Raises what ``ao.resume`` raises, and ConfigError if the run has no functions or there are no problems.

    ::

        credit = ao.credit(run, split="validation", n=40)
        print(credit)
        {each.name: each.verdict for each in credit.each}
    """
    job = acredit(run, split=split, n=n, prune=prune, task=task, model=model, callbacks=callbacks, progress=progress)
    return run_blocking(job)


async def acredit(
    run: str | Path | Run,
    *,
    split: Split | None = None,
    n: int | None = None,
    prune: bool = False,
    task: Problems | None = None,
    model: Model | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Credit:
    """:func:`credit` as a coroutine.

    ::

        credit = await ao.acredit(run, n=40)
    """
    path = Path(path_text("ao.credit", "run", run))
    heard = check_callbacks("ao.credit", callbacks)
    if split is not None and split not in SPLITS:
        raise ConfigError(
            f"ao.credit: split = {split!r} is not possible{did_you_mean(str(split), SPLITS)}; "
            "use 'train', 'validation' or None for both"
        )
    if n is not None and n < 1:
        raise ConfigError(f"ao.credit: n = {n}: measure on at least one problem")
    models, elsewhere = given_again("ao.credit", path, model, None)
    config, run_dir = reopen(path, model=models, task=task)
    config = config.model_copy(update=elsewhere)
    display = Display() if progress else None
    return await credit_run(
        config,
        run_dir,
        split=split,
        n=n,
        prune=prune,
        display=display,
        callbacks=heard,
        model=models,
        task=task,
    )
