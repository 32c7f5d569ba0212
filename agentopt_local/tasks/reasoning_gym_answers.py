"""Which answers may reach a scorer of reasoning_gym that evaluates them."""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 20_000
"""Longer answers have reward 0."""

_EVALUATES_ALGEBRA = {"countdown", "intermediate_integration", "polynomial_multiplication", "simple_integration"}
_EVALUATES_LISTS = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
_NOT_ARITHMETIC = re.compile(r"[^0-9\s+\-*/()]|\*\*|//")
_NOT_ALGEBRA = re.compile(r"[^A-Za-z0-9\s+\-*/^().]|\.\s*[A-Za-z]|\b[A-Za-z]\s*\(|\)\s*\(")
_FUNCTION = re.compile(r"a?(sin|cos|tan)h?|arc(sin|cos|tan)|sec|csc|cot|exp|log|ln|sqrt|pi|Abs")


def refusal(kind: str, answer: str) -> str:
    """Why ``answer`` to a problem of ``kind`` must not reach a scorer that evaluates it; empty if it may.

    The sandbox protects the machine, not the score: evaluated code could change the scorer that judges it.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return f"the answer has {len(answer):,} characters, more than {MAX_ANSWER_CHARS:,}"
    if kind in _EVALUATES_LISTS and "(" in answer:
        return "the answer contains '(', which no right answer does"
    if kind in _EVALUATES_ALGEBRA:
        forbidden = _NOT_ARITHMETIC if kind == "countdown" else _NOT_ALGEBRA
        if found := forbidden.search(answer):
            return f"the answer contains {found[0]!r}, which is not allowed in an expression"
        for word in re.findall(r"[A-Za-z]+", answer):
            # An Integral is unsolved, and other names from sympy could reach the scorer.
            if len(word) > 1 and not _FUNCTION.fullmatch(word):
                return f"the answer contains {word!r}, which is neither a variable nor a known function"
    return ""
