"""The shape of the code: no import circles, one place for the run folder, names, lengths, few broad handlers."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.tools import house

FILES = sorted(house.modules().values())
SAME_MEANING = {
    "__init__", "__main__",
    "base",  # the Protocol of a room
    "catalog",  # what a room offers, by name
    "config",  # the settings of a room
    "gaia", "gsm8k", "tabmwp",  # a benchmark's task and its grader
    "report",  # the evaluation of a run, and the command that shows it
}  # fmt: skip
"""Names that several files have because they mean the same in each room."""


def test_no_two_files_import_each_other_even_by_way_of_others() -> None:
    assert house.circles(house.imports()) == []


def test_the_check_sees_circles_in_functions_strings_and_type_checking(tmp_path: Path) -> None:
    room = tmp_path / "agentopt_local"
    room.mkdir()
    (room / "a.py").write_text("def f():\n    import agentopt_local.b\n")
    (room / "b.py").write_text("if TYPE_CHECKING:\n    from agentopt_local.c import C\n")
    (room / "c.py").write_text("WHERE = 'agentopt_local.a:f'\n")
    (room / "d.py").write_text("from agentopt_local import a\n")
    graph = house.imports(tmp_path)
    assert graph["agentopt_local.d"] == {"agentopt_local.a"}
    assert house.circles(graph) == [["agentopt_local.a", "agentopt_local.b", "agentopt_local.c"]]


def test_files_and_functions_are_short() -> None:
    long_files = {str(path): n for path in FILES if (n := len(path.read_text("utf-8").splitlines())) > 300}
    long_functions = {f"{path}:{name}": n for path in FILES for name, n in house.functions(path) if n > 60}
    assert (long_files, long_functions) == ({}, {})


def test_the_spine_can_be_read_in_one_sitting() -> None:
    assert sum(house.code_lines(house.ROOT / "agentopt_local" / f"{name}.py") for name in house.SPINE) <= 1500


def test_no_two_files_have_one_name_with_different_meanings() -> None:
    homes = defaultdict(list)
    for path in FILES:
        homes[path.stem].append(str(path.relative_to(house.ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1 and name not in SAME_MEANING} == {}


def test_few_handlers_catch_everything_and_each_says_why() -> None:
    found = [(path, line) for path in FILES for line in house.broad_handlers(path)]
    reasons = {f"{path}:{line}": reason(path.read_text("utf-8").splitlines()[line - 1]) for path, line in found}
    assert [place for place, said in reasons.items() if len(said) < 15] == []
    assert len(found) <= 10, found


def reason(line: str) -> str:
    """What a handler's comment says."""
    return line.partition("#")[2].replace("noqa: BLE001", "").strip(" -#")


RUN_FILES = re.compile(
    r"\b(?:config|meta|state|report|credit|test_set)\.json\b|"
    r"\b(?:steps|proposals|rollouts|costs|metrics|certificates|problems|task_rows|looks)\.jsonl\b"
)
NOT_OF_A_RUN = re.compile(r"serving/(?:hub|sizing|gguf|calibration|engine|model_store|parameters|weight_files)\.py")
"""A model's folder has a config.json too."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(house.ROOT)))
def test_only_the_run_room_names_files_of_a_run(path: Path) -> None:
    where = path.relative_to(house.ROOT).as_posix()
    if where.startswith("agentopt_local/run/") or NOT_OF_A_RUN.search(where):
        return
    tree = ast.parse(path.read_text("utf-8"))
    documented = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    named = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
        if RUN_FILES.search(node.value)
    ]
    assert named == []
