"""A function's source as data: its required form, its imports, the names that it leaves undefined.

Nothing here executes the source. Errors are FunctionErrors with a message that an optimizer can act on.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import keyword
import re
import symtable
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agentopt_local.errors import FunctionError
from agentopt_local.fences import blocks_of, dedented, is_python
from agentopt_local.unicode_form import MAX_MARKS, normal_marks

MAX_SOURCE_CHARS = 20_000
MAX_DEPTH = 100
"""Deepest nesting of a new source's syntax tree. Compiling and printing use Python's stack, of which a caller may have
used much already."""
RUNTIME_NAMES = frozenset({"Any", "Dict", "List", "Literal", "Optional", "Union"})
RUNTIME_HEADER = f"from __future__ import annotations\n\nfrom typing import {', '.join(sorted(RUNTIME_NAMES))}\n\n"
"""Precedes the sources when they run. No annotation is evaluated then: it may name what only a type checker knows, and
nothing in it is executed."""
ABBREVIATIONS = {"np": "numpy", "pd": "pandas", "sp": "sympy"}
"""Short names that models use for packages, whether or not they import them."""


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Whatever Python raises for a source in the block, as a FunctionError."""
    try:
        yield
    except SyntaxError as error:
        line = (error.text or "").strip()[:200]
        message = "a number has too many digits" if "integer string conversion" in error.msg else error.msg
        place = f" in line {error.lineno}: {message}: {line}" if error.lineno else f": {message}"
        raise FunctionError(f"syntax error{place}") from None
    except RecursionError:
        raise FunctionError(f"the source cannot be compiled: {TOO_DEEP}") from None
    except (ValueError, MemoryError) as error:
        raise FunctionError(f"the source cannot be compiled: {str(error) or TOO_DEEP}") from None


TOO_DEEP = (
    f"the code is nested more than {MAX_DEPTH} levels deep. Each call, operator or elif of a chain is a level: "
    "use variables, a loop or a dict"
)


def parsed(source: str) -> ast.Module:
    """The syntax tree of ``source``. Raises FunctionError if it is too long or not Python."""
    if len(source) > MAX_SOURCE_CHARS:
        raise FunctionError(f"the source has {len(source)} characters; at most {MAX_SOURCE_CHARS} are allowed")
    return tree_of(source)


def tree_of(source: str) -> ast.Module:
    """The syntax tree of a source or a whole file. Raises FunctionError if it is not Python.

    Python brings names into a normal form, in time that grows with the square of the combining characters in a row.
    """
    if normal_marks(source) != source:
        raise FunctionError(f"more than {MAX_MARKS} combining characters are in a row; use ordinary letters")
    with compiling():
        return ast.parse(source)


def without_future(source: str) -> str:
    """``source`` without a byte order mark and top-level ``from __future__`` imports, which would have to come first
    in the file of a whole set. Their one effect today is that of RUNTIME_HEADER."""
    source = source.removeprefix("\ufeff")
    if "__future__" not in source:
        return source
    rows = lines_of(source)
    for node in reversed(tree_of(source).body):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            before, after = split_at(rows, node.lineno, node.col_offset)[0], ends_of(rows, node)[1].lstrip("; \t")
            rest = f"{before}{after}"
            rows[node.lineno - 1 : node.end_lineno] = [rest] if rest.strip() else []
    return "".join(rows)


def function_node(source: str) -> ast.FunctionDef:
    """The one top-level ``def`` of ``source``. Raises FunctionError if there is anything else."""
    tree = parsed(source)
    with compiling():
        compile(source, "<function>", "exec", dont_inherit=True)
    definitions = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    if len(definitions) != 1 or not isinstance(definitions[0], ast.FunctionDef):
        kinds = ", ".join(type(node).__name__ for node in definitions) or "nothing"
        raise FunctionError(
            f"the source must be exactly one top-level function (imports may precede it); it has: {kinds}. "
            "Put helpers inside the function."
        )
    node = definitions[0]
    if node.decorator_list:
        raise FunctionError(f"{node.name}: decorators are not allowed")
    if keyword.issoftkeyword(node.name) or node.name.startswith("__"):
        raise FunctionError(f"{node.name!r} cannot be the name of a function here")
    if not (ast.get_docstring(node) or "").strip():
        raise FunctionError(f"{node.name}: the first statement must be a docstring that says what it returns")
    return node


def unbound_names(source: str) -> tuple[str, ...]:
    """Names that ``source`` reads but nothing defines: no parameter, assignment, import, built-in or typing name.

    Those of annotations do not count: they are not evaluated.
    """
    scopes = [symtable.symtable(RUNTIME_HEADER + source, "<function>", "exec")]
    for scope in scopes:  # grows while it is iterated over
        scopes += scope.get_children()
    symbols = [symbol for scope in scopes[1:] for symbol in scope.get_symbols() if symbol.is_global()]
    known = {symbol.get_name() for symbol in scopes[0].get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    known |= {symbol.get_name() for symbol in symbols if symbol.is_assigned()} | set(dir(builtins))
    read = [symbol.get_name() for symbol in symbols if symbol.is_referenced()]
    return tuple(dict.fromkeys(name for name in read if name not in known))


def with_imports(source: str, packages: Iterable[str], others: Iterable[str] = ()) -> str:
    """``source`` with missing imports added: of ``packages``, also under their usual abbreviations such as ``np``.

    ``others``: functions that it may call. Raises FunctionError for any other undefined name, before tokens are spent
    on arguments for a function that cannot work.
    """
    allowed, known = set(packages), set(others)
    lines, undefined = [], []
    for name in unbound_names(source):
        if name in known:
            continue
        package = ABBREVIATIONS.get(name, name)
        if package in allowed:
            lines.append(f"import {package}" + ("" if package == name else f" as {name}"))
        else:
            undefined.append(name)
    if undefined:
        raise FunctionError(f"nothing defines {', '.join(undefined)}: import or define what the function uses")
    if not lines:
        return source
    return with_statements(source, lines)


def with_statements(source: str, statements: Sequence[str]) -> str:
    """A function's ``source`` with simple statements added after its docstring: on lines of their own where they can
    be, otherwise behind it on its line."""
    docstring, *following = function_node(source).body
    rows = lines_of(source)
    indent, _ = split_at(rows, docstring.lineno, docstring.col_offset)
    before, after = ends_of(rows, docstring)
    next_line = min((first_line(each) for each in following), default=len(rows) + 1)
    last = docstring.end_lineno or docstring.lineno
    if indent.strip() or next_line <= last or after.rstrip("\r\n").endswith("\\"):
        rows[last - 1] = f"{before}; {'; '.join(statements)}{after}"
    else:
        rows[last - 1] = rows[last - 1].rstrip("\r\n") + "\n"
        rows[last:last] = [f"{indent}{each}\n" for each in statements]
    return "".join(rows)


def first_line(node: ast.stmt) -> int:
    """The number of the line where a statement begins, with its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def split_at(rows: Sequence[str], line: int, column: int) -> tuple[str, str]:
    """A line before and after a column as the syntax tree counts it: in bytes of UTF-8."""
    row = rows[line - 1].encode("utf-8", "surrogatepass")
    return row[:column].decode("utf-8", "surrogatepass"), row[column:].decode("utf-8", "surrogatepass")


def ends_of(rows: Sequence[str], node: ast.stmt) -> tuple[str, str]:
    """The last line of ``node`` up to its end, and after it."""
    return split_at(rows, node.end_lineno or node.lineno, node.end_col_offset or 0)


def lines_of(source: str) -> list[str]:
    """The lines of ``source`` with their ends, as Python counts them: only line breaks end a line."""
    return io.StringIO(source, newline="").readlines()


def shown(node: ast.AST) -> str:
    """Code as a message or a signature shows it; an ellipsis where it is nested too deeply to be written."""
    try:
        return ast.unparse(node)
    except (ValueError, RecursionError):
        return "..."


def code_of(source: str) -> str:
    """The code of ``source`` without comments, docstrings and layout: equal code gives equal text.

    Works without recursion and prints no decimal number, so no source is too deep or has too many digits.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    words: list[str] = []
    rest: list[Any] = [tree]
    while rest:
        item = rest.pop()
        if isinstance(item, ast.AST):
            words.append(type(item).__name__)
            rest += [getattr(item, name, None) for name in reversed(item._fields)]
        elif isinstance(item, list):
            words.append(f"[{len(item)}]")
            rest += reversed(item)
        else:
            words.append(hex(item) if type(item) is int else repr(item))
    return " ".join(words)


def type_name(node: ast.expr) -> str:
    """``int`` for ``int``, ``List`` for ``typing.List``; empty for anything that is not a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "typing":
        return node.attr
    return ""


def imports_of(tree: ast.AST) -> frozenset[str]:
    """Top-level packages imported anywhere in ``tree``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else (node.module or "").split(".")[0])
    return frozenset(found)


_DEF = re.compile(r"^[ \t]*def ", re.MULTILINE)


def clean(source: str) -> str:
    """``source`` dedented and taken out of the Markdown fence in which models like to write it."""
    text = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    if "```" in text and not is_python(dedented(text)):
        text = _unfenced(text)
    return dedented(text)


def _unfenced(text: str) -> str:
    """What is in the first fenced block, of Python if one says so; or what stands before a fence that only closes."""
    blocks = blocks_of(text)
    inside = next((block for block in blocks if block.is_python), blocks[0]).text if blocks else text.split("```")[1]
    before = text[: blocks[0].start if blocks else text.index("```")]
    return before if _DEF.search(before) and not _DEF.search(inside) and is_python(dedented(before)) else inside
