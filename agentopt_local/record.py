"""The frozen base class of all values that this package passes around."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

MAX_INT = (1 << 63) - 1
"""The largest whole number of a record: every other program and file format has it too, and it is a finite float."""


def _bound(schema: Any) -> None:
    """Give every whole number in a schema that has no limits the limits of 64 bits."""
    if isinstance(schema, dict):
        if schema.get("type") == "int":
            if not schema.keys() & {"le", "lt"}:
                schema["le"] = MAX_INT
            if not schema.keys() & {"ge", "gt"}:
                schema["ge"] = -MAX_INT - 1
            return
        for key, value in schema.items():
            if key not in ("default", "metadata", "serialization", "expected"):
                _bound(value)
    elif isinstance(schema, list | tuple):
        for each in schema:
            _bound(each)


class Record(BaseModel):
    """An immutable value: picklable, serializable as JSON, comparable with ``==``. Unknown fields are errors.

    Numbers are finite, and whole ones fit into 64 bits, so that whatever is computed with them later works.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _bound(schema)
        return schema


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of ``value``'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]
