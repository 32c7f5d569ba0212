"""Graders by name: built-in ones, those of benchmarks, and user-supplied ones."""

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt_local import graders as package
from agentopt_local.errors import ConfigError
from agentopt_local.graders.catalog import BUILT_IN, load_grader, named_graders
from agentopt_local.graders.text import exact
from agentopt_local.grading import Grade, apply_grader
from agentopt_local.problem import Problem

PROBLEM = Problem(id="sum-1", question="1 + 1?", answer="2")


@pytest.fixture
def graders() -> Iterator[Any]:
    """An importable module for graders of the user's."""
    module = types.ModuleType("graders_of_the_user")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@given(st.text(max_size=60), st.text(max_size=60))
def test_graders_never_raise_and_take_what_is_expected(answer: str, expected: str) -> None:
    for grader in BUILT_IN.values():
        assert 0.0 <= grader(answer, expected).reward <= 1.0
        assert grader(expected, expected).correct is bool(expected.strip())


@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize("answer", [None, "", "  \n"])
def test_no_answer_is_wrong_even_if_nothing_is_expected(name: str, answer: str | None) -> None:
    grade = apply_grader(name, load_grader(name), Problem(id="p", question="q", answer=answer or ""), answer)
    assert (grade.reward, grade.reason) == (0.0, "no answer was given")


@pytest.mark.parametrize(
    ("result", "reward"),
    [(True, 1.0), (False, 0.0), (0.25, 0.25), (1, 1.0), (Grade(reward=0.5, reason="half"), 0.5)],
)
def test_a_grader_may_return_a_bool_a_float_or_a_grade(graders: Any, result: Any, reward: float) -> None:
    graders.judge = lambda answer, expected: result
    name = "graders_of_the_user:judge"
    assert apply_grader(name, load_grader(name), PROBLEM, "3").reward == reward


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numerc", "did you mean 'numeric'"),
        ("zzz", "Use one of: exact, normalized, numeric"),
        ("no_such_module_here:judge", r"no_such_module_here.*cannot be imported.*PYTHONPATH"),
        ("graders_of_the_user:jugde", "did you mean 'judge'"),
        ("graders_of_the_user:number", "'number' is a int, not a function"),
        (":judge", "module:function"),
        ("graders_of_the_user:", "module:function"),
    ],
)
def test_a_wrong_name_says_what_is_right(graders: Any, name: str, message: str) -> None:
    graders.judge, graders.number = exact, 3
    with pytest.raises(ConfigError, match=message):
        load_grader(name)


def test_a_new_file_is_all_that_a_named_grader_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "length.py").write_text(
        "def same_length(answer, expected):\n"
        "    return len(answer) == len(expected)\n\n\n"
        "GRADERS = {'same_length': same_length}\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{package.__name__}.length", raising=False)
    assert "same_length" not in BUILT_IN
    assert apply_grader("same_length", load_grader("same_length"), PROBLEM, "3").correct
    with pytest.raises(ConfigError, match=r"did you mean 'same_length'.*Use one of: exact, normalized, numeric"):
        load_grader("samelength")


def test_benchmarks_have_named_graders() -> None:
    assert set(named_graders()) - set(BUILT_IN) == {"gaia", "gaia_lenient", "gsm8k", "math", "math_exact"}


def test_a_built_in_grader_loads_no_other() -> None:
    code = (
        "import sys; from agentopt_local.graders.catalog import load_grader; load_grader('numeric'); "
        "before = set(sys.modules); load_grader('math'); name = 'agentopt_local.graders.math'; "
        "sys.exit(name in before or name not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
