"""Prose for models: one Markdown file each, with ``$names`` that must all be given."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent


@cache
def template(name: str) -> Template:
    """The prompt called ``name``, unfilled."""
    return Template((FOLDER / f"{name}.md").read_text(encoding="utf-8").strip())


def fill(name: str, /, **values: str) -> str:
    """The prompt called ``name`` with its ``$names`` replaced. Raises KeyError for one that is missing."""
    return template(name).substitute(values)


def hashes() -> dict[str, str]:
    """SHA-256 (first 16 hex digits) of every prompt file, for a run's metadata."""
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(FOLDER.glob("*.md"))}
