"""The files of a model that vLLM reads: weights, settings and tokenizer."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable
from pathlib import Path

TEXTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.tiktoken")
MISTRALS = frozenset({"tekken.json", "params.json"})
"""Mistral's own forms of the tokenizer and the configuration."""
INDEX = "model.safetensors.index.json"


def weight_files(names: Iterable[str], read: Callable[[str], str]) -> list[str]:
    """The files of weights that vLLM reads: those in the index, or else all at the top.

    Copies in other formats are left out: folders such as ``original/``, and Mistral's ``consolidated*``, whose presence
    would also make vLLM use Mistral's own tokenizer. ``read`` returns the text of a file.
    """
    present = set(names)
    if INDEX in present:
        return sorted(set(json.loads(read(INDEX))["weight_map"].values()))
    return sorted(each for each in present if fnmatch.fnmatch(each, "*.safetensors") and is_read(each))


def is_read(name: str) -> bool:
    """Whether a file belongs to the format that vLLM is given."""
    return "/" not in name and not name.startswith("consolidated")


def text_files(names: Iterable[str]) -> list[str]:
    """The small files beside the weights: settings, tokenizer, templates and code."""
    names = set(names)
    if "tokenizer.json" in names:
        names -= MISTRALS
    kept = (each for each in names if is_read(each) or fnmatch.fnmatch(each, "additional_chat_templates/*.jinja"))
    return sorted(each for each in kept if any(fnmatch.fnmatch(each, pattern) for pattern in TEXTS))


def folder_weights(folder: Path) -> list[Path]:
    """The files of weights that vLLM reads from ``folder``, whether or not they are all there."""
    names = [path.name for path in folder.iterdir()]
    return [folder / Path(name).name for name in weight_files(names, lambda each: (folder / each).read_text("utf-8"))]


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` has a configuration and all its files of weights."""
    weights = folder_weights(folder) if folder.is_dir() else []
    return bool(weights) and all(path.exists() for path in (folder / "config.json", *weights))
