"""Seeds of everything random, derived from the run's seed."""

from __future__ import annotations

import hashlib

from agentopt_local.record import canonical_json

BITS = 53
"""Every server reads such a number exactly: JSON readers that keep numbers as doubles are exact up to 2**53."""


def derive(seed: int, use: str, *which: int) -> int:
    """The seed of one ``use`` of ``seed``: the first BITS bits of a hash of all arguments.

    ``which`` numbers the uses of one name, such as the step and the candidate. Different arguments give different
    seeds: a collision among a million of them has a probability of less than 1 in 10,000.
    """
    digest = hashlib.sha256(canonical_json([seed, use, *which]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - BITS)
