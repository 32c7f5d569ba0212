"""Which package may import which, and that importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("agentopt_local", "serving", "ray_jobs")
FORBIDDEN = {
    "agentopt_local": {"serving", "ray_jobs", "ray", "vllm", "torch"},
    "serving": {"ray_jobs"},
}
SEAM = {
    f"agentopt_local.{name}"
    for name in (
        "call_arguments",
        "chat",
        "errors",
        "json_escapes",
        "json_text",
        "record",
        "sandbox.zygote.removal",
        "setting_types",
        "thoughts",
        "tool_calls",
        "tool_formats",
    )
}
"""All that ``serving`` may know of the core."""
UP = {("agentopt_local/__init__.py", "ray_jobs"), ("agentopt_local/__init__.py", "ray_jobs.api")}
"""The one arrow that points up: the names of the Python API, imported on first use."""
RUNS_ELSEWHERE = "zygote"
"""Programs of the sandbox's own processes: importing them here would start them."""


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def modules(package: str) -> list[str]:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files(package)]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def imported(path: Path) -> list[tuple[int, str]]:
    """Every module that a file imports anywhere in it, with the line; for ``from a import b`` both a and a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.module is None or node.level:  # relative: it stays in its package
                continue
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_point_down_only(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files(package)
        for line, module in imported(path)
        if top(module) in FORBIDDEN[package] and (path.relative_to(ROOT).as_posix(), module) not in UP
    ]
    assert wrong == []


def test_the_one_arrow_up_is_in_the_function_that_python_calls_for_a_missing_name() -> None:
    path = ROOT / "agentopt_local" / "__init__.py"
    assert [module for _, module in imported(path) if top(module) == "ray_jobs"] == ["ray_jobs", "ray_jobs.api"]
    function = next(
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    )
    lines = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    assert all(line in lines for line, module in imported(path) if top(module) == "ray_jobs")


def test_serving_knows_only_the_seam_of_the_core() -> None:
    wrong = []
    for path in files("serving"):
        for line, module in imported(path):
            allowed = module in SEAM or module.rpartition(".")[0] in SEAM
            # "from agentopt_local import chat" also stands in the list as the package itself.
            if top(module) == "agentopt_local" and not allowed and module != "agentopt_local":
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_only_ray_jobs_imports_ray_jobs_and_only_serving_imports_vllm() -> None:
    for name, home in (("ray_jobs", "ray_jobs"), ("vllm", "serving")):
        users = {
            package
            for package in PACKAGES
            for path in files(package)
            for _, m in imported(path)
            if top(m) == name and (path.relative_to(ROOT).as_posix(), m) not in UP
        }
        assert users <= {home}


def test_the_check_sees_imports_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    if True:\n        from torch import nn\n    import ray.util as u\n")
    assert {module for _, module in imported(path)} == {"torch", "torch.nn", "ray.util"}


LOADED = """
import importlib, os, pathlib, sys, threading
before = dict(os.environ)
for name in sys.argv[2:]:
    importlib.import_module(name)
heavy = sorted(set(sys.argv[1].split(",")) & set(sys.modules))
assert not heavy, f"loaded: {heavy}"
assert dict(os.environ) == before, "the environment was changed"
assert threading.active_count() == 1, threading.enumerate()
assert not list(pathlib.Path.cwd().iterdir()), "files were made"
"""


def load(folder: Path, names: list[str], heavy: set[str]) -> subprocess.CompletedProcess[str]:
    """Import ``names`` in a fresh process in an empty folder."""
    command = [sys.executable, "-W", "error", "-c", LOADED, ",".join(sorted(heavy)), *names]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=False)


def test_importing_the_core_loads_no_heavy_library_and_does_nothing(tmp_path: Path) -> None:
    names = [name for name in modules("agentopt_local") if RUNS_ELSEWHERE not in name]
    assert len(names) > 25
    done = load(tmp_path, names, {"torch", "ray", "vllm", "serving", "ray_jobs"})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_importing_the_package_alone_loads_almost_nothing(tmp_path: Path) -> None:
    heavy = {
        "torch",
        "ray",
        "vllm",
        "outlines",
        "transformers",
        "scipy",
        "numpy",
        "sympy",
        "pydantic",
        "rich",
        "pandas",
    }
    done = load(tmp_path, ["agentopt_local"], heavy | {"serving", "ray_jobs"})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_importing_the_command_line_and_the_settings_starts_nothing(tmp_path: Path) -> None:
    done = load(tmp_path, ["ray_jobs.cli", "ray_jobs.config", "ray_jobs.api"], {"torch", "ray", "vllm", "pandas"})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_check_of_loaded_modules_can_fail(tmp_path: Path) -> None:
    done = load(tmp_path, ["sqlite3"], {"sqlite3"})
    assert done.returncode != 0
    assert "loaded: ['sqlite3']" in done.stderr
