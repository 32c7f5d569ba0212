"""Names that a new function may have and bind; what it may import, by whatever means."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.actions import RESERVED as OFFERED_NEVER
from agentopt_local.actions import parse_header
from agentopt_local.calling import call_function
from agentopt_local.errors import ConfigError, FunctionError
from agentopt_local.exporting.sources import find_functions
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.names import RESERVED
from agentopt_local.sandbox import SandboxLimits, open_sandbox
from agentopt_local.source import unbound_names
from agentopt_local.update import OptimizerConfig

ALLOWED = OptimizerConfig().allowed_packages


def source(name: str = "f", body: str = "return x", above: str = "", parameter: str = "x") -> str:
    return f"{above}def {name}({parameter}: str) -> str:\n    'Do.'\n    {body}\n"


@pytest.mark.parametrize(
    "name",
    ["sum", "print", "len", "Any", "List", "Optional", "python", "Python", "PYTHON", "exit", "ValueError", "größe",
     "ﬁnd", "a" * 65, "__x", "_", "match", "type"],
)  # fmt: skip
def test_reserved_names_are_refused_on_every_way_in(name: str, tmp_path: Path) -> None:
    """F9. A model's header, a model's source, a file."""
    with pytest.raises(FunctionError, match=r"(called|the name of a function|at most 64 characters)"):
        Function.new(source(name).replace("ﬁ", "ß"))
    (tmp_path / "a.py").write_text(source(name).replace("ﬁ", "ß"))
    with pytest.raises(ConfigError, match=r"a\.py: "):
        find_functions(tmp_path, ALLOWED)
    with pytest.raises(FunctionError):
        parse_header(f'{{"action": "add_function", "name": "{name}"}}', FunctionSet())


def test_there_is_one_list_of_reserved_names() -> None:
    assert OFFERED_NEVER is RESERVED


@pytest.mark.parametrize("name", ["summed", "_sum", "Sum", "a" * 64, "time", "calendar", "pythonic", "x1"])
def test_other_names_are_free(name: str) -> None:
    assert Function.new(source(name)).name == name


@pytest.mark.parametrize("parameter", ["größe", "x" * 65])
def test_parameters_have_names_that_providers_take(parameter: str) -> None:
    with pytest.raises(FunctionError, match="needs another name"):
        Function.new(source(parameter=parameter, body="return ''"))


@pytest.mark.parametrize(
    ("above", "what"),
    [
        ("from math import pow\n", "import of math.pow would replace 'pow'"),
        ("from numpy import sum, sqrt\n", "would replace 'sum'"),
        ("import math as print\n", "would replace 'print'"),
        ("from re import compile\n", "would replace 'compile'"),
        ("from math import *\n", "import the names that it uses from math"),
    ],
)
def test_an_import_does_not_replace_what_all_code_uses(above: str, what: str) -> None:
    with pytest.raises(FunctionError, match=what):
        Function.new(source(above=above))
    if "*" not in above:
        assert Function.new(source(body=f"{above.strip()}\n    return x"))


@pytest.mark.parametrize("name", ["sum", "print", "Any", "f"])
def test_a_global_statement_does_not_replace_what_all_code_uses(name: str) -> None:
    with pytest.raises(FunctionError, match=f"global {name} would replace"):
        Function.new(source("f", body=f"global {name}\n    {name} = x\n    return x"))
    assert Function.new(source("f", body="global kept\n    kept = x\n    return x"))


def test_an_import_of_typing_names_is_welcome() -> None:
    assert Function.new(source(above="from typing import Any, List, Literal\nimport typing\n"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (source("a", above="from math import sqrt\n"), source("b", above="from cmath import sqrt\n")),
        (source("a", above="import numpy as np\n"), source("b", above="import math as np\n")),
        (source("factorial"), source("b", above="from math import factorial\n")),
        (source("b", above="from math import factorial\n"), source("factorial")),
        (source("math"), source("b", above="import math\n")),
    ],
)
def test_two_functions_of_a_set_mean_the_same_by_a_name(first: str, second: str, tmp_path: Path) -> None:
    functions = FunctionSet().adding(Function.new(first))
    with pytest.raises(FunctionError, match="all functions share these names, so move the import into the function"):
        functions.adding(Function.new(second))
    (tmp_path / "1.py").write_text(first)
    (tmp_path / "2.py").write_text(second)
    with pytest.raises(ConfigError, match=r"2\.py: .*share these names"):
        find_functions(tmp_path, ALLOWED)


def test_the_same_imports_do_not_clash() -> None:
    above = "import math\nimport os.path\nfrom fractions import Fraction as F\n"
    one, other = Function.new(source("a", above=above)), Function.new(source("b", above=above.replace(".path", "")))
    functions = FunctionSet().adding(one).adding(other)
    own = Function.new(source("factorial", above="from math import factorial\n"))
    assert functions.adding(own).replacing("a", one).names == ("a", "b", "factorial")
    assert pickle.loads(pickle.dumps(functions)).source == functions.source


@pytest.mark.parametrize(
    "body",
    [
        "return __import__('os').name",
        "return str(__builtins__)",
        "import math\n    return math.__loader__",
        "import math\n    return math.__spec__",
        "return ''.__class__.__base__.__subclasses__()",
        "return f.__globals__['x']",
    ],
)
def test_an_import_that_hides_is_refused(body: str) -> None:
    """Row 12."""
    with pytest.raises(FunctionError, match="is not allowed; import packages with an import statement"):
        Function.new(source(body=body))


IMPORTS = {
    "eval": ("return str(eval(x))", "__import__('os').name"),
    "exec": ("exec(x)\n    return 'ran'", "import socket"),
    "exec in a scope of its own": ("exec(x, {})\n    return 'ran'", "from os import path"),
    "put together": ("return str(globals()['__built' + 'ins__']['__imp' + 'ort__']('os'))", ""),
    "getattr": ("return str(eval('__builtins__')['__import__']('subprocess'))", ""),
    "relative": ("return str(eval('__import__')('', {'__package__': 'os'}, None, ('path',), 1))", ""),
    "lambda": ("return str((lambda: eval(x))())", "__import__('sys').version"),
    "compile": ("exec(compile(x, 'a', 'exec'))\n    return 'ran'", "import os"),
}
HONEST = {
    "strptime": ("import datetime\n    return datetime.datetime.strptime(x, '%Y').strftime('%Y')", "2024", "2024"),
    "numpy": ("import numpy as np\n    return str(np.linalg.det(np.eye(2)))", "", "1.0"),
    "sympy": ("import sympy\n    return str(sympy.sympify(x) + sympy.Symbol('y'))", "x+1", "x + y + 1"),
    "eval": ("import math\n    return str(eval(x, {'math': math}))", "math.sqrt(4)", "2.0"),
    "exec": ("import math\n    exec(x)\n    return 'ran'", "import math\nmath.pi", "ran"),
    "dataclass": (
        "import dataclasses\n    @dataclasses.dataclass\n    class P:\n        y: int\n    return str(P(1).y)", "", "1",
    ),
    "deepcopy": ("import copy, decimal\n    return str(copy.deepcopy([decimal.Decimal(x)])[0])", "1.50", "1.50"),
    "encoding": ("return x.encode('utf-16-le').decode('utf-16-le') + '\\N{EM DASH}'", "a", "a\u2014"),
    "future": ("def g(y: Nowhere) -> Never: return y\n    return g(x)", "a", "a"),
}  # fmt: skip


def test_the_import_check_is_where_imports_happen() -> None:
    """Row 12. A function imports what its own import statements name; an agent's code imports anything."""

    async def run() -> None:
        async with open_sandbox(limits=SandboxLimits(timeout_s=20), workers=1) as sandbox:

            async def called(body: str, given: str) -> Any:
                functions = FunctionSet().adding(Function.new(source(body=body)))
                return await call_function(sandbox, functions, "f", {"x": given}, timeout_s=20)

            for name, (body, given) in IMPORTS.items():
                execution = await called(body, given)
                assert not execution.ok, name
                assert "use only packages of their import statements" in (execution.error or ""), name
            for name, (body, given, expected) in HONEST.items():
                execution = await called(body, given)
                assert (name, execution.value, execution.error) == (name, expected, None)
            functions = FunctionSet().adding(Function.new(source(body="return str(eval(x))")))
            code = "import os, socket\nprint(__import__('sys').argv is None, sum([1, 2]), f('1+1'))"
            done = await sandbox.run(code, functions=functions.source)
            assert (done.stdout, done.error) == ("False 3 2\n", None)

    asyncio.run(run())


@pytest.mark.parametrize(
    "above",
    [
        pytest.param("from __future__ import annotations\n", id="F1"),
        "from __future__ import annotations, division\n\n",
        "from __future__ import (\n    annotations,\n    generator_stop,\n)\n",
        "from __future__ import \\\n    annotations\n",
        "# A comment.\nfrom __future__ import annotations  # lazily\n# More.\n",
        "from __future__ import annotations; import math\n",
        "from __future__ import annotations\nfrom __future__ import division\nimport math\n",
        "\ufeff",
        "\ufefffrom __future__ import annotations\n",
    ],
)
def test_future_imports_and_marks_do_not_break_the_set(above: str) -> None:
    plain, future = source("first"), source("second", above=above, body="return 'from __future__ import x'")
    for made in (Function.new(future), Function(source=future)):
        scope: dict[str, Any] = {}
        exec(FunctionSet().adding(Function.new(plain)).adding(made).source, scope)
        assert scope["second"]("") == "from __future__ import x"
        assert ("import math" in made.source) == ("math" in above)


def test_annotations_are_not_evaluated_in_a_set() -> None:
    """F7 and row 12, also for functions that a run already holds."""
    ran: list[int] = []
    text = "def f(x: int) -> ran.append(1):\n    'Do.'\n    return x\n"
    scope: dict[str, Any] = {"ran": ran}
    exec(FunctionSet.of(text, "def g(x: int) -> Tuple[int, Missing]:\n    'Do.'\n    return x\n").source, scope)
    assert (scope["f"](1), scope["g"](2), ran) == (1, 2, [])
    assert unbound_names("def g(x: int) -> Tuple[int, Missing]:\n    'Do.'\n    return x\n") == ()
