"""Files with functions, of all kinds that people have: read as Python reads them, never waited for, never endless."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agentopt_local.errors import ConfigError
from agentopt_local.exporting.sources import find_functions, split_module
from agentopt_local.functions import FunctionSet
from agentopt_local.update import OptimizerConfig

ALLOWED = OptimizerConfig().allowed_packages
RETURN = "return x"


def function(name: str, body: str = RETURN, above: str = "") -> str:
    return f'{above}def {name}(x: int) -> int:\n    """Do."""\n    {body}\n'


def sources(path: Path) -> list[str]:
    return [each.function.source for each in find_functions(path, ALLOWED)]


F, G = function("f"), function("g")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"{F}\x0c\n{G}", id="F4"),
        f"{F}\x0c{G}",
        f"{F}\x0b\n{G}".replace("\x0b\n", "# \x0b \x1c \x1d \x1e \x85 \u2028 \u2029\n"),
        (F + G).replace("\n", "\r\n"),
        (F + G).replace("\n", "\r"),
        f"{F}    # a closing remark\x0c\n\n{G}",
    ],
)
def test_lines_end_where_python_ends_them(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(content.encode())
    found = sources(tmp_path)
    assert len(found) == 2
    assert all(f"    {RETURN}\n" in each for each in found)
    scope: dict[str, Callable[[int], int]] = {}
    exec(FunctionSet.of(*found).source, scope)
    assert (scope["f"](3), scope["g"](4)) == (3, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"\xef\xbb\xbf" + F.encode(), RETURN, id="F5"),
        (b"\xef\xbb\xbffrom __future__ import annotations\n" + F.encode(), RETURN),
        (b"# -*- coding: latin-1 -*-\n" + function("f", 'return "\xe9"').encode("latin-1"), 'return "é"'),
        (b"#!/bin/x\n# vim: set fileencoding=cp1252 :\n" + function("f", 'return "\u20ac"').encode("cp1252"), '"€"'),
        (b"\xef\xbb\xbf# coding: utf-8\n" + function("f", 'return "é"').encode(), 'return "é"'),
    ],
)
def test_a_file_is_read_as_python_reads_it(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(content)
    [source] = sources(tmp_path)
    assert text in source
    (tmp_path / "a.py").write_text(source, encoding="utf-8")
    assert sources(tmp_path) == [source], "a set that was written can be read again"


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "pipe"),
    "endless device": (link_to("/dev/zero"), "device"),
    "empty device": (link_to("/dev/null"), "device"),
    "socket": (bind, "socket"),
    "folder": (Path.mkdir, "folder|directory"),
    "loop": (link_to("a.py"), "symbolic links"),
    "dangling": (link_to("nothing"), "No such file"),
    "terabyte": (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40), "files"),
    "long": (lambda path: path.write_bytes(b"x = 1\n" * 400_000), "files"),
    "UTF-16": (lambda path: path.write_text(F, encoding="utf-16"), "not UTF-8 text"),
    "not UTF-8": (lambda path: path.write_bytes(F.encode() + b"# \xff"), "not UTF-8 text"),
    "unknown encoding": (lambda path: path.write_text("# coding: nope\n" + F), "not UTF-8 text"),
    "encoding of no text": (lambda path: path.write_text("# coding: undefined\n" + F), "not UTF-8 text"),
    "null": (lambda path: path.write_text(F + "\0"), "null bytes"),
    "brackets": (lambda path: path.write_text("(" * 100_000), "syntax error|nested"),
    "signs": (lambda path: path.write_text("x = " + "-" * 100_000 + "1"), "nested"),
    "attributes": (lambda path: path.write_text("x" + ".a" * 50_000), "nested"),
    "digits": (lambda path: path.write_text("x = " + "9" * 100_000), "too many digits"),
    "marks": (lambda path: path.write_text("x" + "\u0300\u0315" * 20_000), "combining characters"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_one_line(kind: str, tmp_path: Path) -> None:
    """Row 13: a pipe, a device without an end, deep and huge files."""
    make, told = ODD[kind]
    make(tmp_path / "a.py")
    with pytest.raises(ConfigError, match=told) as error:
        find_functions(tmp_path, ALLOWED)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(f"{tmp_path / 'a.py'}: ")


def test_an_odd_path_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.py")
    for path in (tmp_path / "a.py", Path("x" * 5000), Path("a\0b"), Path("/dev/zero"), tmp_path / "\udcff"):
        with pytest.raises(ConfigError, match="give a run folder, an exported package") as error:
            find_functions(path, ALLOWED)
        assert len(str(error.value)) < 500


def test_a_folder_of_thousands_of_files_is_refused(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f"f{number}.py").touch()
    with pytest.raises(ConfigError, match=r"holds 1001 \.py files; give a folder with at most 1000"):
        find_functions(tmp_path, ALLOWED)


@pytest.mark.parametrize(
    "content",
    [
        function("f", "return math.floor(x)") + "import math\n",
        '"""Mine."""; import math\n' + function("f", "return math.floor(x)"),
        "from __future__ import annotations; import math\n" + function("f", "return math.floor(x)"),
        "import math; import re\n" + function("g") + function("f", "return math.floor(x)"),
        "import re as math\nimport math\n" + function("g") + function("f", "return math.floor(x)"),
    ],
)
def test_a_function_gets_the_imports_that_it_uses_wherever_they_are(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(content)
    source = next(each for each in sources(tmp_path) if "def f" in each)
    scope: dict[str, Callable[[float], int]] = {}
    exec(FunctionSet.of(source).source, scope)
    assert scope["f"](2.5) == 2


def test_names_that_nothing_defines_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(function("f", "return np.sqrt(g(x)) + helper(x)") + G)
    with pytest.raises(ConfigError, match=r"a\.py: f uses np, helper, which nothing in it defines or imports"):
        find_functions(tmp_path, ALLOWED)


def test_a_file_written_by_an_older_version_is_read() -> None:
    """Its header evaluated annotations, and named no packages."""
    header = "# Learned functions: see README.md.\nfrom typing import Any, Dict, List, Literal, Optional, Union\n\n"
    assert split_module(header + F + "\n\n" + G) == [F, G]
    assert split_module(FunctionSet.of(F, G).source) == [F, G]
