"""Reading functions from Python files, and what is rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentopt_local.errors import ConfigError, FunctionError
from agentopt_local.exporting.sources import find_functions, split_module
from agentopt_local.functions import FunctionSet
from agentopt_local.update import OptimizerConfig

ALLOWED = OptimizerConfig().allowed_packages
DOUBLE = 'def double(x: int) -> int:\n    """Return twice x."""\n    return 2 * x\n'
ROOT = (
    'import math\nfrom fractions import Fraction as F\n\n\ndef root(x: float) -> float:\n    """Return the root."""\n'
    "    return math.sqrt(x)  # not F\n    # a closing remark\n"
)


@pytest.mark.parametrize("sources", [(DOUBLE,), (ROOT, DOUBLE), (DOUBLE, ROOT), (ROOT,)])
def test_a_written_set_gives_back_the_sources_it_was_made_of(sources: tuple[str, ...]) -> None:
    functions = FunctionSet.of(*sources)
    assert FunctionSet.of(*split_module(functions.source)) == functions
    assert FunctionSet.of(*split_module(f"# A comment of ours.\n{functions.source}")) == functions


def test_functions_of_one_file_get_the_imports_they_use() -> None:
    text = (
        '"""My tools."""\nfrom __future__ import annotations\n\nimport math\nimport re\n\n'
        'def first(x: float) -> float:\n    """One."""\n    return math.floor(x)\n\n'
        "# about the second\n"
        'def second(text: str) -> str:\n    """Two."""\n    return re.sub("a", "b", text)\n'
    )
    first, second = split_module(text)
    assert first.startswith("import math\nimport re\n\ndef first(")
    assert second.startswith("import re\n\n# about the second\ndef second(")
    scope: dict[str, object] = {}
    exec(FunctionSet.of(second).source, scope)
    function = scope["second"]
    assert callable(function)
    assert function("banana") == "bbnbnb"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("LIMIT = 3\n", "line 1: Assign at the top level"),
        (f"{DOUBLE}\nclass A:\n    pass\n", "line 5: ClassDef at the top level"),
        (f'{DOUBLE}\nif __name__ == "__main__":\n    double(1)\n', "line 5: If at the top level"),
        (f"{DOUBLE}\nasync def f() -> None:\n    pass\n", "line 5: AsyncFunctionDef at the top level"),
    ],
)
def test_anything_else_in_a_file_is_told(text: str, told: str) -> None:
    with pytest.raises(FunctionError, match=told):
        split_module(text)


def test_every_wrong_file_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(DOUBLE)
    (tmp_path / "again.py").write_text(DOUBLE)
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "untyped.py").write_text('def f(x):\n    """F."""\n')
    (tmp_path / "undocumented.py").write_text("def g(x: int) -> int:\n    return x\n")
    (tmp_path / "net.py").write_text('import socket\n\n\ndef net() -> str:\n    """Net."""\n    return ""\n')
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "test_good.py").write_text("not even Python")
    (tmp_path / "__init__.py").write_text("not even Python")
    with pytest.raises(ConfigError) as error:
        find_functions(tmp_path, ALLOWED)
    lines = sorted(str(error.value).splitlines())
    expected = [
        ("binary.py", "not UTF-8 text"),
        ("good.py", f"double is defined in {tmp_path / 'again.py'} already"),
        ("net.py", "net imports socket, which optimizer.allowed_packages does not hold"),
        ("syntax.py", "invalid syntax"),
        ("undocumented.py", "g: the first statement must be a docstring"),
        ("untyped.py", "f: parameter 'x' needs a type"),
    ]
    assert len(lines) == len(expected)
    for line, (file, reason) in zip(lines, expected, strict=True):
        assert line.startswith(f"{tmp_path / file}: ")
        assert reason in line


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing", "missing does not exist; give a run folder"),
        ("text.md", "text.md is not a Python file"),
        ("empty", "empty holds no function"),
        ("foreign", "foreign is a package that agentopt did not export"),
    ],
)
def test_a_path_that_holds_no_functions_is_told(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/pyproject.toml").write_text("")
    with pytest.raises(ConfigError, match=told):
        find_functions(tmp_path / name, ALLOWED)
