"""docs/safety.md: every sentence of it names tests that exist, and those that no other file has are here."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import SandboxError
from agentopt_local.sandbox import Execution, ForkServerSandbox, SandboxLimits, open_sandbox, selftest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "safety.md"
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!--(.*?)-->", re.DOTALL)
SENTENCE_END = re.compile(r"[.:]\**\s+(?=[A-Z`\[])")
ADVICE = {"advice"}
"""The mark of what can only be believed."""


def names_of_tests() -> set[str]:
    """The names of all tests."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(node.name)
    return found


def promises(page: str) -> list[tuple[str, set[str]]]:
    """Each piece of text up to its mark, and what the mark names; the last piece of a paragraph may have none."""
    text = BLOCK.sub("", page).partition("-->")[2]  # the first comment is to readers of the source
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=[*|] ?)", text):
        if paragraph.startswith("#") or re.fullmatch(r"\|[-|]+\|?|\| (status|the code cannot) .*", paragraph.strip()):
            continue
        pieces = MARK.split(paragraph.strip())
        for said, names in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
            rest = said.strip()
            if rest and not (rest.startswith("|") and not names):  # the second cell of a row gives the reason
                found.append((rest, set(names.split())))
    return found


def test_every_sentence_of_the_page_names_its_tests() -> None:
    known = names_of_tests() | ADVICE
    pieces = promises(PAGE.read_text("utf-8"))
    assert len(pieces) > 55
    assert [said for said, names in pieces if not names] == []
    assert {name for _, names in pieces for name in names if name not in known} == set()
    several = [said for said, _ in pieces if len(SENTENCE_END.findall(re.sub(r"\*\*.*?\*\*:?", "", said))) > 1]
    assert several == []


def test_the_check_finds_sentences_without_tests() -> None:
    page = "# T\n<!-- x -->\nOne.<!-- test_a -->\nTwo. Three.<!-- test_b -->\n\nFour.\n\n| a<!-- c --> | b |\n* Five.\n"
    assert promises(page) == [
        ("One.", {"test_a"}), ("Two. Three.", {"test_b"}), ("Four.", set()), ("| a", {"c"}), ("* Five.", set()),
    ]  # fmt: skip


def executions(*codes: str, **more: Any) -> list[Execution]:
    async def work() -> list[Execution]:
        async with open_sandbox(workers=1, limits=SandboxLimits(timeout_s=60.0), **more) as sandbox:
            return [await sandbox.run(code) for code in codes]

    return asyncio.run(work())


def test_the_example_of_the_page_works() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.partition("  # ") for line in code.splitlines()]
    checked = [
        f"{text}\n{text[: len(text) - len(text.lstrip())]}assert {claim}" if claim else text for text, _, claim in lines
    ]
    assert sum("assert" in line for line in checked) == 2
    scope: dict[str, Any] = {}
    exec("async def example():\n" + textwrap.indent("\n".join(checked) + "\n    return many", "    "), scope)
    assert [execution.value for execution in asyncio.run(scope["example"]())] == [3, 7]


def test_libraries_are_loaded_once_and_without_pyarrow() -> None:
    names = ("sympy", "numpy", "pandas", "json", "statistics")
    (execution,) = executions(f"import sys; [name in sys.modules for name in {names}], sys.modules['pyarrow']")
    assert execution.stdout == "([True, True, True, True, True], None)\n"


def test_nothing_is_unpickled_outside() -> None:
    """No part of the sandbox but the list of modules to import for the code names a module that would do it."""
    unsafe = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing"}
    for path in (ROOT / "agentopt_local" / "sandbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not unsafe & {name.partition(".")[0] for name in names}, path


def test_an_attack_on_itself_that_succeeds_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = selftest.PROBE.replace('attack("starts a process", fork)', 'attack("starts a process", list)')
    monkeypatch.setattr(selftest, "PROBE", probe)
    with pytest.raises(SandboxError, match="self-test: the code starts a process"):
        executions("1")


def test_without_notices_no_file_can_be_deleted() -> None:
    async def work() -> None:
        limits = SandboxLimits(timeout_s=60.0)
        async with ForkServerSandbox(limits, workers=1, layers_off=("file_notices",)) as sandbox:
            layers = sandbox.describe_layers()
            assert (layers["minimum"], "cannot delete" in layers["file_notices"]) == ("on", True)
            for action in ("os.unlink('a')", "os.rename('a', 'b')", "os.replace('a', 'b')", "os.remove('d/a')"):
                code = f"import os\nos.mkdir('d')\nfor n in ('a', 'd/a'): open(n, 'w').close()\n{action}"
                assert "PermissionError" in ((await sandbox.run(code)).error or "")
            used = await sandbox.run("open('a', 'w').write('x'); open('a', 'a').write('y'); open('a').read()")
            assert used.stdout == "'xy'\n"
            assert (await sandbox.run("import os; os.listdir('.')")).stdout == "[]\n"

    asyncio.run(work())


def test_what_is_visible_is_what_the_page_says(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.write_text("12345")
    link.symlink_to(secret)
    code = f"import os\nos.stat({str(secret)!r}).st_size, os.readlink({str(link)!r}), os.uname().nodename"
    folder = "import os\nf = os.stat('.')\nmax(f.st_mtime, f.st_ctime), os.stat(os.__file__).st_atime > 0"
    visible, fresh, _, used = executions(code, folder, "open('a', 'w').close()", folder)
    assert visible.stdout == f"{(5, str(link.readlink()), os.uname().nodename)}\n"
    assert fresh.stdout != used.stdout
    assert fresh.stdout.endswith("True)\n")


def test_a_function_can_return_anything() -> None:
    source = """
class Forged(dict):
    def items(self):
        return [("right", True)]
def f():
    return Forged()
"""

    async def work() -> Execution:
        async with open_sandbox(workers=1) as sandbox:
            return await sandbox.call(source, "f", {})

    assert asyncio.run(work()).value == {"right": True}


def test_a_batch_shares_a_process() -> None:
    source = """
import builtins, os, sys
def f(n):
    open(f"{n}", "w").close()
    frame = sys._getframe()
    while "request" not in frame.f_locals:
        frame = frame.f_back
    builtins.seen = getattr(builtins, "seen", []) + [n]
    return [builtins.seen, sorted(os.listdir(".")), [each["n"] for each in frame.f_locals["request"]["arguments"]]]
"""

    async def work() -> list[Any]:
        async with open_sandbox(workers=1) as sandbox:
            return [each.value for each in await sandbox.call_many(source, "f", [{"n": 1}, {"n": 2}])]

    assert asyncio.run(work()) == [[[1], ["1"], [1, 2]], [[1, 2], ["1", "2"], [1, 2]]]


def test_the_surroundings_of_a_call_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TZ": "Asia/Tokyo", "LC_ALL": "C", "OMP_NUM_THREADS": "7", "PYTHONHASHSEED": "5"}.items():
        monkeypatch.setenv(name, value)
    fixed = (
        "import locale, os, time\n"
        "hash('a'), time.tzname, locale.setlocale(locale.LC_CTYPE), os.environ['LC_ALL'], "
        "os.environ['OMP_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS'], len({'b', 'a'})"
    )
    chance = (
        "import os, secrets, uuid, random\nos.urandom(8), secrets.token_hex(), uuid.uuid4(), random.Random().random()"
    )
    first, again, clock, one, two = executions(fixed, fixed, "import time; time.time()", chance, chance)
    assert first.stdout == again.stdout
    assert "('UTC', 'UTC'), 'C.UTF-8', 'C.UTF-8', '1', '1', 2)" in first.stdout
    assert float(clock.stdout) > 1.7e9
    assert one.stdout != two.stdout
