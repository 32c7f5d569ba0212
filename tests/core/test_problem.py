"""Splits by content."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt_local.errors import ConfigError
from agentopt_local.problem import SPLITS, Problem, check_request, content_key, round_robin, split_of


def test_a_key_is_of_the_content() -> None:
    same = ["What is 2 + 2?", " what  is\n2 + 2? ", "WHAT IS ２ + ２?"]
    assert len({content_key(text) for text in same}) == 1
    assert content_key("What is 2 + 2?") != content_key("What is 2 + 3?")


@given(st.text())
def test_every_question_has_one_split(question: str) -> None:
    assert split_of(content_key(question)) in SPLITS


def test_splits_have_their_share() -> None:
    splits = [split_of(content_key(f"question {i}")) for i in range(10_000)]
    shares = [splits.count(split) / 100 for split in SPLITS]
    assert shares == pytest.approx([60, 20, 20], abs=2)


def test_the_split_of_a_question_never_changes() -> None:
    # A later version that moves problems between splits would make old and new results incomparable.
    splits = [split_of(content_key(f"question {i}")) for i in range(8)]
    assert " ".join(split[:2] for split in splits) == "va va tr te va tr tr tr"


def test_problems_with_one_id_are_never_in_two_splits() -> None:
    rng = random.Random(0)
    for _ in range(100):
        head = f"{rng.getrandbits(32):08x}"
        assert len({split_of(head + f"{rng.getrandbits(224):056x}") for _ in range(20)}) == 1


def test_round_robin_passes_over_ended_streams() -> None:
    def stream(kind: str, n: int) -> list[Problem]:
        return [Problem(id=f"{kind}{i}", question="q", answer="a", kind=kind) for i in range(n)]

    merged = round_robin(iter(stream(kind, n)) for kind, n in (("a", 3), ("b", 1), ("c", 2)))
    assert [problem.id for problem in merged] == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_a_request_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"'tset' is not known \(did you mean 'test'\?\)"):
        check_request("tset", 3)
    with pytest.raises(ConfigError, match="n = -1"):
        check_request("test", -1)
