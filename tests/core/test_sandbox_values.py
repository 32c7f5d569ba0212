"""What a call may return and how errors are worded; many kinds of harmless code work."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentopt_local.sandbox import Execution, SandboxLimits, open_sandbox
from agentopt_local.sandbox.zygote import values

VALUES: dict[str, tuple[str, Any]] = {
    "none": ("None", None),
    "bool": ("[True, False]", [True, False]),
    "float": ("[0.1, -0.0, 1e300]", [0.1, -0.0, 1e300]),
    "not finite": ("[float('nan'), float('inf'), -float('inf')]", ["NaN", "Infinity", "-Infinity"]),
    "big int": ("2**4000", 2**4000),
    "longest int": ("10**4299", 10**4299),
    "text": ("'naïve → 數學 \U0001f600 \\x00'", "naïve → 數學 \U0001f600 \x00"),
    "surrogate": ("'a\\ud800b'", "a?b"),
    "surrogate key": ("{'a\\ud800': 1}", {"a?": 1}),
    "tuple": ("(1, (2, 3))", [1, [2, 3]]),
    "mixed set": ("{1, 'a', None, (1, 2)}", [None, 1, "a", [1, 2]]),
    "sequences": ("[array.array('d', [1]), collections.UserList([1]), collections.UserString('a')]", [[1.0], [1], "a"]),
    "namespace": ("types.SimpleNamespace(a=1, b=(2,))", {"a": 1, "b": [2]}),
    "set": ("{3, 1, 2}", [1, 2, 3]),
    "frozenset": ("frozenset(['b', 'a'])", ["a", "b"]),
    "range": ("range(3)", [0, 1, 2]),
    "generator": ("(x * x for x in range(3))", [0, 1, 4]),
    "map": ("map(str, [1, 2])", ["1", "2"]),
    "dict views": (
        "[{2: 'b', 1: 'a'}.keys(), {2: 'b', 1: 'a'}.values(), {'a': 1}.items()]",
        [[2, 1], ["b", "a"], [["a", 1]]],
    ),
    "int keys": ("{1: 'a', 2.5: 'b', True is None: 'c', None: 'd'}", {"1": "a", "2.5": "b", "false": "c", "null": "d"}),
    "tuple keys": ("{(1, 2): 3}", {"(1, 2)": 3}),
    "counter": ("__import__('collections').Counter('aab')", {"a": 2, "b": 1}),
    "deque": ("__import__('collections').deque([1, 2])", [1, 2]),
    "namedtuple": ("__import__('collections').namedtuple('P', 'x y')(1, 2)", [1, 2]),
    "fraction": ("[Fraction(1, 3), Fraction(4, 2)]", ["1/3", 2]),
    "decimal": ("Decimal('0.10')", "0.10"),
    "complex": ("1 + 2j", "(1+2j)"),
    "date": ("[datetime.date(2024, 2, 29), datetime.timedelta(hours=1)]", ["2024-02-29", "1:00:00"]),
    "sympy integer": ("sympy.Integer(7)", 7),
    "sympy rational": ("[sympy.Rational(1, 3), sympy.Rational(4, 2)]", ["1/3", 2]),
    "sympy float": ("sympy.Float('0.5')", 0.5),
    "sympy bool": ("[sympy.true, sympy.false]", [True, False]),
    "sympy expression": ("sympy.sqrt(8) + sympy.pi", "2*sqrt(2) + pi"),
    "sympy symbols": ("{sympy.Symbol('x'): sympy.Integer(1)}", {"x": 1}),
    "sympy matrix": ("sympy.Matrix([[1, 2], [3, sympy.pi]])", [[1, 2], [3, "pi"]]),
    "sympy set": ("sympy.FiniteSet(1, 2)", [1, 2]),
    "sympy infinity": ("[sympy.oo, sympy.nan, sympy.zoo]", ["oo", "nan", "zoo"]),
    "sympy solution": ("sympy.solve('x**2 - 5*x + 6')", [2, 3]),
    "numpy scalars": ("[np.int64(3), np.float32(0.5), np.bool_(True), np.str_('a')]", [3, 0.5, True, "a"]),
    "numpy array": ("np.array([[1.5, 2.0], [float('nan'), 4.0]])", [[1.5, 2.0], ["NaN", 4.0]]),
    "numpy objects": ("np.array([Fraction(1, 2), 'a'], dtype=object)", ["1/2", "a"]),
    "numpy dates": ("np.array(['2024-01-02'], dtype='datetime64[D]')", ["2024-01-02"]),
    "numpy long": ("np.longdouble(0.5)", 0.5),
    "numpy key": ("{np.int64(1): np.int64(2)}", {"1": 2}),
    "numpy results": ("np.linalg.eigh(np.eye(2))", [[1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]]]),
    "sympy array": ("[sympy.Array([1, 2]), sympy.MatrixSymbol('A', 2, 2)]", [[1, 2], "A"]),
    "sympy huge float": ("sympy.Float('1e400', 5)", "1.0000e+400"),
    "mpmath numbers": ("[mpmath.mpf('0.5'), mpmath.mpc(1, 2), mpmath.matrix([[1, 2]])]", [0.5, "(1+2j)", [[1.0, 2.0]]]),
    "frame": ("pd.DataFrame({'a': [1, 2], 'b': ['x', None]})", [{"a": 1, "b": "x"}, {"a": 2, "b": "NaN"}]),
    "filtered frame": ("pd.DataFrame({'a': [1, 2, 3]}).query('a > 1')", [{"a": 2}, {"a": 3}]),
    "series": ("pd.Series([1, 2, 3])", [1, 2, 3]),
    "indexed series": ("pd.Series({'x': 1, 'y': 2})", {"x": 1, "y": 2}),
    "counts": ("pd.Series(['b', 'a', 'b']).value_counts()", {"b": 2, "a": 1}),
    "groups": (
        "pd.DataFrame({'k': ['x', 'y', 'x'], 'v': [1, 2, 3]}).groupby('k').sum()",
        [{"k": "x", "v": 4}, {"k": "y", "v": 2}],
    ),
    "pandas texts": (
        "[pd.Timestamp('2024-01-02'), pd.NaT, pd.NA, pd.Timedelta('1h'), pd.Period('2024-01')]",
        ["2024-01-02 00:00:00", "NaT", "<NA>", "0 days 01:00:00", "2024-01"],
    ),
    "index": ("[pd.Index([1, 2]), pd.Categorical(['a', 'b'])]", [[1, 2], ["a", "b"]]),
    "dataclass": ("Point(1, Fraction(1, 2))", {"x": 1, "y": "1/2"}),
    "enum": ("[Color.RED, Number.ONE]", ["red", 1]),
    "coroutine": ("later(3)", 3),
    "mpmath": ("str(__import__('mpmath').mpf('0.5'))", "0.5"),
}
IMPORTS = """
import array, asyncio, collections, datetime, enum, mpmath, sympy, types, numpy as np, pandas as pd
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any
@dataclass
class Point:
    x: int
    y: Any
class Color(enum.Enum):
    RED = "red"
class Number(enum.IntEnum):
    ONE = 1
async def later(x):
    await asyncio.sleep(0)
    return x
"""

REFUSED = {
    "object": ("object()", "type object"),
    "function": ("len", "call it"),
    "type": ("int", "type type"),
    "bytes": ("b'abc'", "decode"),
    "module": ("sympy", "type module"),
    "long int": ("10**5000", "digits"),
    "long fraction": ("Fraction(10**5000, 3)", "digits"),
    "deep": ("deep", "deeper than 60"),
    "cycle": ("cycle", "contains itself"),
    "same keys": ("{1: 1, '1': 2}", "same text"),
    "same columns": ("pd.DataFrame([[1, 2]], columns=['a', 'a'])", "same name"),
    "same rows": ("pd.Series([1, 2], index=['a', 'a'])", "same index"),
    "grouping": ("pd.DataFrame({'a': [1]}).groupby('a')", "DataFrameGroupBy"),
    "numpy object": ("np.random.default_rng(0)", "Generator"),
}

BENIGN = {
    "recursion": ("def f():\n    def g(n): return 1 if n < 2 else n * g(n - 1)\n    return g(300) > 0", True),
    "deep recursion": (
        "import sys\ndef f():\n    sys.setrecursionlimit(20000)\n"
        "    def g(n): return 0 if n == 0 else 1 + g(n - 1)\n    return g(10000)",
        10000,
    ),
    "memo": (
        "from functools import lru_cache\n@lru_cache(None)\ndef g(n):\n    return n if n < 2 else g(n-1) + g(n-2)\n"
        "def f():\n    return g(90)",
        2880067194370816120,
    ),
    "asyncio": (
        "import asyncio\nasync def g(x):\n    await asyncio.sleep(0.001)\n    return x\n"
        "async def h():\n    return await asyncio.gather(*[g(i) for i in range(5)])\n"
        "def f():\n    return asyncio.run(h())",
        [0, 1, 2, 3, 4],
    ),
    "caught": ("def f():\n    try: 1 / 0\n    except ZeroDivisionError as e: return str(e)", "division by zero"),
    "scratch": (
        "import os, tempfile\ndef f():\n    with open('a.txt', 'w') as file: file.write('hi')\n    os.mkdir('d')\n"
        "    os.rename('a.txt', 'd/b.txt')\n    with tempfile.NamedTemporaryFile() as t: t.write(b'x')\n"
        "    return open('d/b.txt').read()",
        "hi",
    ),
    "late import": ("def f():\n    import plistlib, tabnanny, wave\n    return 1", 1),
    "timezone": ("def f():\n    import time\n    return time.tzname[0]", "UTC"),
    "zone": (
        "def f():\n    from zoneinfo import ZoneInfo\n    import datetime\n"
        "    return datetime.datetime(2024, 7, 1, tzinfo=ZoneInfo('UTC')).utcoffset().total_seconds()",
        0.0,
    ),
    "alarm": (  # CPython 3.11 does not catch what a jump back to the first line of a try block raises, so x = 0
        "import signal\ndef f():\n    def late(*_): raise TimeoutError\n    signal.signal(signal.SIGALRM, late)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.05)\n    try:\n        x = 0\n        while True: x += 1\n"
        "    except TimeoutError: return 'stopped'",
        "stopped",
    ),
    "csv": (
        "import csv, io\ndef f():\n    return list(csv.reader(io.StringIO('a,b\\n1,2')))",
        [["a", "b"], ["1", "2"]],
    ),
    "sqlite": (
        "import sqlite3\ndef f():\n    return sqlite3.connect(':memory:').execute('select 1+1').fetchone()",
        [2],
    ),
    "sqlite file": (
        "import sqlite3\ndef f():\n    with sqlite3.connect('x.db') as c:\n        c.execute('create table t(a)')\n"
        "        c.execute('insert into t values (3)')\n"
        "    return sqlite3.connect('x.db').execute('select a from t').fetchall()",
        [[3]],
    ),
    "pandas": (
        "import io, pandas as pd\ndef f():\n    t = pd.read_csv(io.StringIO('k,v\\na,1\\nb,2\\na,3'))\n"
        "    t.to_csv('t.csv', index=False)\n    t = pd.read_csv('t.csv').merge(pd.DataFrame({'k': ['a'], 'w': [5]}))\n"
        "    return [t.groupby('k')['v'].mean().to_dict(), int(t['w'].sum()), str(t.dtypes['v'])]",
        [{"a": 2.0}, 10, "int64"],
    ),
    "pandas without what happens to be installed": (
        "import pandas as pd\ndef f():\n    return pd.Series(['a']).dtype.storage",
        "python",
    ),
    "replaced functions": (
        "import os, json, sys\nos._exit = os.write = os.close = None\nsys.stdout = None\ndef f():\n    return 1",
        1,
    ),
    "sympy integral": (
        "import sympy\ndef f():\n    x = sympy.Symbol('x')\n    return sympy.integrate(x * sympy.exp(x), x)",
        "(x - 1)*exp(x)",
    ),
    "numpy algebra": (
        "import numpy as np\ndef f():\n    return np.linalg.solve([[2.0, 0], [0, 4.0]], [2, 8])",
        [1.0, 2.0],
    ),
    "annotations": ("from __future__ import annotations\ndef f(a: Missing = 1) -> Missing:\n    return a", 1),
    "main guard": ("def f():\n    return 1\nif __name__ == '__main__':\n    raise SystemExit", 1),
    "pickle inside": ("import pickle\nclass A:\n    x = 1\ndef f():\n    return pickle.loads(pickle.dumps(A())).x", 1),
    "getsource": ("import inspect\ndef f():\n    return inspect.getsource(f).splitlines()[0]", "def f():"),
    "warnings": ("import warnings\ndef f():\n    warnings.warn('careful')\n    return 1", 1),
    "bignum output": ("def f():\n    print(2**1000)\n    return 1", 1),
    "environment": (
        "import os\ndef f():\n    return sorted(k for k in os.environ if k.startswith(('PYTHONHASH', 'OMP', 'TZ')))",
        ["OMP_NUM_THREADS", "PYTHONHASHSEED", "TZ"],
    ),
}


def call_all(sources: list[tuple[str, dict[str, Any]]], **limits: Any) -> list[Execution]:
    """Call ``f`` of each source in one sandbox."""

    async def work() -> list[Execution]:
        async with open_sandbox(workers=2, limits=SandboxLimits(timeout_s=30.0, **limits)) as sandbox:
            return await asyncio.gather(*[sandbox.call(source, "f", arguments) for source, arguments in sources])

    return asyncio.run(work())


def test_values_take_their_documented_form() -> None:
    sources: list[tuple[str, dict[str, Any]]] = [
        (f"{IMPORTS}def f():\n    return {expression}", {}) for expression, _ in VALUES.values()
    ]
    executions = call_all(sources)
    got = {
        name: execution.value if execution.ok else execution.error
        for name, execution in zip(VALUES, executions, strict=True)
    }
    assert got == {name: expected for name, (_, expected) in VALUES.items()}


def test_other_values_are_refused_with_a_reason() -> None:
    setup = "deep = cycle = []\nfor _ in range(100): deep = [deep]\ncycle = []\ncycle.append(cycle)\n"
    sources: list[tuple[str, dict[str, Any]]] = [
        (f"{IMPORTS}{setup}def f():\n    return {expression}", {}) for expression, _ in REFUSED.values()
    ]
    for (name, (_, reason)), execution in zip(REFUSED.items(), call_all(sources), strict=True):
        assert execution.status == "exception", name
        assert reason in (execution.error or ""), (name, execution.error)


def test_benign_code_works() -> None:
    executions = call_all([(source, {}) for source, _ in BENIGN.values()])
    got = {
        name: execution.value if execution.ok else execution.error
        for name, execution in zip(BENIGN, executions, strict=True)
    }
    assert got == {name: expected for name, (_, expected) in BENIGN.items()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "def f():\n    return undefined",
            "line 2, in f: return undefined\nNameError: name 'undefined' is not defined",
        ),
        ("def f():\n    return {}['k']", "line 2, in f: return {}['k']\nKeyError: 'k'"),
        ("def f(:\n    pass", "line 1: def f(:\nSyntaxError: invalid syntax"),
        ("def f():\n    raise ValueError('é' * 3000)", "[...]"),
        ("def f():\n    import requests_not_here", "only the standard library"),
        ("def f():\n    open('/etc/passwd')", "no files outside its own folder"),
        ("def f():\n    input()", "use arguments instead"),
        ("def f():\n    return f()", "more calls ..."),
        ("class E(Exception):\n    def __str__(self): raise self\ndef f():\n    raise E", "could not be read"),
        ("def f():\n    e = ValueError('a')\n    e.add_note('look here')\n    raise e", "ValueError: a\nlook here"),
        ("import json\ndef f():\n    json.loads('{')", "line 3, in f: json.loads('{')\nJSONDecodeError: "),
        ("x = 1 / 0\ndef f(): pass", "line 1: x = 1 / 0\nZeroDivisionError: division by zero"),
        ("def f():\n    raise ExceptionGroup('several', [ValueError(1)])", "ExceptionGroup: several (1 sub-exception)"),
        ("def f():\n    raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_errors_read_well(source: str, expected: str) -> None:
    execution = _errors()[source]
    assert execution.status == "exception"
    assert expected in (execution.error or "")
    assert "zygote" not in (execution.error or "")
    assert len(execution.error or "") <= 4096


_CACHE: dict[str, Execution] = {}


def _errors() -> dict[str, Execution]:
    """All the executions of the test above, made once."""
    if not _CACHE:
        marks = test_errors_read_well.pytestmark  # type: ignore[attr-defined]
        sources = [source for source, _ in marks[0].args[1]]
        _CACHE.update(zip(sources, call_all([(source, {}) for source in sources]), strict=True))
    return _CACHE


def test_arguments_arrive_as_they_were() -> None:
    arguments: dict[str, Any] = {"a": [1, -0.5, 2**100, None, True, "é\ud800\0\U0001f600", {"k ": [[]]}]}
    source = "def f(a):\n    return [repr(a), a[:5] + a[6:]]"
    execution = call_all([(source, arguments)])[0]
    assert execution.value == [repr(arguments["a"]), arguments["a"][:5] + arguments["a"][6:]]


def test_equal_seeds_give_equal_results_in_any_order() -> None:
    source = """
import random, numpy, sympy
from sympy.core.random import randint
def f():
    return [random.random(), float(numpy.random.rand()), randint(0, 10**9), hash("text"), list({"a", "b", "c"})]
"""

    async def work(order: list[int]) -> dict[int, Any]:
        async with open_sandbox(workers=1) as sandbox:
            return {seed: (await sandbox.call(source, "f", {}, seed=seed)).value for seed in order}

    first, second = asyncio.run(work([1, 2, -3, 2**40])), asyncio.run(work([2**40, -3, 2, 1]))
    assert first == second
    assert first[1] != first[2]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_is_its_own_form(value: Any) -> None:
    assert json.loads(values.to_json_text(value, 1 << 20)) == value


python_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals()
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), inner, max_size=4)
        | st.frozensets(st.text() | st.integers(), max_size=4)
    ),
    max_leaves=20,
)


@given(python_values)
def test_any_listed_value_becomes_strict_json(value: Any) -> None:
    try:
        text = values.to_json_text(value, 1 << 20)
    except ValueError as error:
        assert "same text" in str(error)
        return
    parsed = json.loads(text, parse_constant=pytest.fail)
    assert json.loads(values.to_json_text(parsed, 1 << 20)) == parsed


@given(json_values, st.integers(0, 200))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_text_is_over_its_limit(value: Any, limit: int) -> None:
    try:
        assert len(values.to_json_text(value, limit)) <= limit
    except values.ValueTooLarge:
        assert len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) > limit // 2


def test_the_longest_integer_is_one_that_json_can_read() -> None:
    longest = 2**values.MAX_INT_BITS - 1
    assert json.loads(values.to_json_text(longest, 1 << 20)) == longest
    assert math.log10(longest) < 4300
    with pytest.raises(ValueError, match="digits"):
        values.to_json_text(longest + 1, 1 << 20)
