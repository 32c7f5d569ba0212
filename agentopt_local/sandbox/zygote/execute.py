"""Executes source text, and describes its errors so that a small language model can act on them."""

from __future__ import annotations

import ast
import builtins
import inspect
import io
import linecache
import sys
from collections.abc import Callable
from types import CoroutineType, ModuleType, TracebackType
from typing import Any, TypeVar

from .imports import builtins_for

T = TypeVar("T")
FUNCTIONS = "<functions>"
CODE = "<code>"
_MAX_FRAMES = 6
_MAX_MESSAGE = 2000
_MAX_LINE = 200

_HINTS = (
    (ModuleNotFoundError, "", "only the standard library and the installed packages can be imported"),
    (PermissionError, "", "the sandbox has no network, no other processes and no files outside its own folder"),
    (RuntimeError, "can't start new thread", "threads are not available in the sandbox"),
    (OSError, "[Errno -", "the sandbox has no network"),
    (OSError, "urlopen error", "the sandbox has no network"),
    (EOFError, "EOF when reading a line", "there is no input to read; use arguments instead"),
    (SystemExit, "", "do not call exit; return a value or let the code end"),
)


def new_module() -> ModuleType:
    """An empty ``__main__`` for one execution, registered in ``sys.modules`` as code expects."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = sys.modules["functions"] = module
    return module


def forget() -> None:
    """Remove the traces of a warm-up execution."""
    linecache.cache.clear()


def _remember(source: str, filename: str) -> None:
    """Make the lines available to tracebacks and ``inspect.getsource``."""
    linecache.cache[filename] = (len(source), None, io.StringIO(source, newline=None).readlines(), filename)


def define(source: str, module: ModuleType, filename: str) -> None:
    """Execute definitions in ``module``, held to the packages that they name. Raises what the source raises."""
    _remember(source, filename)
    module.__dict__["__builtins__"] = builtins_for(source)
    module.__name__ = "functions"  # so that a block under ``if __name__ == "__main__"`` does not run
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)


def run_block(code: str, functions: str, module: ModuleType) -> None:
    """Execute statements; a bare expression at the end is printed unless it is None."""
    if functions:
        define(functions, module, FUNCTIONS)
        module.__dict__["__builtins__"] = vars(builtins)  # the functions keep theirs; this code is not one of them
    _remember(code, CODE)
    module.__name__ = "__main__"
    tree = ast.parse(code, CODE)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, CODE, "exec", dont_inherit=True), module.__dict__)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), CODE, "eval", dont_inherit=True), module.__dict__)
        if value is not None:
            print(repr(value))


def call_function(source: str, name: str, arguments: dict[str, Any], module: ModuleType) -> Any:
    """Define ``source`` and call its function ``name`` by keyword. Raises what they raise."""
    define(source, module, FUNCTIONS)
    function = module.__dict__.get(name)
    if not callable(function):
        raise NameError(f"the source defines no function {name[:100]!r}")
    try:
        value = function(**arguments)
    except TypeError as error:
        # If the traceback has no frame of the function, it was never entered: the arguments may not fit.
        if error.__traceback__ is None or error.__traceback__.tb_next is not None or _accepts(function, arguments):
            raise
        raise TypeError(f"{error}; the parameters of {name} are {_parameters(function)}") from None
    if type(value) is CoroutineType:
        import asyncio

        value = asyncio.run(value)
    return value


def _accepts(function: Any, arguments: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError:
        return False
    except ValueError:
        pass  # the callable has no signature
    return True


def _parameters(function: Any) -> str:
    return guarded(lambda: str(inspect.signature(function, eval_str=True)), "unknown")


def describe(error: BaseException) -> str:
    """Where in the caller's code the error was raised, then its type and message.

    One line per frame of that code (``line 3, in f: return a / b``), then ``ZeroDivisionError: division by zero``.
    """
    lines = _frames(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename in (CODE, FUNCTIONS):
        lines.append(_line(error.filename, error.lineno or 0, "<module>", (error.text or "").strip()))
        message = str(error.msg)
    else:
        message = _message(error)
    if len(lines) > _MAX_FRAMES:
        hidden = len(lines) - _MAX_FRAMES
        half = _MAX_FRAMES // 2
        lines = [*lines[:half], f"... {hidden} more calls ...", *lines[-half:]]
    name = str(type(error).__name__)[:_MAX_LINE]
    lines.append(f"{name}: {message}" if message else name)
    for kind, text, hint in _HINTS:
        if isinstance(error, kind) and text in message:
            lines[-1] += f" ({hint})"
            break
    return "\n".join(lines)


def guarded(action: Callable[[], T], otherwise: T) -> T:
    """What ``action`` returns, or ``otherwise`` if it raises: for methods of untrusted objects."""
    try:
        return action()
    except BaseException:  # noqa: BLE001 - untrusted code may raise anything
        return otherwise


def _message(error: BaseException) -> str:
    text = guarded(lambda: _text_and_notes(error), "(its message could not be read)")
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]} [...]"


def _text_and_notes(error: BaseException) -> str:
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    return "\n".join([str(error), *notes])


def _frames(trace: TracebackType | None) -> list[str]:
    lines = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename in (CODE, FUNCTIONS):
            text = linecache.getline(code.co_filename, trace.tb_lineno).strip()
            lines.append(_line(code.co_filename, trace.tb_lineno, code.co_name, text))
        trace = trace.tb_next
    return lines


def _line(filename: str, number: int, function: str, text: str) -> str:
    place = f"line {number}"
    if filename == FUNCTIONS and CODE in linecache.cache:
        place += " of the functions"
    if not function.startswith("<"):
        place += f", in {function}"
    return f"{place}: {text[:_MAX_LINE]}"
