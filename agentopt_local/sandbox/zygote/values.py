"""Which Python values can be returned, and as which JSON.

============================================  =====================================================
None, bool, int, float, str                   themselves; an int has at most 4,300 digits
nan, inf, -inf                                "NaN", "Infinity", "-Infinity"
list, tuple, other sequences, iterators       array
set, frozenset                                array, sorted by value if possible, otherwise by type and text
dict and other mappings, their views          object, arrays; keys that are not text become text and must stay distinct
dataclass instance, SimpleNamespace           object of its fields
Fraction, sympy Rational                      a whole number as int, else "p/q"
Decimal, complex, mpmath mpc                  its text, such as "0.10" or "(1+2j)"
date, time, datetime, timedelta, UUID, Path   its text
Enum member                                   its value
sympy Integer, Float, true, false             int, float (its text beyond a float's range), bool
sympy Matrix, Array; any other                array of rows; its text
mpmath mpf, matrix                            float, array of rows
numpy scalar, array                           ``item()``, ``tolist()``, and then by these rules
pandas DataFrame, Series                      array of records, array. An index that is named or not of whole numbers
                                              belongs to the data: further fields, an object
other pandas values                           their text, such as "2024-01-02 00:00:00", "NaT", "<NA>"
============================================  =====================================================

Anything else (bytes, functions, objects) is a TypeError that names the type. Lone surrogates in text become "?".
"""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import pathlib
import sys
import types
import uuid
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any

MAX_DEPTH = 60
MAX_INT_BITS = 14_284  # 4,300 decimal digits hold at least this many bits


class ValueTooLarge(Exception):  # noqa: N818 - becomes the status "result_too_large"
    """The result is over its limit of bytes."""


def to_json_text(value: Any, max_bytes: int) -> bytes:
    """``value`` as JSON in UTF-8.

    Raises :class:`TypeError` or :class:`ValueError` saying what cannot be returned, and :class:`ValueTooLarge`.
    """
    converter = _Converter(max_bytes)
    text = json.dumps(converter.convert(value, 0), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    if len(text) > max_bytes:
        raise ValueTooLarge(f"the result is {len(text)} bytes of JSON, over the limit of {max_bytes}: return less")
    return text


class _Converter:
    """Converts one value; counts its output, so that endless values are stopped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left = max_bytes

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueTooLarge(f"the result is over the limit of {self._max_bytes} bytes of JSON: return less")

    def convert(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line per kind of value
        """``value`` in terms of None, bool, int, float, str, list and dict."""
        self._spend(1)
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if kind is int:
            self._spend(value.bit_length() >> 2)  # about its number of digits
            return _checked_int(value)
        if kind is float:
            return _finite(value)
        if kind is str:
            self._spend(len(value))
            return value
        if depth >= MAX_DEPTH:
            raise ValueError(f"the result is nested deeper than {MAX_DEPTH} levels, or contains itself")
        if kind is list or kind is tuple:
            return [self.convert(item, depth + 1) for item in value]
        if kind is dict:
            return self._convert_mapping(value, depth)
        return self._convert_other(value, depth)

    def _convert_mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        result = {}
        for key, item in value.items():
            text = key if type(key) is str else self._key(key)
            self._spend(len(text))
            if text in result:
                raise ValueError(f"two keys of the result have the same text {text[:80]!r}")
            result[text] = self.convert(item, depth + 1)
        return result

    def _key(self, key: Any) -> str:
        """A key as text: text as it is, None and bool as JSON, everything else as its ``str``."""
        if isinstance(key, str):
            return str.__str__(key)
        if key is None or isinstance(key, bool):
            return json.dumps(key)
        return str(key)

    def _convert_other(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line per kind of value
        library = _library(type(value))
        if library is not None:
            return self.convert(library(value, self._left), depth + 1)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return self._convert_mapping(fields, depth)
        if isinstance(value, types.SimpleNamespace):
            return self._convert_mapping(vars(value), depth)
        if isinstance(value, enum.Enum):
            return self.convert(value.value, depth + 1)
        for base in (str, int, float):
            if isinstance(value, base):
                return self.convert(base(value), depth + 1)
        if isinstance(value, Mapping):
            return self._convert_mapping(value, depth)
        if isinstance(value, AbstractSet) and not isinstance(value, KeysView | ItemsView):
            return [self.convert(item, depth + 1) for item in _ordered(value)]
        if isinstance(value, collections.UserString):
            return self.convert(str(value), depth + 1)
        if isinstance(value, _ARRAY_TYPES) and not isinstance(value, bytes | bytearray | memoryview):
            return [self.convert(item, depth + 1) for item in value]
        if isinstance(value, fractions.Fraction):
            return self.convert(_ratio(value.numerator, value.denominator), depth + 1)
        if isinstance(value, _TEXT_TYPES):
            return self.convert(str(value), depth + 1)
        raise TypeError(_refusal(value))


_ARRAY_TYPES = (Sequence, array.array, Iterator, KeysView, ItemsView, ValuesView)
_TEXT_TYPES = (
    decimal.Decimal,
    complex,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
    pathlib.PurePath,
)


def _refusal(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, bytes | bytearray | memoryview):
        return f"a result of type {name} cannot be returned: decode it to text or use .hex()"
    if callable(value):
        return f"a result of type {name} cannot be returned: call it and return what it gives"
    return f"a result of type {name} cannot be returned: return numbers, text, lists or dicts"


def _checked_int(value: int) -> int:
    if value.bit_length() > MAX_INT_BITS:
        digits = int(value.bit_length() * math.log10(2))
        raise ValueError(
            f"an integer of about {digits} digits cannot be returned (limit 4300): return a remainder, "
            "its number of digits or a part of it"
        )
    return value


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _ordered(value: AbstractSet[Any]) -> list[Any]:
    try:
        return sorted(value)
    except Exception:  # noqa: BLE001 - comparing untrusted elements may raise anything
        return sorted(value, key=lambda item: (type(item).__name__, str(item)))


def _ratio(numerator: int, denominator: int) -> int | str:
    if denominator == 1:
        return numerator
    _checked_int(numerator)
    _checked_int(denominator)
    return f"{numerator}/{denominator}"


def _library(kind: type) -> Callable[[Any, int], Any] | None:
    """The conversion for a type of sympy, mpmath, numpy or pandas, which this module never imports."""
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in _LIBRARIES:
            return _LIBRARIES[package]
    return None


def _from_sympy(value: Any, left: int) -> Any:  # noqa: PLR0911 - one line per kind of value
    if getattr(value, "is_Boolean", False) and value in (True, False):
        return bool(value)
    if hasattr(value, "tolist"):  # a matrix or an array with elements
        return value.tolist()
    if isinstance(value, dict | list | tuple):
        return dict(value) if isinstance(value, dict) else list(value)
    if type(value).__name__ in ("Tuple", "FiniteSet"):
        return list(value.args)
    if type(value).__name__ == "Dict":
        return {str(key): item for key, item in value.items()}
    if getattr(value, "is_Integer", False):
        return int(value)
    if getattr(value, "is_Rational", False):
        return _ratio(int(value.p), int(value.q))
    if getattr(value, "is_Float", False) and math.isfinite(float(value)):
        return float(value)
    return str(value)


def _from_mpmath(value: Any, left: int) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value).__name__ == "mpf":
        return float(value)
    return str(complex(value) if type(value).__name__ == "mpc" else value)


def _from_numpy(value: Any, left: int) -> Any:
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        if getattr(value, "size", 0) * 2 > left:
            raise ValueTooLarge(f"the result is an array of {value.size} elements: return less")
        if value.dtype.kind in "mM":
            return value.astype(str).tolist()
        if value.dtype.kind == "g" or (value.dtype.itemsize > 8 and value.dtype.kind == "f"):
            return value.astype(float).tolist()
        return value.tolist()
    if isinstance(value, tuple):  # as its linear algebra returns
        return list(value)
    raise TypeError(_refusal(value))


def _from_pandas(value: Any, left: int) -> Any:
    pandas = sys.modules["pandas"]
    arrays = (pandas.DataFrame, pandas.Series, pandas.Index, pandas.api.extensions.ExtensionArray)
    if isinstance(value, arrays) and value.size * 2 > left:
        raise ValueTooLarge(f"the result has {value.size} elements: return less")
    if isinstance(value, pandas.DataFrame):
        table = value.reset_index() if _belongs_to_data(value.index) else value
        if not table.columns.is_unique:
            raise ValueError("two columns of the result have the same name: rename one")
        return table.to_dict("records")
    if isinstance(value, pandas.Series) and _belongs_to_data(value.index):
        if not value.index.is_unique:
            raise ValueError("two rows of the result have the same index: call reset_index()")
        return dict(zip(value.index.tolist(), value.tolist(), strict=True))
    if isinstance(value, arrays):
        return value.tolist()
    if type(value).__name__ in _PANDAS_TEXTS:
        return str(value)
    raise TypeError(_refusal(value))


_PANDAS_TEXTS = ("Timestamp", "Timedelta", "Period", "Interval", "NaTType", "NAType")


def _belongs_to_data(index: Any) -> bool:
    """Whether an index is more than row numbers."""
    return any(name is not None for name in index.names) or index.inferred_type not in ("integer", "empty")


_LIBRARIES: dict[str, Callable[[Any, int], Any]] = {
    "sympy": _from_sympy,
    "mpmath": _from_mpmath,
    "numpy": _from_numpy,
    "pandas": _from_pandas,
}
