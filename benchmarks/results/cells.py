"""One training of a plan with its certificate and test. A finished one is read, not run again."""

from __future__ import annotations

import platform
from pathlib import Path

from pydantic import Field

from agentopt_local.callback import ProgressOnly
from agentopt_local.chat import ChatModel, Usage
from agentopt_local.errors import ConfigError
from agentopt_local.problem import Problem, Split
from agentopt_local.record import Record, fingerprint
from agentopt_local.rollout import Progress
from agentopt_local.run.files import is_run, read_json, write_json
from agentopt_local.run.parsing import validated
from agentopt_local.run.reader import read_costs
from agentopt_local.run.report import Certificate, Comparison, Report, TrainingSummary
from agentopt_local.run.writer import RunDir
from benchmarks.paper.cells import open_cell
from benchmarks.paper.protocol import Cell
from benchmarks.results.kinds import OpenModels
from ray_jobs.commands.model_fit import gpus
from ray_jobs.context_check import check_context
from ray_jobs.evaluation import evaluate_session
from ray_jobs.open_models import Models
from ray_jobs.provenance import describe_run
from ray_jobs.session import Session, open_session
from ray_jobs.terminal.run_log import log_to, stop_logging
from ray_jobs.training import train_session
from ray_jobs.unused_problems import used_in_training, validation_cap, validation_problems
from serving import cpu

RESULT = "result.json"
"""What the table needs from a finished training, in its folder."""


class Result(Record):
    """A finished training."""

    arm: str
    seed: int
    split: Split
    """``test``; ``validation`` where the plan has no test."""
    problems: str
    """Fingerprint of the problems' ids."""
    comparison: Comparison
    certificate: Certificate | None
    functions: tuple[str, ...]
    """Names of the kept functions."""
    training: TrainingSummary
    tokens: dict[str, Usage] = Field(default={})
    """``optimizer``, ``rollouts`` of the training, ``test`` with all baselines, ``checks`` (noise floor, credit,
    certificate)."""
    seconds: float
    """Of work, over all processes."""
    model: str
    commit: str | None
    """Of the code that began the training."""
    machine: str


async def run_cell(cell: Cell, models: OpenModels, progress: Progress) -> Result:
    """The result of a training, which goes on where its folder is. Raises RunDirError if that has other settings."""
    run_dir = open_cell(cell)
    try:
        known = read_result(cell)
        if known is not None:
            return known
        model = await models(cell.config)
        handler = log_to(run_dir.log_path)
        try:
            result = await finished(cell, run_dir, model, progress)
        finally:
            stop_logging(handler)
        write_json(cell.path / RESULT, result.model_dump(mode="json"))
        return result
    finally:
        run_dir.close()


def read_result(cell: Cell) -> Result | None:
    """The result of a training that is finished; None if it is not."""
    values = read_json(cell.path / RESULT)
    return None if values is None else validated(Result, values, str(cell.path / RESULT), extra="ignore")


async def finished(cell: Cell, run_dir: RunDir, model: ChatModel | Models | None, progress: Progress) -> Result:
    """Train, certify and test."""
    config = cell.config
    async with open_session(config, run_dir, [ProgressOnly(progress)], model=model) as session:
        check_context(config, "the plan's settings", session.contexts)
        if run_dir.meta() is None:
            run_dir.write_meta({**describe_run(session), "machine": machine()})
        report = await train_session(session)
        split: Split = "test" if config.task.n_test else "validation"
        problems = session.task.problems("test", config.task.n_test)
        if split == "validation":
            problems = not_shown(session)
            report = await evaluate_session(session, run_dir.resume(), problems, split=split)
    comparison = report.on(split)
    assert comparison is not None
    meta, last = run_dir.meta() or {}, run_dir.last_metric()
    revision = meta.get("model_commit")
    return Result(
        arm=cell.labels[0],
        seed=cell.seed,
        split=split,
        problems=fingerprint([each.id for each in problems]),
        comparison=comparison,
        certificate=report.certificate,
        functions=tuple(each.name for each in report.functions),
        training=report.training,
        tokens=tokens_by_use(report, split),
        seconds=max(report.seconds.this_process, last.seconds if last else 0.0),
        model=f"{meta['model']}{f' at {revision[:12]}' if revision else ''}",
        commit=meta.get("commit"),
        machine=meta["machine"],
    )


def not_shown(session: Session) -> tuple[Problem, ...]:
    """The validation problems of the certificate, all of them, also those after its decision.

    Where it stopped depends on the outcomes, so a gain on the problems up to there would be biased.
    """
    n = validation_cap(session.config, session.device)
    found = validation_problems(session.task, n, used_in_training(session.config, session.task)).problems
    if not found:
        raise ConfigError(
            f"task.n_test = 0, and the task {session.task.name!r} has no validation problems: nothing can be measured; "
            "set task.n_test"
        )
    return found


def tokens_by_use(report: Report, split: Split) -> dict[str, Usage]:
    """The tokens of a run by what they were for. A rollout counts where it was made first."""
    uses = {"optimizer": Usage(), "rollouts": Usage(), "test": Usage(), "checks": Usage()}
    for stage, spent in report.costs.stages.items():
        tested = stage.startswith(f"{split} ")
        use = {"proposals": "optimizer", "training rollouts": "rollouts"}.get(stage, "test" if tested else "checks")
        uses[use] += spent.tokens
    return uses


def generated(folder: Path) -> int:
    """Tokens that all runs in ``folder`` have generated, also those that are not finished."""
    rows = (row for path in folder.glob("*") if is_run(path) for row in read_costs(path))
    return sum(row.usage.completion_tokens for row in rows)


def machine() -> str:
    """This machine in words: processor, its features, cores, GPUs and system."""
    cards = [f"{name} ({size / 2**30:.0f} GiB)" for name, size in gpus()]
    parts = [
        cpu_name(),
        cpu.describe(cpu.features()),
        f"{cpu.cores()} cores",
        *cards,
        f"{platform.system()} {platform.machine()}",
    ]
    return ", ".join(part for part in parts if part)


def cpu_name() -> str:
    """The processor as it names itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
