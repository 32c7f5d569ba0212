"""Values of settings as TOML and the command line give them, before they are checked: reading, nesting and merging."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, get_args

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record


def table(annotation: Any) -> type[Record] | None:
    """The record class of a setting that is a table of settings, optional or not; None for a plain value."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, Record):
            return each
    return None


def toml_value(text: str) -> Any:
    """Read ``3``, ``true`` or ``[1, 2]`` as TOML does; ``none`` is None, and anything else is text."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested tables. Raises ConfigError if one of its sections is not a table."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--{key}: {section} = {values!r} in the file is not a table, so it cannot hold {last}")
    values[last] = value


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge ``over`` into ``base``, table by table; neither is modified."""
    out = dict(base)
    for key, value in over.items():
        known = out.get(key)
        out[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return out


def near_files(path: Path) -> str:
    """A hint that names a .toml file with a similar name in the same folder."""
    folder = path.parent
    names = [each.name for each in folder.glob("*.toml")] if folder.is_dir() else []
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {folder / found[0]}?" if found else ""
