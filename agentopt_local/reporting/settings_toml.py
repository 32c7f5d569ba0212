"""A run's settings as a file that repeats it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

LEFT_OUT = frozenset({"run_name", "run_dir"})
"""They say where a run lies, not what it does."""


def toml_text(values: Mapping[str, Any], defaults: Mapping[str, Any], table: str = "") -> str:
    """The settings that differ from ``defaults``, as TOML. None stands for a setting's absence, which TOML has not."""
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
    """JSON is TOML for text, numbers, booleans and lists of them, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
