"""Numbers of records are finite and fit into 64 bits, wherever they come from."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from agentopt_local.chat import Usage
from agentopt_local.record import MAX_INT, Record
from agentopt_local.setting_types import PLAIN


class Inner(Record):
    n: int = 0


class Values(Record):
    whole: int = 0
    limited: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    pair: tuple[int, float] = (0, 0.0)
    counts: dict[str, int] = Field(default={})
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    real: float = 0.0
    maybe: float | None = None
    table: Annotated[dict[str, Any], PLAIN] = Field(default={})
    anything: dict[str, Any] = Field(default={})


WRONG: list[dict[str, Any]] = [
    *({"whole": each} for each in (MAX_INT + 1, -MAX_INT - 2, 10**30, 10**400, 1e30, math.inf, math.nan, "9" * 5000)),
    {"limited": 2**64},
    {"pair": (2**64, 0.0)},
    {"pair": (0, math.inf)},
    {"counts": {"a": -(2**70)}},
    {"inner": {"n": 2**63}},
    {"many": [{"n": 0}, {"n": 2**63}]},
    *({"real": each} for each in (math.inf, -math.inf, math.nan, 10**400, "inf", "1e999", "nan")),
    {"maybe": math.nan},
    {"table": {"a": [math.inf]}},
    {"table": {"a": 16**5000}},
    {"table": {"a": "\ud800"}},
]


@pytest.mark.parametrize("values", WRONG, ids=lambda each: repr(each)[:40] if "table" not in each else "table")
def test_a_number_without_bounds_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Values.model_validate(values)


def test_numbers_that_fit_are_kept() -> None:
    values = {"whole": MAX_INT, "counts": {"a": -MAX_INT - 1}, "real": 1e308, "table": {"a": 2**100}}
    kept = Values.model_validate({**values, "anything": {"a": 2**100, "b": math.inf}})
    assert (kept.whole, kept.real, kept.table, kept.anything["a"]) == (MAX_INT, 1e308, {"a": 2**100}, 2**100)
    assert Usage(prompt_tokens=MAX_INT).prompt_tokens == MAX_INT
