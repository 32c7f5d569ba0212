"""Tasks by their spec: one file per kind, and no paths in exports."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentopt_local import tasks as package
from agentopt_local.errors import ConfigError
from agentopt_local.tasks.catalog import load_task, public_spec, row_grader, task_kinds
from agentopt_local.tasks.graded_rows import grade_rows


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reasoning_gim:gcd", r"did you mean 'reasoning_gym'.*reasoning_gym:NAME\[,NAME...\] or jsonl:PATH"),
        ("json:data", "did you mean 'jsonl'"),
        ("reasoning_gym", "Write it as"),
        ("jsonl: ", "Write it as"),
        ("", "Write it as"),
    ],
)
def test_a_wrong_spec_says_how_to_write_it(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task(spec)


NEW_BENCHMARK = """
from pathlib import Path

from agentopt_local.graders.numbers import numeric
from agentopt_local.graders.text import exact, normalized
from agentopt_local.grading import apply_grader
from agentopt_local.problem import Problem
from agentopt_local.tasks.base import TaskKind
from agentopt_local.tasks.graded_rows import by_texts


class CapitalsTask:
    preload = ()

    def __init__(self, path, *, seed=0, settings=None):
        self.name = f"capitals:{path}"
        self._lines = Path(path).read_text().splitlines()

    def problems(self, split, n):
        pairs = (line.split(",") for line in self._lines[:n])
        return tuple(Problem(id=f"capital-{a}", question=f"The capital of {a}?", answer=b) for a, b in pairs)

    async def grade(self, problem, answer, sandbox):
        return apply_grader("exact", exact, problem, answer)


KIND = TaskKind(
    argument="CSV_FILE",
    open=CapitalsTask,
    reads_path=True,
    row_graders={"capitals": by_texts(exact), "population": by_texts(numeric)},
    lenient_row_graders={"capitals": by_texts(normalized)},
)
"""


@pytest.fixture
def capitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file for the tasks of a new kind, which is one more file in a folder of the package ``tasks``."""
    folder = tmp_path / "further_tasks"
    folder.mkdir()
    (folder / "capitals.py").write_text(NEW_BENCHMARK)
    (folder / "capitals_helper.py").write_text("KINDS = 3\n")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    path = tmp_path / "capitals.csv"
    path.write_text("France,Paris\nPeru,Lima\n")
    yield path
    for name in ("capitals", "capitals_helper"):
        sys.modules.pop(f"{package.__name__}.{name}", None)


def test_a_new_file_is_all_that_a_benchmark_needs(capitals: Path) -> None:
    task = load_task(f"capitals:{capitals}")
    assert [problem.answer for problem in task.problems("test", 2)] == ["Paris", "Lima"]
    assert task_kinds()["capitals"].argument == "CSV_FILE"
    with pytest.raises(ConfigError, match=r"did you mean 'capitals'.*Write it as .* or capitals:CSV_FILE"):
        load_task("capitls:x")
    with pytest.raises(ConfigError, match="Write it as"):
        load_task("capitals: ")
    assert public_spec(f"capitals:{capitals}") == "capitals:capitals.csv"


def test_a_new_file_grades_rows(capitals: Path) -> None:
    lines = [json.dumps({"gold": "Paris", "prediction": "paris"}).encode()]
    verdicts = {
        lenient: [correct for _, correct in grade_rows(lines, row_grader("capitals", lenient=lenient))]
        for lenient in (False, True)
    }
    assert verdicts == {False: [False], True: [True]}
    assert [correct for _, correct in grade_rows([b'{"gold": 2, "prediction": "2.0"}'], row_grader("population"))] == [
        True
    ]
    with pytest.raises(ConfigError, match="'population' has no lenient variant; only capitals and gaia and tabmwp"):
        row_grader("population", lenient=True)


def test_without_that_file_the_benchmark_is_unknown() -> None:
    with pytest.raises(ConfigError, match="'capitals:x' is not known"):
        load_task("capitals:x")
    with pytest.raises(ConfigError, match="'capitals' is not known"):
        row_grader("capitals")


@pytest.mark.parametrize(
    "prefix", ["base", "catalog", "rows", "splits", "reasoning_gym_child", "os", "../tasks/math", "a.b"]
)
def test_a_file_without_a_kind_is_not_a_task(prefix: str) -> None:
    with pytest.raises(ConfigError, match="is not known"):
        load_task(f"{prefix}:x")


def test_every_kind_that_reads_files_hides_its_folders() -> None:
    kinds = task_kinds()
    assert list(kinds) == ["reasoning_gym", "jsonl", "gaia", "gsm8k", "math", "tabmwp"]
    for prefix, kind in kinds.items():
        shown = public_spec(f"{prefix}:/home/someone/secret/data")
        assert shown == (f"{prefix}:data" if kind.reads_path else f"{prefix}:/home/someone/secret/data")


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("math:/home/me/MATH?type=Counting & Probability&level=1-3", "math:MATH?type=Counting & Probability&level=1-3"),
        ("tabmwp:~/data/tabmwp/?lenient=true", "tabmwp:tabmwp?lenient=true"),
        ("gaia:../../me/gaia?level=1", "gaia:gaia?level=1"),
        ("gsm8k:data/gsm8k", "gsm8k:gsm8k"),
        ("gsm8k:gsm8k", "gsm8k:gsm8k"),
        ("gsm8k:hf:openai/gsm8k", "gsm8k:hf:openai/gsm8k"),
        ("gaia:hf:gaia-benchmark/GAIA?level=2", "gaia:hf:gaia-benchmark/GAIA?level=2"),
        ("gsm8k:hf:/home/me/gsm8k", "gsm8k:gsm8k"),
        ("jsonl: /home/me/a b.jsonl ", "jsonl:a b.jsonl"),
        ("jsonl:/home/why?/me/rows.jsonl", "jsonl:rows.jsonl"),
        ("jsonl:C:\\Users\\me\\rows.jsonl", "jsonl:rows.jsonl"),
        ("math:~me", "math:~"),
        ("reasoning_gym:gcd,lcm", "reasoning_gym:gcd,lcm"),
        ("older_kind:/home/me/rows.txt?seed=3", "older_kind:rows.txt?seed=3"),
        ("older_kind:gcd", "older_kind:gcd"),
        ("/home/me/rows.jsonl", "rows.jsonl"),
        ("/home/me/a:b/rows.jsonl", "a:rows.jsonl"),
        ("https://me:password@host/rows", "https:rows"),
    ],
)
def test_no_folder_leaves_in_an_export(spec: str, shown: str) -> None:
    assert public_spec(spec) == shown
