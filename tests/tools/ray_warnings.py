"""Marks for tests that use Ray."""

import pytest

RAY_WARNS = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("FutureWarning", "DeprecationWarning", "ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
]
"""Ray, and torch beside it, warn about themselves."""
