"""Why an answer cannot be compared."""

from __future__ import annotations


class UnparsableError(Exception):
    """The text is not an answer in a known notation."""


class UndefinedError(Exception):
    """The expression has no value at this point, as 1/0."""


class UnboundedError(Exception):
    """The value is too large, or computing it takes too much work."""
