"""A run's settings as a TOML file that repeats the run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

LEFT_OUT = frozenset({"run_name", "run_dir"})
"""They say where a run is stored, not what it does."""


def toml_text(values: Mapping[str, Any], defaults: Mapping[str, Any], table: str = "") -> str:
    """The settings that differ from ``defaults``, as TOML. TOML has no null, so settings that are None are left out."""
    lines, tables = [], []
    for key, value in values.items():
        if value == defaults.get(key) or value is None or (not table and key in LEFT_OUT):
            continue
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)
        if isinstance(value, Mapping):
            inner = defaults.get(key)
            tables.append(toml_text(value, inner if isinstance(inner, Mapping) else {}, f"{table}{name}."))
        else:
            lines.append(f"{name} = {toml_value(value)}")
    if lines and table:
        lines.insert(0, f"[{table[:-1]}]")
    return "\n\n".join(part for part in ("\n".join(lines), *tables) if part)


def toml_value(value: Any) -> str:
    """``value`` as TOML: for text, numbers, booleans and lists it is JSON, except for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
