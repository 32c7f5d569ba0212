"""Values of settings as TOML and the command line give them, before they are checked: reading, nesting and merging."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

from agentopt_local.errors import ConfigError
from agentopt_local.plain_files import MAX_SETTINGS, read_plain
from agentopt_local.plain_text import quoted
from agentopt_local.record import Record

MAX_KEY_PARTS = 64
"""Most parts of a dotted key: the time that tomllib takes for one grows with the cube of their number."""
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises a ConfigError that names it and says what is wrong."""
    try:
        text = read_plain(path, MAX_SETTINGS, follow=True).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist{near_files(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give a .toml file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a .toml file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    try:
        return parsed(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def parsed(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError, also for what is nested too deeply or a number that is too long."""
    if _LONG_KEY.search(text):
        raise ValueError(f"a key has more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
        read = parsed(f"v = {text}")
    except ValueError:
        return text
    return read["v"] if len(read) == 1 else text


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested tables. Raises ConfigError if one of its sections is not a table."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(
                f"--{key}: {section} = {quoted(values)} in the file is not a table, so it cannot hold {last}"
            )
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
    try:
        names = [each.name for each in folder.glob("*.toml")]
    except (OSError, ValueError):
        names = []
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {folder / found[0]}?" if found else ""
