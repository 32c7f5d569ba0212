"""Functions from files: a run, an exported package, a folder of Python files, or one file. Nothing is executed here."""

from __future__ import annotations

import ast
import errno
import io
import re
import tokenize
from collections.abc import Sequence
from pathlib import Path

from agentopt_local.errors import ConfigError, FunctionError, RunDirError
from agentopt_local.exporting.package import FUNCTIONS_FILE, PROVENANCE_FILE, package_of
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.names import bindings
from agentopt_local.plain_files import read_plain
from agentopt_local.record import Record
from agentopt_local.run.files import STATE, is_run
from agentopt_local.run.reader import read_functions
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.source import RUNTIME_HEADER, lines_of, shown, tree_of, unbound_names, without_future

_FUTURE, _TYPING, _ = RUNTIME_HEADER.split("\n\n")
HEADER = re.compile(rf"\A(?:#[^\n]*\n|\n)*(?:{re.escape(_FUTURE)}\n\n)?{re.escape(_TYPING)}\n\n")
"""What precedes the functions in a file that this program, or an older version, wrote."""
MAX_FILE_BYTES = 1 << 19
"""Most bytes of one file, enough for some hundred functions."""
MAX_FILES = 1000
"""Most files of one folder."""
FORMS = "a run folder, an exported package, a folder of .py files, or a .py file"


class Found(Record):
    """A function and the file that contains it."""

    file: Path
    function: Function


def find_functions(path: Path, allowed_packages: Sequence[str]) -> tuple[Found, ...]:
    """The functions at ``path``: a run folder, an exported package, a folder of .py files, or a .py file.

    A file may contain functions and the imports that they need, and nothing else. Only functions of a run bring their
    source questions along. Raises ConfigError with a line for
    each wrong file: not a valid Function, an import that is not in ``allowed_packages``, or a name that is taken.
    """
    try:
        path.stat()
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        if not isinstance(error, FileNotFoundError):
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{str(path)[:200]} cannot be read ({reason}); give {FORMS}") from None
    if is_run(path):
        try:
            kept = read_functions(path)
        except FunctionError as error:
            raise RunDirError(f"{path}: {error}") from None
        right, wrong = _checked(path / STATE, [each.source for each in kept.each()])
        found = [
            Found(file=each.file, function=each.function.for_questions(kept.get(each.function.name).questions))
            for each in right
        ]
    else:
        found, wrong = _in_files(python_files(path))
    names: dict[str, Path] = {}
    known = {each.function.name for each in found}
    together = FunctionSet()
    for each in found:
        name = each.function.name
        foreign = sorted(each.function.imports - set(allowed_packages))
        if foreign:
            wrong.append(
                f"{each.file}: {name} imports {', '.join(foreign)}, which optimizer.allowed_packages does not hold"
            )
        if name in names:
            wrong.append(f"{each.file}: {name} is defined in {names[name]} already; names must differ")
            continue
        names[name] = each.file
        undefined = ", ".join(read for read in unbound_names(each.function.source) if read not in known)
        if undefined:
            wrong.append(f"{each.file}: {name} uses {undefined[:200]}, which nothing in it defines or imports")
        try:
            together = together.adding(each.function)
        except FunctionError as error:
            wrong.append(f"{each.file}: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    if not found:
        raise ConfigError(f"{path} holds no function; give {FORMS}")
    return tuple(found)


async def load_in_sandbox(found: Sequence[Found], sandbox: Sandbox, *, timeout_s: float) -> FunctionSet:
    """The found functions as one set, once each has loaded in the sandbox. Raises ConfigError naming wrong files."""
    wrong = []
    for each in found:
        execution = await sandbox.run("", functions=FunctionSet(functions=(each.function,)).source, timeout_s=timeout_s)
        if not execution.ok:
            wrong.append(f"{each.file}: {each.function.name} does not load in the sandbox: {execution.error}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return FunctionSet(functions=tuple(each.function for each in found))


def python_files(path: Path) -> list[Path]:
    """The Python files at ``path``, by name. Tests and package files are skipped."""
    if path.is_file():
        if path.suffix != ".py":
            raise ConfigError(f"{path} is not a Python file; give {FORMS}")
        return [path]
    if not path.is_dir():
        wrong = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise ConfigError(f"{path} {wrong}; give {FORMS}")
    if (path / "pyproject.toml").is_file():
        package = package_of(path)
        if package is None:
            raise ConfigError(f"{path} is a package that agentopt did not export ({PROVENANCE_FILE} is missing in it)")
        return [package / FUNCTIONS_FILE]
    skipped = ("__init__.py", "conftest.py", "setup.py")
    files = [each for each in path.glob("*.py") if each.name not in skipped and not each.name.startswith("test_")]
    if len(files) > MAX_FILES:
        raise ConfigError(f"{path} holds {len(files)} .py files; give a folder with at most {MAX_FILES}")
    return sorted(files)


def _in_files(files: Sequence[Path]) -> tuple[list[Found], list[str]]:
    """The functions of all files, and a line for each file that is wrong."""
    found: list[Found] = []
    wrong: list[str] = []
    for file in files:
        try:
            sources = split_module(read_module(file))
        except FunctionError as error:
            wrong.append(f"{file}: {error}")
            continue
        right, more = _checked(file, sources)
        found += right
        wrong += more
    return found, wrong


def _checked(file: Path, sources: Sequence[str]) -> tuple[list[Found], list[str]]:
    """The functions of one file, and a line for each that is wrong."""
    found: list[Found] = []
    wrong: list[str] = []
    for source in sources:
        try:
            found.append(Found(file=file, function=Function.new(source)))
        except FunctionError as error:
            wrong.append(f"{file}: {error}")
    return found, wrong


def read_module(file: Path) -> str:
    """The text of a Python file as Python reads it: in the encoding that it names, or UTF-8.

    Raises FunctionError if it is not a regular file, too long, or not text. Never waits for a pipe or a device.
    """
    try:
        content = read_plain(file, MAX_FILE_BYTES, follow=True)
    except OSError as error:
        remedy = "; put the functions into several files" if error.errno == errno.EFBIG else ""
        raise FunctionError(f"{error.strerror}{remedy}") from None
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = io.StringIO(content.decode(encoding), newline=None).read()
    except (UnicodeError, SyntaxError, LookupError):
        raise FunctionError("not UTF-8 text, nor text in an encoding that its first lines name") from None
    return _COOKIE.sub(lambda line: "\n" * line[0].count("\n"), text, count=1)


_COOKIE = re.compile(r"\A(?:[ \t\f]*(?:#[^\n]*)?\n)?[ \t\f]*#[^\n]*?coding[:=][^\n]*")
"""The line that names the encoding, perhaps after another comment. The functions are written as UTF-8."""


def split_module(text: str) -> list[str]:
    """The sources of the functions in a module, each with the imports directly above it and others that it uses.

    A module written from :attr:`FunctionSet.source` gives exactly the original sources. Raises FunctionError for
    anything else at the top level, and for what is not Python.
    """
    text = without_future(HEADER.sub("", text, count=1))
    tree = tree_of(text)
    lines = lines_of(text)
    imports = {name: node for node in tree.body for name in bound_names(node)}
    sources: list[str] = []
    pending: list[ast.stmt] = []
    start = 0
    for index, node in enumerate(tree.body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring:
            start = node.end_lineno or 0
        elif isinstance(node, ast.Import | ast.ImportFrom):
            pending += [node] if node.lineno > start else []
        elif isinstance(node, ast.FunctionDef):
            end = end_of(node, lines)
            own = {name for each in pending for name in bound_names(each)}
            needed = {id(imports[name]): imports[name] for name in used_names(node) - own if name in imports}
            borrowed = sorted(needed.values(), key=lambda each: each.lineno)
            sources.append("".join([*(f"{shown(each)}\n" for each in borrowed), *lines[start:end]]).strip("\n") + "\n")
            start, pending = end, []
        else:
            raise FunctionError(
                f"line {node.lineno}: {type(node).__name__} at the top level; a file may hold functions and imports "
                "only, so put constants and helpers inside the function"
            )
    return sources


def end_of(node: ast.stmt, lines: Sequence[str]) -> int:
    """The number of the last line of ``node``, including indented comments at its end."""
    end = node.end_lineno or 0
    for number in range(end, len(lines)):
        line = lines[number]
        if line.startswith((" ", "\t")) and line.lstrip().startswith("#"):
            end = number + 1
        elif line.strip():
            break
    return end


def bound_names(node: ast.stmt) -> set[str]:
    """The names that an import binds."""
    return set(bindings(ast.Module(body=[node], type_ignores=[])))


def used_names(node: ast.AST) -> set[str]:
    """The names that code reads; a star is one that any code may read."""
    return {"*"} | {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
