"""Figures about the library's files: imports, lengths, and the size of the main loop's files.

python tests/tools/house.py      prints the figures that tests/core/test_house.py limits
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("agentopt_local", "serving", "ray_jobs")
SPINE = (
    "trainer", "steps", "optimizer", "drafts", "evidence", "rollout", "update", "train_state", "stage", "seeds",
    "trajectory", "functions", "actions", "record",
)  # fmt: skip
"""What one reads to understand ``Trainer.fit``; the rooms below it (agents, models, sandbox, tasks, run) are apart."""


@cache
def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the library by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Which modules of the library each one names: in imports anywhere in it, and in strings."""
    known = modules(root)
    return {name: {each for each in named(path, known) if each != name} for name, path in known.items()}


def named(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules in ``known`` that a file imports, under TYPE_CHECKING and in functions too, or names in a string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names = [node.value.partition(":")[0]]
            if names[0] not in known:
                continue
        for name in names:
            if (found := owner(name, known)) is not None:
                yield found


def owner(name: str, known: dict[str, Path]) -> str | None:
    """The module that ``name`` is, or is in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that can all reach each other, by Tarjan's algorithm; none in a graph without circles."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file with its length in lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def broad_handlers(path: Path) -> Iterator[int]:
    """The lines of handlers that catch Exception, BaseException, their groups, or everything."""
    broad = {"Exception", "BaseException", "ExceptionGroup", "BaseExceptionGroup"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if node.type is None or any(isinstance(kind, ast.Name) and kind.id in broad for kind in kinds):
                yield node.lineno


def code_lines(path: Path) -> int:
    """The lines of a file that hold code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def lines(path: Path) -> int:
    """The lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Print the figures."""
    paths = modules()
    graph = imports()
    spine = [ROOT / "agentopt_local" / f"{name}.py" for name in SPINE]
    longest = max(paths.values(), key=lines)
    function = max((length, name, path) for path in paths.values() for name, length in functions(path))
    print(f"files: {len(paths)}, lines: {sum(map(lines, paths.values()))}")
    print(f"import circles: {circles(graph)}")
    print(f"spine: {sum(map(code_lines, spine))} lines of code, {sum(map(lines, spine))} in all")
    print(f"longest file: {longest.relative_to(ROOT)}, {lines(longest)} lines")
    print(f"longest function: {function[1]} in {function[2].relative_to(ROOT)}, {function[0]} lines")
    print(f"broad handlers: {sum(len(list(broad_handlers(path))) for path in paths.values())}")


if __name__ == "__main__":
    main()
