"""How alike texts are, by TF-IDF of their words and pairs of words: without a model, and the same on every run.

Words of code count too: what a program calls and imports says which method it uses. scikit-learn is imported on first
use, because that takes a second.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

WORD = r"[^\W\d_]{2,}"
"""Letters only: ``total_cost`` is two words, and numbers say nothing about the kind of a problem."""
APART = 0.9
"""Mean cosine distance, 0 to 1, above which groups are not joined."""
TERMS = 3
"""Words that name a group."""


def likeness(query: str, texts: Sequence[str]) -> list[float]:
    """For each of ``texts``, how alike it is to ``query``: 0 (no word in common) to 1 (the same words)."""
    if not texts or not re.search(WORD, query):
        return [0.0] * len(texts)
    _, rows = _weighed([query, *texts])
    return [float(each) for each in (rows[1:] @ rows[0].T).toarray()[:, 0]]


def groups(texts: Sequence[str], least: int) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Indices of ``texts`` in groups of at least ``least`` that are alike, and those of the rest.

    The largest group first, and within a group in their order; a single group of all if there are too few to be split.
    """
    if len(texts) < 2 * least or not any(re.search(WORD, each) for each in texts):
        return ([tuple(range(len(texts)))] if texts else []), ()
    from sklearn.cluster import AgglomerativeClustering

    _, rows = _weighed(texts)
    joining = AgglomerativeClustering(n_clusters=None, metric="cosine", linkage="average", distance_threshold=APART)
    empty = [index for index in range(len(texts)) if rows[index].nnz == 0]  # a text without words has no direction
    with_words = [index for index in range(len(texts)) if rows[index].nnz]
    found: dict[int, list[int]] = {}
    for index, label in zip(with_words, joining.fit_predict(rows[with_words].toarray()), strict=True):
        found.setdefault(int(label), []).append(index)
    kept = sorted((tuple(each) for each in found.values() if len(each) >= least), key=lambda each: (-len(each), each))
    rest = sorted([*empty, *(index for each in found.values() if len(each) < least for index in each)])
    return kept, tuple(rest)


def terms(texts: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """The words that tell ``texts`` from ``others``, at most TERMS, the most telling first."""
    words, rows = _weighed([*texts, *others])
    mine, theirs = rows[: len(texts)].mean(axis=0), rows[len(texts) :].mean(axis=0) if others else 0
    weights = (mine - theirs).A1
    order = sorted(range(len(words)), key=lambda index: (-weights[index], words[index]))
    return tuple(words[index] for index in order if weights[index] > 0 and " " not in words[index])[:TERMS]


def operations(code: str) -> str:
    """The functions, methods and modules that a program uses, as words; empty for what is not Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    used = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            used += [alias.name for alias in node.names]
        elif isinstance(node, ast.Call):
            used.append(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        elif isinstance(node, ast.BinOp):
            used.append(type(node.op).__name__)
    return " ".join(used)


def _weighed(texts: Sequence[str]) -> tuple[list[str], Any]:
    """The words, and a sparse matrix (texts by words) of their weights; its rows have length 1, or 0 without words."""
    words = weighing()
    rows = words.fit_transform(texts)
    return list(words.get_feature_names_out()), rows


def weighing() -> Any:
    """A vectorizer of scikit-learn, not fitted yet: of words and pairs of words, without the commonest of English."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode", stop_words="english"
    )
