"""Types of settings whose values need bounds."""

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
