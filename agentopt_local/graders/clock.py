"""Times of day in one spelling."""

from __future__ import annotations

import re

_HALF = r"(?P<half>[ap])\s?\.?\s?m\b\.?|(?:in\s(?:the\s)?)?(?P<part>morning|afternoon|evening)\b"
_TIME = re.compile(
    rf"(?<![\w:.])(?P<hour>\d{{1,2}})(?:\s?[:.]\s?(?P<minute>[0-5]\d)(?::00)?)?(?![\d:]|\.\d)\s{{0,3}}(?:{_HALF}|o'clock\s(?P<later>[ap])\.?m\b\.?)"
    r"|(?<![\w:.])(?P<hour24>\d{1,2}):(?P<minute24>[0-5]\d)(?::00)?(?![\d:])(?!\s{0,3}(?:[ap]\s?\.?\s?m\b))"
    r"|\b(?:12(?::00)?\s)?(?P<word>noon|midnight|midday)\b",
    re.IGNORECASE,
)


def with_plain_times(text: str) -> str:
    """``text`` with its times of day as ``4:15 pm``: whatever dots, spaces, capitals or the 24 hours of a clock.

    A time of which the half of the day is unknown, ``4:15``, stays as it is.
    """
    return _TIME.sub(lambda found: _plain(found) or found[0], text)


def _plain(found: re.Match[str]) -> str | None:
    if found["word"]:
        return "12:00 am" if found["word"].lower() == "midnight" else "12:00 pm"
    if found["hour24"]:
        hour = int(found["hour24"])
        return f"{hour - 12 or 12}:{found['minute24']} pm" if 13 <= hour < 24 else _midnight(found, hour)
    hour = int(found["hour"])
    half = (found["half"] or found["later"] or "").lower()
    if not half:
        half = "a" if (found["part"] or "").lower() == "morning" else "p"
    return f"{hour}:{found['minute'] or '00'} {half}m" if 1 <= hour <= 12 else None


def _midnight(found: re.Match[str], hour: int) -> str | None:
    return f"12:{found['minute24']} am" if hour == 0 else None
