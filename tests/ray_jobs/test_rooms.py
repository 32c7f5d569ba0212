"""Which part of ``ray_jobs`` may import which, and its other entry points."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = {"cli.py", "train.py", "sweep.py", "__main__.py"}


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it; for ``from a import b`` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_terminal_imports_no_other_room() -> None:
    for path in (ROOT / "ray_jobs" / "terminal").glob("*.py"):
        mine = {name for name in imports(path) if name.startswith("ray_jobs.")}
        assert {name for name in mine if not name.startswith("ray_jobs.terminal")} == set(), path.name


def test_only_entry_points_import_commands() -> None:
    users = {
        path.name
        for path in (ROOT / "ray_jobs").glob("*.py")
        if any(name.startswith(("ray_jobs.commands", "ray_jobs.cli")) for name in imports(path))
    }
    assert users == ENTRY_POINTS


def test_nothing_imports_an_entry_point_but_another() -> None:
    modules = {f"ray_jobs.{name.removesuffix('.py')}" for name in ENTRY_POINTS}
    users = {path.name for path in (ROOT / "ray_jobs").rglob("*.py") if imports(path) & modules}
    assert users == {"train.py", "__main__.py"}


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("ray_jobs", ["--version"], "agentopt "),
        ("ray_jobs.cli", ["--version"], "agentopt "),
        ("ray_jobs.train", ["--help"], "usage: agentopt train [-h] CONFIG"),
        ("ray_jobs.sweep", ["--help"], "usage: python -m ray_jobs.sweep"),
    ],
)
def test_modules_that_can_be_run(module: str, arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)
