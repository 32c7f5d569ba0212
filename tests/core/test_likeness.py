"""Which texts are alike."""

from __future__ import annotations

import random

import pytest

from agentopt_local import likeness as module
from agentopt_local.likeness import likeness, operations, terms

DIVISORS = [f"What is the greatest common divisor of {each} and 18?" for each in (12, 15, 27)]
REMAINDERS = [f"Find the remainder when {each} to the tenth power is divided by 5." for each in (7, 3, 8)]
FARES = [f"A bus ticket costs {each} dollars. How much do three tickets cost?" for each in (2, 4, 9)]


def groups(texts: list[str], least: int) -> list[tuple[int, ...]]:
    """All groups, with the rest as the last one."""
    kept, rest = module.groups(texts, least)
    return [*kept, rest] if rest else kept


def test_what_shares_words_is_alike() -> None:
    query, *others = [*DIVISORS, *FARES]
    scores = likeness(query, others)
    assert min(scores[:2]) > 0.99 and max(scores[2:]) < 0.01


@pytest.mark.parametrize("query", ["", "7 + 8 = ?", "$\\$$"])
def test_a_text_without_words_is_like_nothing(query: str) -> None:
    assert likeness(query, [*FARES, ""]) == [0.0] * 4
    assert likeness("bus fares", []) == []


def test_groups_are_found_in_any_order() -> None:
    texts = [*DIVISORS, *REMAINDERS, *FARES, "99"]
    expected = {frozenset(DIVISORS), frozenset(REMAINDERS), frozenset(FARES), frozenset({"99"})}
    for seed in range(5):
        mixed = random.Random(seed).sample(texts, len(texts))
        found = groups(mixed, 2)
        assert {frozenset(mixed[index] for index in each) for each in found} == expected
        assert [mixed[index] for index in found[-1]] == ["99"]  # what is like nothing else comes last


def test_few_texts_and_texts_of_one_kind_are_one_group() -> None:
    assert groups([], 3) == []
    assert groups(DIVISORS[:1] + FARES[:1], 3) == [(0, 1)]
    assert groups(["1 + 1", "2 + 2", "3 + 3", "4 + 4"], 2) == [(0, 1, 2, 3)]
    assert groups([*DIVISORS, *DIVISORS], 3) == [(0, 1, 2, 3, 4, 5)]


def test_a_group_is_named_by_the_words_that_tell_it_from_others() -> None:
    assert set(terms(REMAINDERS, [*DIVISORS, *FARES])) <= {"remainder", "divided", "power", "tenth"}
    assert "divisor" in terms(DIVISORS, REMAINDERS)
    assert terms(DIVISORS, []) != ()


def test_operations_of_a_program_are_words() -> None:
    assert operations("import math\nprint(math.gcd(4, 6) % 5)").split() == ["math", "print", "Mod", "gcd"]
    assert operations("def f(:") == ""
    assert operations("x = " + "(" * 500 + ")" * 500) == ""
