"""A source as text: fences around it, missing imports, blocks that compile slowly."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from agentopt_local.errors import FunctionError
from agentopt_local.functions import Function
from agentopt_local.source import clean, with_imports

ALLOWED = ("math", "numpy", "functools")
DEF = 'def f(x: int) -> float:\n    """Do."""\n    return x\n'
FENCES = 'def f(x: str) -> str:\n    """Do."""\n    return x + """\n```python\nx\n```\n"""\n'


@pytest.mark.parametrize(
    ("body", "at"),
    [
        pytest.param(
            '    "Do."\n    @functools.cache\n    def g(): return math.pi\n    return g()\n', "    import math", id="F6"
        ),
        ('    "Do."\n    @functools.cache\n    class g: y = math.pi\n    return g.y\n', "\n    import math"),
        (' "Do."; return math.pi\n', "; import math; return"),
        ('    "Do."; return math.pi\n', "; import math; return"),
        ('    "é"; return math.pi\n', "; import math; return"),
        ('    """Do\n    more."""; y = 1; return math.pi\n', 'more."""; import math; y = 1'),
        ('    """Do\n    more."""  # c\n    # d\n    return math.pi\n', "# c\n    import math\n    # d"),
        ('    "Do." \\\n\n    return math.pi\n', '"Do."; import math \\\n'),
        ('    ("Do "\n     "more.")\n    return math.pi\n', 'more.")\n    import math\n'),
        ('\t"Do."\n\treturn math.pi', '"Do."\n\timport math\n\treturn'),
        ('    "Do."\n    """More."""\n    return math.pi\n', '"Do."\n    import math\n    """More."""'),
        ('    "Do."\n    if x: return math.pi\n    return np.pi\n', "\n    import math\n    import numpy as np\n"),
        ('    "Do."\n\x0c\n    return math.pi\n', '"Do."\n    import math\n'),
    ],
)  # fmt: skip
def test_missing_imports_stand_where_a_statement_can_begin(body: str, at: str) -> None:
    new_line = "" if body.startswith(' "') else "\n"
    mended = Function.new(with_imports(f"def f(x: int) -> float:{new_line}{body}", ALLOWED)).source
    assert at in mended
    scope: dict[str, Any] = {}
    exec(mended, scope)
    assert round(scope["f"](x=1), 2) == 3.14
    assert with_imports(mended, ALLOWED) == mended


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEF, DEF),
        (f"```python\n{DEF}```", DEF),
        (f"```Python\n{DEF}```\n", DEF),
        (f"``` py\n{DEF}````", DEF),
        (f"```\n{DEF}", DEF),
        (f"Here:\r\n```python\r\n{DEF}```\r\nDone.", DEF),
        (f'```json\n{{"a": 1}}\n```\nand\n```python\n{DEF}```', DEF),
        (f"Here:\n```python\n{DEF}```\nSo:\n```python\nf(1)\n```", DEF),
        ("1. Do:\n   ```python\n" + "".join(f"   {line}\n" for line in DEF.splitlines()) + "   ```\n", DEF),
        (f"```python\n{FENCES}```", FENCES),
        (FENCES, FENCES),
        (f"```python\n{DEF.rstrip()}```", DEF),
        (f"{DEF}```", DEF),
        (f"{DEF}\n```\n", DEF),
        (f"{DEF.rstrip()}```", DEF),
        (f"{DEF}```\nThis function does it.", DEF),
        (f"{DEF}\n```python\nf(1)\n```", DEF),
        (f"\ufeff{DEF}", DEF),
        (DEF.replace("Do.", "Do ``` it."), DEF.replace("Do.", "Do ``` it.")),
    ],
)
def test_a_source_is_taken_out_of_its_fence(text: str, expected: str) -> None:
    assert Function.new(clean(text)).source == expected


def test_a_fence_without_python_is_still_an_error_to_learn_from() -> None:
    for text in ("```", "``````", "```python\n```", "x ``` y ``` z", "```\n(((\n```"):
        with pytest.raises(FunctionError):
            Function.new(clean(text))


def nested_in_finally(levels: int, opening: str) -> str:
    text = "def f(x: int) -> int:\n    'Do.'\n"
    for level in range(levels):
        indent = " " * (4 + 2 * level)
        text += f"{indent}try:\n{indent}    pass\n{indent}finally:\n{indent} {opening}\n"
    return text + " " * (4 + 2 * levels) + "pass\n"


@pytest.mark.parametrize("opening", ["def g():", "async def g():", "class g:", "if x:"])
def test_blocks_that_python_copies_do_not_multiply(opening: str) -> None:
    """Row 3: a function inside a finally is copied with it, so 20 of them would compile for minutes."""
    text = nested_in_finally(20, opening)
    ast.parse(text)
    with pytest.raises(FunctionError, match="a try with finally is inside another one"):
        Function.new(text)
    assert Function.new(nested_in_finally(1, opening))


def test_a_finally_with_many_ways_to_it_is_short() -> None:
    def source(ways: int, parts: int) -> str:
        exits = "        if x: return 1\n" * ways
        return f"def f(x: int) -> int:\n    'Do.'\n    try:\n{exits}    finally:\n{'        x = 2' + chr(10)}" + (
            "        x += 1\n" * parts
        )

    with pytest.raises(FunctionError, match=r"a finally block of \d+ parts is compiled once for each of the 300 ways"):
        Function.new(source(300, 300))
    assert Function.new(source(300, 2))
    assert Function.new(source(2, 300))


@pytest.mark.parametrize("place", ["x{} = 1", "return '{}'", "# {}"])
def test_names_with_thousands_of_marks_are_not_parsed(place: str) -> None:
    """Python brings names into a normal form in time that grows with the square of their marks."""
    text = f"def f(x: int) -> int:\n    'Do.'\n    {place}\n    return x\n"
    with pytest.raises(FunctionError, match="more than 30 combining characters are in a row"):
        Function.new(text.format("\u0315\u0300" * 4000))
    assert Function.new(text.format("\u0301" * 20))


def test_the_source_of_an_error_without_a_line_is_clear() -> None:
    with pytest.raises(FunctionError, match=r"^syntax error: source code string cannot contain null bytes$"):
        Function.new(DEF + "\0")
    with pytest.raises(FunctionError, match=r"nested more than 100 levels deep|too many nested"):
        Function.new(DEF.replace("return x", "return " + "-" * 15000 + "1"))
