"""Functions as an installable Python package, whose tests are recorded calls that reproduce."""

from __future__ import annotations

import json
import keyword
import re
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from string import Template
from typing import Literal

from agentopt_local.errors import ConfigError
from agentopt_local.exporting.learned import Learned, Provenance
from agentopt_local.exporting.portable import slug
from agentopt_local.exporting.replay import Replayed
from agentopt_local.functions import FunctionSet
from agentopt_local.run.report import Comparison
from agentopt_local.sandbox import zygote

FUNCTIONS_FILE = "functions.py"
PROVENANCE_FILE = "provenance.json"
MAX_NAME_CHARS = 64
NAME = re.compile(rf"(?=.{{1,{MAX_NAME_CHARS}}}\Z)[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?")
"""What Python takes as a module's name and package tools as a distribution's."""
TEST_NAMES = frozenset({"tests", "conftest", "pytest", "json_values", "cases", "check", "same", "examples"})
"""Names in the tests of a package, or beside it, that its own would replace."""
TEMPLATES = Path(__file__).parent / "templates"


def default_name(run: str) -> str:
    """A package name made from a run's name."""
    return "learned_" + (slug(run.lower(), "_", MAX_NAME_CHARS - len("learned_")) or "functions")


def check_name(name: str, functions: FunctionSet) -> None:
    """Raise ConfigError if a package cannot be called ``name``."""
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"--name {name!r} cannot be the name of a package; use at most {MAX_NAME_CHARS} letters, digits and _, "
            "as in my_tools"
        )
    imported = {package.lower() for function in functions.each() for package in function.imports}
    if name.lower() in {each.lower() for each in sys.stdlib_module_names} | imported | TEST_NAMES:
        raise ConfigError(f"--name {name!r} would hide the module of that name; choose another")


def write_package(
    folder: Path, learned: Learned, replayed: Sequence[Replayed], *, name: str, model_licence: str | None
) -> None:
    """Write the package ``name`` into the empty ``folder``. ``model_licence``: that of the model that wrote it."""
    check_name(name, learned.functions)
    exported = time.strftime("%Y-%m-%d")
    values = {
        "name": name,
        "json_name": json.dumps(name),
        "run": plain(learned.provenance.run),
        "model": plain(learned.provenance.model),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "dependencies": json.dumps(requirements(learned.functions), indent=2),
        "imports": "".join(f"    {each} as {each},\n" for each in learned.functions.names),
        "all": json.dumps(list(learned.functions.names), indent=4).replace("\n]", ",\n]"),
        "provenance": provenance_rows(learned.provenance, exported),
        "listing": listing(learned.functions),
        "replay": replay_text(learned, replayed),
        "licence": licence_text(learned.provenance, model_licence),
    }
    examples = {
        each.name: [example.model_dump(mode="json") for example in each.examples] for each in replayed if each.examples
    }
    provenance = {"package": name, "exported": exported, **learned.provenance.model_dump(mode="json")}
    files = {
        "pyproject.toml": fill("pyproject.toml", values),
        "README.md": fill("README.md", values),
        f"{name}/__init__.py": fill("init.py", values),
        f"{name}/{FUNCTIONS_FILE}": f"# Learned functions: see README.md.\n{learned.functions.source}",
        f"{name}/{PROVENANCE_FILE}": json.dumps(provenance, indent=2, ensure_ascii=False) + "\n",
        f"{name}/py.typed": "",
        "tests/test_functions.py": tests(values, list(examples)),
        "tests/examples.json": json.dumps(examples, indent=1, ensure_ascii=False) + "\n",
        "tests/json_values.py": (Path(zygote.__file__).parent / "values.py").read_text(encoding="utf-8"),
    }
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


def package_of(folder: Path) -> Path | None:
    """The importable folder inside an exported package; None if it is not one."""
    found = [each.parent for each in sorted(folder.glob(f"*/{PROVENANCE_FILE}"))]
    return found[0] if len(found) == 1 and (found[0] / FUNCTIONS_FILE).is_file() else None


def requirements(functions: FunctionSet) -> list[str]:
    """The distributions that the functions import, with the version that they were tried with as the minimum."""
    imported = {package for function in functions.each() for package in function.imports}
    foreign = sorted(imported - sys.stdlib_module_names)
    owners: Mapping[str, Sequence[str]] = packages_distributions() if foreign else {}
    found = []
    for package in foreign:
        distribution = owners.get(package, [package])[0]
        try:
            numbers = version(distribution).split(".")
        except PackageNotFoundError:
            found.append(distribution)
            continue
        found.append(f"{distribution}>={'.'.join(numbers[:2])}")
    return sorted(set(found))


def fill(template: str, values: Mapping[str, str]) -> str:
    """A file of the package, with its ``$names`` replaced."""
    return Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(values)


def tests(values: Mapping[str, str], names: Sequence[str]) -> str:
    """The test file: one test per function that has examples."""
    each = "".join(fill("test_one.py", {**values, "function": name}) for name in names)
    return fill("test_head.py", values) + each


def provenance_rows(provenance: Provenance, exported: str) -> str:
    """A Markdown table of where the functions come from."""
    rows = {
        "run": provenance.run,
        "task": provenance.task,
        "model": provenance.model,
        "seed": str(provenance.seed),
        "training began": provenance.started or "unknown",
        "exported": exported,
        "agentopt-local": " ".join(filter(None, [provenance.agentopt_local, provenance.commit])) or "unknown",
        "fingerprint of the functions": provenance.functions,
        "functions it started with": ", ".join(provenance.start) or "none",
        "accuracy before, without functions": accuracy(provenance.test, "before"),
        "accuracy after, with these functions": accuracy(provenance.test, "after"),
    }
    if provenance.test:
        difference = provenance.test.difference
        low, high = difference.ci95
        rows["change"] = (
            f"{difference.points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}), "
            f"McNemar p = {difference.p_value:.2g}"
        )
    if provenance.certificate:
        rows["certificate"] = str(provenance.certificate)
    return "\n".join(f"| {key} | {plain(value)} |" for key, value in rows.items())


def accuracy(test: Comparison | None, side: Literal["before", "after"]) -> str:
    """An accuracy with its interval, in words."""
    if test is None:
        return "not measured for this set"
    measured = test.before if side == "before" else test.after
    low, high = measured.ci95
    return (
        f"{100 * measured.accuracy:.1f} % of {test.n} held-out problems "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
    )


def listing(functions: FunctionSet) -> str:
    """Signatures and docstrings in a fence that no docstring can close."""
    text = "\n\n".join(
        f"{each.signature}\n" + "\n".join(f"    {line}" for line in each.description.splitlines())
        for each in functions.each()
    )
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def replay_text(learned: Learned, replayed: Sequence[Replayed]) -> str:
    """Which recorded calls became tests, and which did not."""
    lines = []
    for each in replayed:
        text = f"* `{each.name}`: {each.recorded} distinct recorded calls, {each.tried} made again, "
        text += f"{each.same} gave the same"
        if each.tried > each.same:
            text += f"; {each.tried - each.same} gave something else or depend on chance and are left out"
        lines.append(text + (f"; {len(each.examples)} are tests." if each.examples else "; it has no test."))
    if learned.withheld:
        names = ", ".join(f"`{name}`" for name in learned.withheld)
        lines.append(f"* Not in this package: {names}, which the evaluation withheld because no call of it succeeded.")
    return "\n".join(lines)


def licence_text(provenance: Provenance, model_licence: str | None) -> str:
    """Who wrote the code and which terms may apply, as far as is known."""
    started = f" (it started from others: {', '.join(provenance.start)})" if provenance.start else ""
    licence = f", which is published under {model_licence}" if model_licence else ""
    return (
        f"The functions were written by the language model {plain(provenance.model)}{licence}, from problems of the "
        f"task {plain(provenance.task)}{started}. What may be done with them depends on the terms of that model and of "
        "those problems; agentopt-local claims no rights in them. The files around them (tests/json_values.py and the "
        "scaffolding) are part of agentopt-local, Apache-2.0."
    )


def plain(text: str) -> str:
    """``text`` without anything that has a meaning in a Markdown table or a comment."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text).translate({ord(char): f"&#{ord(char)};" for char in "<>|`*["})
