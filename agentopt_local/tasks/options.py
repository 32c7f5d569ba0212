"""Options of a benchmark, given in its spec (``PATH?level=1-3``) or in the settings file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from agentopt_local.errors import ConfigError
from agentopt_local.spelling import did_you_mean


def parse_spec(
    prefix: str, spec: str, settings: Mapping[str, Any], known: tuple[str, ...]
) -> tuple[str, dict[str, Any]]:
    """The path and the options of ``PATH[?key=value&...]``; options in the spec override ``settings``.

    Raises ConfigError for a setting that is not ``known``.
    """
    path, _, query = spec.partition("?")
    merged = {**settings, **dict(parse_qsl(query, keep_blank_values=True))}
    for key in merged:
        if key not in known:
            raise ConfigError(
                f"task '{prefix}:{spec}' has no setting {key!r}{did_you_mean(key, known)}; it has: {', '.join(known)}"
            )
    return path.strip(), merged


def flag(name: str, settings: Mapping[str, Any], key: str) -> bool:
    """The setting ``key``, true or false; false if it is missing."""
    value = settings.get(key, False)
    if isinstance(value, str) and value.lower() in ("true", "1", "yes", "false", "0", "no", ""):
        return value.lower() in ("true", "1", "yes")
    if not isinstance(value, bool):
        raise ConfigError(f"task {name!r}: {key} = {value!r} is neither true nor false")
    return value


def levels(name: str, settings: Mapping[str, Any], highest: int) -> frozenset[int]:
    """The levels in the setting ``level``: ``3``, ``"1-3"``, ``"1,2"``, ``[1, 2]``; all if it is missing."""
    value = settings.get("level")
    if value is None:
        return frozenset(range(1, highest + 1))
    found: set[int] = set()
    for item in value if isinstance(value, list) else str(value).split(","):
        low, _, high = str(item).strip().partition("-")
        try:
            found |= set(range(int(low), int(high or low) + 1))
        except ValueError:
            found = set()
            break
    if not found or not found <= set(range(1, highest + 1)):
        raise ConfigError(
            f"task {name!r}: level = {value!r}; write levels from 1 to {highest}, such as 3, '1-3' or [1, 2]"
        )
    return frozenset(found)
