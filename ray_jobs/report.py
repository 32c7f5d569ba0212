"""``agentopt report``: one HTML file of one run, or of several side by side."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentopt_local.errors import AgentOptError, ConfigError
from agentopt_local.problem import Split
from agentopt_local.reporting.data import run_page
from agentopt_local.reporting.html import report_html
from agentopt_local.reporting.reading import Question, RunFiles, read_run
from agentopt_local.run_dir import write_atomically
from ray_jobs.config import RunConfig, TaskConfig, build


def report(runs: Sequence[Path], *, output: Path | None = None, open_it: bool = False) -> int:
    """Write the report of ``runs``, say where it is, and show it in a browser if asked to."""
    twice = [
        str(path) for index, path in enumerate(runs) if path.resolve() in {each.resolve() for each in runs[:index]}
    ]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice; name each run once")
    files = [with_questions(read_run(path)) for path in runs]
    defaults = RunConfig(task=TaskConfig(spec="")).model_dump(mode="json")
    pages = [run_page(each, defaults) for each in files]
    if len({page.summary["name"] for page in pages}) < len(pages):
        for page in pages:
            page.summary["name"] = page.summary["path"]
    text = report_html(pages)
    target = output or (runs[0] / "report.html" if len(runs) == 1 else runs[0].resolve().parent / "comparison.html")
    if target.is_dir():
        raise ConfigError(f"--output {target} is a folder; name a file, such as {target / 'report.html'}")
    if not target.parent.is_dir():
        raise ConfigError(f"--output {target}: there is no folder {target.parent}")
    write_atomically(target, text)
    print(target)
    if open_it and not webbrowser.open(target.resolve().as_uri()):
        print("No browser was found here: copy the file to where there is one; it needs nothing else.")
    return 0


def with_questions(run: RunFiles) -> RunFiles:
    """``run`` with the questions of its rollouts; made again from the task where they were not written down."""
    if run.questions or not run.rollouts:
        return run
    questions = regenerated(run.config)
    if not questions:
        return run
    notes = tuple(note for note in run.notes if not note.startswith("problems.jsonl is missing"))
    return run.model_copy(update={"questions": questions, "notes": notes})


def regenerated(config: dict[str, Any]) -> Mapping[str, Question]:
    """The problems of a run's task; none if the task cannot be loaded here."""
    from ray_jobs.session import task_of

    try:
        settings = build(config, "config.json")
        task = task_of(settings)
        wanted: dict[Split, int] = {"train": settings.task.n_train, "test": settings.task.n_test}
        found = {split: task.problems(split, n) for split, n in wanted.items()}
    except AgentOptError:
        return {}
    return {
        each.id: Question(id=each.id, split=split, kind=each.kind, question=each.question, answer=each.answer)
        for split, problems in found.items()
        for each in problems
    }
