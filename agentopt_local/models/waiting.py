"""How long a server asks to wait, in whatever form it says so."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"[0-9]{1,300}(\.[0-9]{1,30})?")


def seconds_in(value: Any) -> float | None:
    """The seconds in ``12``, ``"12.5"`` or ``"12.5s"``; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value < 1e15 and math.isfinite(value) else None
    text = value.strip().removesuffix("s") if isinstance(value, str) else ""
    return float(text) if _NUMBER.fullmatch(text) else None


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """The seconds in the headers of an answer; None if they name no time that can be read."""
    exact = seconds_in(headers.get("retry-after-ms"))
    if exact is not None:
        return exact / 1000
    value = headers.get("Retry-After", "")
    seconds = seconds_in(value)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value[:100]).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError, IndexError):
        return None
