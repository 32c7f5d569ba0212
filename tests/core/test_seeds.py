"""Seeds derived for every use of randomness."""

from __future__ import annotations

from itertools import product

from agentopt_local.seeds import BITS, derive


def test_no_two_uses_collide() -> None:
    """All the seeds that a long training derives, with several candidates, edits, drafts and requests."""
    seeds = [derive(0, "batch", epoch) for epoch in range(50)]
    for step, candidate in product(range(1, 11), range(4)):
        update = derive(0, "update", step, candidate)
        seeds.append(update)
        for number in range(3):
            edit = derive(update, "edit", number)
            seeds.append(edit)
            for index in range(8):
                draft = derive(edit, "draft", index)
                seeds += [draft, *(derive(draft, "request", request) for request in range(1, 11))]
    assert len(set(seeds)) == len(seeds) > 10_000


def test_arguments_cannot_be_shifted_into_one_another() -> None:
    alike = [
        derive(1, "edit", 2),
        derive(1, "edit", 2, 0),
        derive(12, "edit"),
        derive(1, "edit2"),
        derive(1, "edit", 0, 2),
    ]
    assert len(set(alike)) == len(alike)


def test_a_seed_is_the_same_everywhere_and_fits_a_double() -> None:
    assert derive(0, "update", 1, 0) == derive(0, "update", 1, 0) == 6002113760025714
    assert all(0 <= derive(seed, "draft", 1) < 2**BITS for seed in range(1000))
    assert float(2**BITS - 1) == 2**BITS - 1
