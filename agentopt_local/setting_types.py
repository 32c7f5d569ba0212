"""Types of settings, and of numbers in rows, whose values need bounds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from agentopt_local.json_text import NotJsonError, check_json


def _plain(value: Any) -> Any:
    try:
        check_json(value)
    except NotJsonError as error:
        raise PydanticCustomError("open_table", "{why}", {"why": str(error)}) from None
    return value


PLAIN = AfterValidator(_plain)
"""Of settings that hold a table whose keys are not ours: it has what JSON can express, with finite numbers."""
MAX_SECONDS = 10_000_000
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
"""A time limit in a setting, at most some months: system calls refuse far longer ones, each in its own way."""
Count = Annotated[int, Field(ge=0)]
"""How many of something."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, such as an accuracy."""
Elapsed = Annotated[float, Field(ge=0, le=1e11)]
"""Seconds that have passed, or a Unix time: a clock and a calendar can show it."""
