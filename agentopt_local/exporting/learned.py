"""What a run learned, and where it came from."""

from __future__ import annotations

from pathlib import Path, PurePath

from agentopt_local.functions import FunctionSet
from agentopt_local.record import MAX_INT, Record
from agentopt_local.run.parsing import text_in
from agentopt_local.run.reader import (
    read_certificate,
    read_config,
    read_functions,
    read_meta,
    read_report,
    read_rollouts,
    read_start,
)
from agentopt_local.run.report import Certificate, Comparison
from agentopt_local.tasks.catalog import public_spec


class Provenance(Record):
    """Where a function set comes from and how it was measured. Contains no path or address of the machine."""

    run: str
    """The run folder's name."""
    task: str
    """The task's spec, with only the last part of a path."""
    model: str
    """The model that wrote the functions and called them."""
    seed: int
    agentopt_local: str | None
    """Version of this package."""
    commit: str | None
    started: str | None
    """Start of the training, ISO 8601."""
    functions: str
    """Fingerprint of the set."""
    start: tuple[str, ...]
    """Functions that the training started with. The model may have revised them, but did not create them."""
    test: Comparison | None
    """The evaluation on held-out problems; None if this set was not evaluated."""
    certificate: Certificate | None = None
    """Whether this set helps, on problems that played no part in its training; None if that was not tested."""


class Learned(Record):
    """A run's functions, as the evaluation tested them."""

    functions: FunctionSet
    withheld: tuple[str, ...] = ()
    """Functions of the best accepted set that the agent did not get in the evaluation (``trainer.keep_only_used``)."""
    provenance: Provenance


def read_learned(run: Path) -> Learned:
    """The functions of the run folder ``run`` and where they come from. Raises RunDirError if it is not a run folder.

    Takes no lock, so it does not disturb a training in progress.
    """
    config = read_config(run)
    accepted = read_functions(run)
    report = read_report(run)
    test = report.test if report is not None and report.test is not None and report.test.n else None
    tested = accepted
    if report is not None and test is not None:
        named = frozenset(each.name for each in report.functions)
        tested = accepted.keeping(named)
        if len(tested) != len(named) or not evaluated(run, tested):
            tested, test = accepted, None  # the report is about another set
    meta = read_meta(run)
    model = text_in(config, "model", "name")
    seed = config.get("seed", 0)
    return Learned(
        functions=tested,
        withheld=tuple(name for name in accepted.names if name not in tested),
        provenance=Provenance(
            run=run.resolve().name,
            task=public_spec(text_in(config, "task", "spec")),
            model=PurePath(model).name if model.startswith(("/", "~", ".")) else model,
            seed=seed if isinstance(seed, int) and abs(seed) <= MAX_INT else 0,
            agentopt_local=text_in(meta, "agentopt_local") or None,
            commit=text_in(meta, "commit") or None,
            started=text_in(meta, "started") or None,
            functions=tested.fingerprint,
            start=read_start(run).names,
            test=test,
            certificate=read_certificate(run, tested),
        ),
    )


def evaluated(run: Path, functions: FunctionSet) -> bool:
    """Whether the set was rolled out on the test problems."""
    return any(
        row.stage.split == "test" and row.trajectory.functions == functions.fingerprint for row in read_rollouts(run)
    )
