"""Tables of shown answers are seen; honest functions with literals of their own are not taken for them."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Sequence

import pytest

from agentopt_local.chat import Message, Usage
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.memorising import literals, memorising, plain
from agentopt_local.origins import Origin
from agentopt_local.problem import Problem
from agentopt_local.run.contribution import Memorising
from agentopt_local.trajectory import Step, ToolRun, Trajectory
from benchmarks.scripted import DOUBLE
from tests.ray_jobs.commands.conftest import FACTOR, FACTORS
from tests.tools.example_model import REVERSE, ROMAN, SORT

WEEKDAY = (
    'def weekday(day: int) -> str:\n    """Return the weekday of a day of January 2024."""\n'
    f"    names = {list(calendar.day_name)}\n    return names[(day - 1) % 7]\n"
)
MILES = (
    'def metres(question: str) -> str:\n    """Return the length in metres."""\n    import re\n'
    '    units = {"miles": 1609, "yards": 0.9144, "feet": 0.3048, "leagues": 4828, "fathoms": 1.8288}\n'
    '    text = question.replace("How many metres are", "")\n'
    '    return next(str(float(re.findall("[0-9]+", text)[0]) * by) for unit, by in units.items() if unit in text)\n'
)


def roman(number: int) -> str:
    found: dict[str, Callable[..., str]] = {}
    exec(ROMAN, found)
    return found["to_roman"](number)


def problems(answers: Sequence[tuple[str, str]], kind: str = "kind") -> list[Problem]:
    return [Problem(id=f"p{n}", question=asked, answer=answer, kind=kind) for n, (asked, answer) in enumerate(answers)]


def signs(
    source: str, some: Sequence[Problem], shown: int = 3, rollouts: Sequence[Trajectory] = ()
) -> list[Memorising]:
    """The signs of a function whose edits were shown the first problems."""
    function = Function(source=source)
    origin = Origin(shown=frozenset(each.id for each in some[:shown]), kinds=frozenset({some[0].kind}))
    return list(memorising(FunctionSet(functions=(function,)), {function.name: origin}, some, rollouts))


def table(pairs: Sequence[tuple[str, str]], form: str = "return {known}.get(question, question)") -> str:
    known = form.format(known=dict(pairs), answers=[answer for _, answer in pairs], first=pairs[0][1])
    return f'def answer(question: str) -> str:\n    """Return the answer."""\n    {known}\n'


WORDS = [
    (f"Spell backward: {word}", word[::-1]) for word in ("sing", "tiger", "moon", "river", "stone", "lamp", "desk")
]
SUMS = [(f"{a} + {7 * a}", str(8 * a)) for a in range(13, 40)]


@pytest.mark.parametrize("pairs", [WORDS, SUMS], ids=["words", "numbers"])
@pytest.mark.parametrize(
    "form",
    [
        "return {known}.get(question, question)",
        "return {answers}[len(question) % 3]",
        "known = ' '.join({answers})\n    return known.split()[0]",
        "if 'x' in question: return 'x'\n    return dict({known})[question]",
    ],
)
def test_a_table_of_the_shown_answers_is_seen(pairs: list[tuple[str, str]], form: str) -> None:
    [sign] = signs(table(pairs[:3], form), problems(pairs))
    assert sign.answers is not None
    assert sign.answers.shown == (3, 3)
    assert sign.answers.others == (0, len(pairs) - 3)
    assert set(sign.literals) >= {answer for _, answer in pairs[:3]}
    assert "equal the answers of 3 of the 3 problems that its edits were shown" in sign.text


def test_numbers_are_compared_by_value_and_texts_without_case_and_quotes() -> None:
    assert plain("1,200.0") == plain("1200") == plain(str(1200)) == "1200"
    assert plain(" A  b ") == plain("'a B'")
    assert plain("12.50") == plain(str(12.5))
    assert plain("1/2") == "1/2"
    pairs = [(f"q{n}", f"{n},500.0") for n in range(4, 24)]
    code = "return {{'a': 4500, 'b': 5500.0, 'c': -6500}}.get(question, question)"
    [sign] = signs(table(pairs[:2], code), problems(pairs))
    assert sign.answers is not None
    assert sign.answers.shown == (2, 3)


def test_answers_inside_one_long_text_are_seen() -> None:
    [sign] = signs(table(WORDS[:3], "return 'gnis,regit,noom'.split(',')[0]"), problems(WORDS))
    assert sign.answers is not None
    assert sign.answers.shown == (3, 3)


def test_one_long_answer_is_enough_and_one_short_one_is_not() -> None:
    long = [(f"q{n}", f"a rather long answer number {n}") for n in range(6)]
    assert signs(table(long[:1], "return {first!r} if question else ''"), problems(long))
    assert not signs(table(WORDS[:1], "return {first!r} if question else ''"), problems(WORDS))


def test_with_few_other_problems_half_of_the_shown_must_match() -> None:
    assert signs(table(WORDS[:3]), problems(WORDS[:4]))
    assert not signs(table(WORDS[:1]), problems(WORDS[:4]))


def test_keys_from_shown_questions_are_seen() -> None:
    pairs = [
        (f"Capital of {where}?", f"{where[:3]}-x") for where in ("Arland", "Borland", "Cerland", "Dorland", "Erland")
    ]
    body = 'return "x" if "Arland" in q or "Borland" in q else "Cerland"'
    source = f'def c(q: str) -> str:\n    """Return it."""\n    {body}\n'
    [sign] = signs(source, problems([*pairs, *WORDS]))
    assert (sign.answers, sign.solved) == (None, None)
    assert sign.questions is not None
    assert (sign.questions.shown, sign.questions.others) == ((3, 3), (0, 9))


HONEST = {
    "weekdays": (WEEKDAY, [(f"Day {day}?", calendar.day_name[(day - 1) % 7]) for day in range(1, 15)]),
    "roman": (ROMAN, [(f"Write {n} as a Roman numeral", roman(n)) for n in (5, 9, 40, 90, 500, 51, 67, 89, 94, 4)]),
    "units": (
        MILES,
        [
            (f"How many metres are {n} {unit}?", str(n * by))
            for n, (unit, by) in enumerate([("miles", 1609), ("yards", 0.9144), ("feet", 0.3048)] * 4, 2)
        ],
    ),
    "factors": (FACTOR, [(f"Factor: {n}", answer) for n, answer in FACTORS.items()]),
    "double": (DOUBLE, [(f"Double: {n}", str(2 * n)) for n in range(1, 12)]),
    "words": (REVERSE, [(f"The words: {a} {b}", f"{b} {a}") for a, b in zip("abcdefg", "hijklmn", strict=True)]),
    "sort": (SORT, [(f"by the alphabet: {a}, {b}", f"{a}, {b}") for a, b in zip("abcdefg", "hijklmn", strict=True)]),
    "truth": (
        'def liar(q: str) -> str:\n    """Return who lies."""\n    return "Yes" if "knave" in q else "No"\n',
        [(f"{n}: is he a {who}?", says) for n, (who, says) in enumerate([("knave", "Yes"), ("knight", "No")] * 5)],
    ),
    "constants": (
        'def clock(minutes: int) -> str:\n    """Return it."""\n    return str(minutes // 60 % 24 * 12 + 365)\n',
        [(f"{n}?", str(n)) for n in (60, 24, 7, 9, 81, 13, 77, 12, 90)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("shown", [1, 2, 3, 5])
def test_honest_functions_are_not_flagged(name: str, shown: int) -> None:
    source, pairs = HONEST[name]
    assert signs(source, problems(pairs), shown) == []


def test_docstrings_and_trivial_literals_say_nothing() -> None:
    source = (
        'def f(q: str) -> str:\n    """For sing return gnis, for tiger regit."""\n    """moon"""\n'
        "    return {0: '', 1: 'a', None: True, -1: 'no', 10: 2.0}.get(len(q), -3)\n"
    )
    found = literals(Function(source=source))
    assert found.isdisjoint({"", "a", "0", "1", "2", "-1", "10", "no", "true", "none", "moon"})
    assert "-3" in found
    assert not any("gnis" in each for each in found)


def test_whole_lists_are_literals() -> None:
    assert plain("[1, 2, 3]") in literals(Function(source=table([("q", "a")], "return str([1, 2, 3])")))


def test_functions_of_unknown_origin_are_passed_over() -> None:
    function = Function(source=table(WORDS[:3]))
    for origin in (Origin(), Origin(shown=frozenset({"p0", "p1", "p2"}), known=False)):
        assert memorising(FunctionSet(functions=(function,)), {"answer": origin}, problems(WORDS), []) == ()


def solved(problem: Problem, right: bool, name: str | None = "double") -> Trajectory:
    executed = (ToolRun(name=name, arguments={}, ok=True, result=""),) if name else ()
    return Trajectory(
        problem_id=problem.id,
        functions="",
        seed=0,
        steps=(Step(message=Message(role="assistant", content=""), executed=executed),),
        answer="",
        stop_reason="answer",
        usage=Usage(),
        wall_s=0.0,
        grade=Grade(reward=float(right), reason=""),
    )


def test_a_gap_between_shown_and_other_problems_is_seen_where_the_function_was_used() -> None:
    some = problems([(f"Double: {n}", str(2 * n)) for n in range(20, 30)])
    gap = [solved(each, index < 3) for index, each in enumerate(some)]
    [sign] = signs(DOUBLE, some, rollouts=gap)
    assert (sign.answers, sign.questions) == (None, None)
    assert sign.solved is not None
    assert (sign.solved.shown, sign.solved.others) == ((3, 3), (0, 7))
    assert "3 of 3 shown problems were solved, but 0 of 7 others" in sign.text
    unused = [solved(each, index < 3, name="double" if index < 3 else None) for index, each in enumerate(some)]
    assert signs(DOUBLE, some, rollouts=unused) == []
    alike = [solved(each, index != 5) for index, each in enumerate(some)]
    assert signs(DOUBLE, some, rollouts=alike) == []
