"""reasoning_gym: disjoint splits, reproducible problems, reliable scores."""

import asyncio
import json
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from agentopt_local.errors import ConfigError, SandboxError
from agentopt_local.grading import Grade
from agentopt_local.problem import SPLITS, Problem, content_key
from agentopt_local.sandbox import open_sandbox
from agentopt_local.sandbox.base import Execution
from agentopt_local.tasks.catalog import load_task
from agentopt_local.tasks.reasoning_gym import REFUSED, ReasoningGymTask


class FixedSandbox:
    """Answers each call with the next of the given executions."""

    def __init__(self, *executions: Execution) -> None:
        self.executions = list(executions)

    async def call(self, source: str, name: str, arguments: dict[str, Any], **options: Any) -> Execution:
        return self.executions.pop(0)

    call_many = run = aclose = call  # type: ignore[assignment]


def fixed_grade(problem: Problem, answer: str | None, *executions: Execution) -> Grade:
    task = ReasoningGymTask.__new__(ReasoningGymTask)  # grading needs no generator
    return asyncio.run(task.grade(problem, answer, FixedSandbox(*executions)))


def sandbox_grades(task: ReasoningGymTask, answers: list[tuple[Problem, str]]) -> list[Grade]:
    async def grade_all() -> list[Grade]:
        async with open_sandbox(workers=2, preload=task.preload) as sandbox:
            return await asyncio.gather(*(task.grade(problem, answer, sandbox) for problem, answer in answers))

    return asyncio.run(grade_all())


PROBLEM = Problem(id="gcd-1", question="gcd of 4 and 6?", answer="2", kind="gcd", metadata={"options": {}, "entry": ""})


@pytest.fixture(scope="module")
def task() -> ReasoningGymTask:
    loaded = load_task("reasoning_gym:prime_factorization,gcd,base_conversion", seed=3)
    assert isinstance(loaded, ReasoningGymTask)
    return loaded


@pytest.mark.parametrize(("names", "seed"), [("gcd", 0), ("ransom_note,binary_alternation,acre", 1)])
def test_splits_share_no_question(names: str, seed: int) -> None:
    task = load_task(f"reasoning_gym:{names}", seed=seed)
    keys = {split: [content_key(p.question) for p in task.problems(split, 40)] for split in SPLITS}
    everything = [key for split in SPLITS for key in keys[split]]
    assert len(everything) == len(set(everything)) == 120


def test_no_seed_moves_a_problem_to_another_split() -> None:
    # Few distinct problems, so that two seeds meet the same ones.
    settings = {"prime_factorization": {"min_value": 2, "max_value": 150}}
    first, second = (load_task("reasoning_gym:prime_factorization", seed=seed, settings=settings) for seed in (0, 1))
    train = {p.question for p in first.problems("train", 60)}
    assert len(train & {p.question for p in second.problems("train", 60)}) > 30
    assert not train & {p.question for p in second.problems("test", 15)}


def test_a_split_does_not_depend_on_what_else_is_asked(task: ReasoningGymTask) -> None:
    spec, seed = task.name, task.seed
    alone = load_task(spec, seed=seed).problems("test", 30)
    other = load_task(spec, seed=seed)
    other.problems("train", 90)
    other.problems("validation", 33)
    assert other.problems("test", 30) == alone
    assert other.problems("test", 60)[:30] == alone
    assert other.problems("test", 0) == ()


def test_kinds_come_in_turn_with_readable_unique_ids(task: ReasoningGymTask) -> None:
    problems = task.problems("test", 31)
    assert [p.kind for p in problems] == [task.kinds[i % 3] for i in range(31)]
    assert len({p.id for p in problems}) == 31
    for problem in problems:
        kind, _, digits = problem.id.rpartition("-")
        assert kind == problem.kind
        assert len(digits) == 8


def test_another_seed_gives_other_problems(task: ReasoningGymTask) -> None:
    other = load_task(task.name, seed=task.seed + 1)
    assert {p.question for p in task.problems("test", 30)} != {p.question for p in other.problems("test", 30)}


def test_a_problem_is_json_and_survives_it(task: ReasoningGymTask) -> None:
    for problem in task.problems("test", 6):
        assert Problem.model_validate(json.loads(problem.model_dump_json())) == problem
    assert pickle.loads(pickle.dumps(task)).problems("test", 6) == task.problems("test", 6)


def test_problems_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    # These generators walk over sets of strings.
    code = (
        "from agentopt_local.tasks.catalog import load_task\n"
        "task = load_task('reasoning_gym:isomorphic_strings,ransom_note,polynomial_multiplication,list_functions')\n"
        "print([p.id for p in task.problems('train', 40)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_settings_reach_the_generator() -> None:
    settings = {"prime_factorization": {"min_value": 5000, "max_value": 6000}}
    task = load_task("reasoning_gym:prime_factorization", settings=settings)
    numbers = [int(p.question.split(" of ")[1].split(".")[0]) for p in task.problems("train", 20)]
    assert all(5000 <= number <= 6000 for number in numbers)


def test_too_few_distinct_problems_say_how_many_there_are() -> None:
    settings = {"prime_factorization": {"min_value": 2, "max_value": 40}}
    task = load_task("reasoning_gym:gcd,prime_factorization", settings=settings)
    with pytest.raises(ConfigError) as error:
        task.problems("test", 60)
    found = int(str(error.value).split("only ")[1].split()[0])
    assert 0 < found < 30
    assert "prime_factorization" in str(error.value)
    assert "Ask for fewer" in str(error.value)
    assert len(task.problems("test", 2 * found)) == 2 * found


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ("prime_factorisation", {}, "did you mean 'prime_factorization'"),
        ("gcd,gcd", {}, "name each data set once"),
        (",", {}, "name each data set once"),
        ("gcd", {"gdc": {}}, "did you mean 'gcd'"),
        ("gcd", {"gcd": 3}, "table of options"),
        ("gcd", {"gcd": {"seed": 3}}, "'seed' is set by the task"),
        ("gcd", {"gcd": {"min_number": 3}}, "did you mean 'min_numbers'"),
        ("gcd", {"gcd": {"min_value": -1}}, "min_value must be positive"),
        ("gcd", {"gcd": {"min_value": "a"}}, "not accepted: TypeError"),
    ],
)
def test_a_wrong_name_or_option_says_what_is_right(names: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task(f"reasoning_gym:{names}", settings=settings)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_data_sets_with_unsound_scores_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        load_task(f"reasoning_gym:{name}")


def test_the_expected_answer_needs_no_sandbox() -> None:
    assert fixed_grade(PROBLEM, " 2\n").correct


@pytest.mark.parametrize("answer", [None, "", " \n"])
def test_no_answer_is_wrong(answer: str | None) -> None:
    assert fixed_grade(PROBLEM, answer) == Grade(reward=0.0, reason="no answer was given")


@pytest.mark.parametrize(
    ("execution", "reward"),
    [
        (Execution(ok=True, value=1.0), 1.0),
        (Execution(ok=True, value=0.05), 0.05),
        (Execution(ok=True, value=1), 1.0),
        (Execution(ok=True, value=1.5), 0.0),
        (Execution(ok=True, value=-0.5), 0.0),
        (Execution(ok=True, value=float("nan")), 0.0),
        (Execution(ok=True, value="1.0"), 0.0),
        (Execution(ok=True, value=True), 0.0),
        (Execution(ok=True, value=None), 0.0),
        (Execution(ok=False, status="timeout", error="took too long"), 0.0),
        (Execution(ok=False, status="crashed", error="killed"), 0.0),
    ],
)
def test_only_a_number_from_0_to_1_is_a_reward(execution: Execution, reward: float) -> None:
    grade = fixed_grade(PROBLEM, "3", execution)
    assert grade.reward == reward
    assert execution.ok or execution.status in grade.reason


def test_a_lost_worker_is_not_a_wrong_answer() -> None:
    lost = Execution(ok=False, status="worker_lost", error="gone")
    assert fixed_grade(PROBLEM, "3", lost, Execution(ok=True, value=1.0)).correct
    with pytest.raises(SandboxError, match=r"gcd-1.*gone"):
        fixed_grade(PROBLEM, "3", lost, lost)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("countdown", "eval('1')"),
        ("countdown", "2**2"),
        ("countdown", "1 + x"),
        ("simple_integration", "Integral(x, x)"),
        ("simple_integration", "x.__class__"),
        ("simple_integration", "setattr(x, y, z)"),
        ("simple_integration", "x.subs(x, 1)"),
        ("simple_integration", "S(x)"),
        ("intermediate_integration", "__import__('os')"),
        ("polynomial_multiplication", "ｅval(x)"),
        ("n_queens", "print(1)"),
        ("string_insertion", "(lambda: 1)()"),
        ("gcd", "1" * 20_001),
    ],
)
def test_code_in_place_of_an_answer_reaches_no_scorer(kind: str, answer: str) -> None:
    problem = PROBLEM.model_copy(update={"kind": kind})
    assert fixed_grade(problem, answer).reward == 0.0  # the sandbox would fail: it has no execution to give


def test_scores_of_the_real_scorers() -> None:
    names = ["prime_factorization", "simple_integration", "countdown", "arc_agi", "knights_knaves", "spell_backward"]
    task = ReasoningGymTask(",".join(names), seed=1)
    first = dict(zip(names, task.problems("test", len(names)), strict=True))
    factors = first["prime_factorization"].answer.split(" × ")
    board = first["arc_agi"].answer
    cases = [
        ("prime_factorization", " × ".join(reversed(factors)), 1.0),
        ("prime_factorization", "1 × 1", 0.01),
        ("prime_factorization", "no factors", 0.0),
        ("simple_integration", "7 + " + first["simple_integration"].answer, 1.0),
        ("simple_integration", "x**99 + C", 0.0),
        ("countdown", f"({first['countdown'].answer})", 1.0),
        ("countdown", "1 + 1", 0.05),
        ("arc_agi", board.replace("\n", " \n"), 1.0),
        ("arc_agi", board.replace(board[0], "0" if board[0] != "0" else "1", 1), 0.05),
        ("knights_knaves", first["knights_knaves"].answer.rstrip("."), 1.0),
        ("spell_backward", first["spell_backward"].answer.upper(), 1.0),
        ("spell_backward", first["spell_backward"].answer + "x", 0.8),
    ]
    grades = sandbox_grades(task, [(first[kind], answer) for kind, answer, _ in cases])
    for (kind, answer, reward), grade in zip(cases, grades, strict=True):
        assert grade.reward == pytest.approx(reward), (kind, answer, grade)
        assert grade.reason


def test_a_hanging_scorer_is_a_wrong_answer() -> None:
    task = ReasoningGymTask("simple_integration")
    (problem,) = task.problems("test", 1)
    (grade,) = sandbox_grades(task, [(problem, "9**9**9**9**9")])
    assert grade.reward == 0.0
    assert "the scorer failed" in grade.reason or "answered" in grade.reason
