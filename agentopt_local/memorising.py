"""Signs that a function holds answers of the problems that its author was shown, instead of computing them.

Each sign is a comparison with other problems of the same kinds, whose answers the author was not shown. Where answers
come from a small set, such as weekdays, an honest function names them all, and so matches the other answers as well.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from agentopt_local.functions import Function, FunctionSet
from agentopt_local.origins import Origin
from agentopt_local.problem import Problem
from agentopt_local.run.contribution import Memorising, Shares
from agentopt_local.statistics import fisher_test, holm
from agentopt_local.trajectory import Trajectory
from agentopt_local.unicode_form import normal_form

ALPHA = 0.05
"""Chance that one sign is seen in an honest function."""
LONG = 8
"""Characters from which a single match is a sign, if no other problem has one: shorter ones coincide."""
INSIDE = 4
"""Characters from which an answer counts inside a longer literal, and a literal inside a question."""
FEW = 3
"""Other problems from which they are a comparison."""
SHOWN_LITERALS = 4
"""Literals that a warning quotes."""
TRIVIAL = frozenset({"true", "false", "none", "null", "yes", "no", "nan", "inf", "-1", "10", "100", "1000"})
"""Answers and literals that say nothing, besides those of a single character."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII)
_NO_TEXT = re.compile(r"[\[({]|" + _NUMBER.pattern + r"\Z", re.ASCII)
_WORD = re.compile(r"[^\W_]+")


def memorising(
    functions: FunctionSet,
    origins: Mapping[str, Origin],
    problems: Sequence[Problem],
    rollouts: Iterable[Trajectory],
) -> tuple[Memorising, ...]:
    """The functions of a set that look memorised, with the signs.

    ``problems``: those whose answers are known, shown ones and others; ``rollouts``: of this set, on any problems. A
    function whose edits were shown nothing, or nobody knows what, is passed over.
    """
    by_problem = {each.problem_id: each for each in rollouts}
    found: list[Memorising] = []
    for function in functions.each():
        origin = origins[function.name]
        shown = [each for each in problems if each.id in origin.shown]
        if not shown or not origin.known:
            continue
        others = [each for each in problems if each.id not in origin.shown and origin.wrote_for(each)]
        texts = literals(function)
        answers, told = answer_sign(texts, shown, others)
        questions, asked = question_sign(texts, shown, others)
        used = {id_: each for id_, each in by_problem.items() if each.used(function.name)}
        found.append(
            Memorising(
                name=function.name,
                literals=tuple(dict.fromkeys((*told, *asked)))[:SHOWN_LITERALS],
                answers=answers,
                questions=questions,
                solved=shares(
                    [used[each.id].correct for each in shown if each.id in used],
                    [used[each.id].correct for each in others if each.id in used],
                ),
            )
        )
    adjusted = holm([each.solved.p_value if each.solved else 1.0 for each in found])
    checked = [
        each.model_copy(update={"solved": each.solved if p <= ALPHA else None})
        for each, p in zip(found, adjusted, strict=True)
    ]
    return tuple(each for each in checked if each.answers or each.questions or each.solved)


def shares(shown: Collection[bool], others: Collection[bool]) -> Shares:
    """How often something holds for shown and for other problems."""
    hits, other_hits = sum(shown), sum(others)
    p_value = fisher_test(hits, len(shown), other_hits, len(others))
    return Shares(shown=(hits, len(shown)), others=(other_hits, len(others)), p_value=p_value)


def answer_sign(
    texts: Collection[str], shown: Sequence[Problem], others: Sequence[Problem]
) -> tuple[Shares | None, list[str]]:
    """Whether literals equal more answers of shown problems than of others, and which."""

    def hit(problem: Problem) -> str | None:
        answer = plain(problem.answer)
        return answer if telling(answer) and holds(texts, answer) else None

    return sign([hit(each) for each in shown], [hit(each) for each in others])


def question_sign(
    texts: Collection[str], shown: Sequence[Problem], others: Sequence[Problem]
) -> tuple[Shares | None, list[str]]:
    """Whether literals stand in more questions of shown problems than of others, and which.

    Words that stand in most questions of these kinds, such as the task's own, are not counted, and nothing is said
    where there are too few others to know them.
    """
    if len(others) < FEW:
        return None, []
    asked = {each.id: padded(each.question) for each in (*shown, *others)}
    long = [text for text in texts if len(text) >= INSIDE and telling(text)]
    rare = [text for text in long if 2 * sum(inside(text, asked[each.id]) for each in others) <= len(others)]

    def hit(problem: Problem) -> str | None:
        return max((text for text in rare if inside(text, asked[problem.id])), key=len, default=None)

    return sign([hit(each) for each in shown], [hit(each) for each in others])


def sign(shown: Sequence[str | None], others: Sequence[str | None]) -> tuple[Shares | None, list[str]]:
    """The shares of problems with a match if they are a sign, and the distinct matches of shown problems.

    Matches must be two different ones and more frequent than among the other problems, or one long one that no other
    problem has. With too few others to compare with, half of the shown problems must match and no other one.
    """
    matches = list(dict.fromkeys(each for each in shown if each is not None))
    found = shares([each is not None for each in shown], [each is not None for each in others])
    alone = found.others[0] == 0
    if len(others) >= FEW:
        long = alone and any(len(each) >= LONG for each in matches)
        is_sign = long or (len(matches) > 1 and found.p_value <= ALPHA)
    else:
        is_sign = len(matches) > 1 and alone and 2 * found.shown[0] >= found.shown[1]
    return (found, matches) if is_sign else (None, [])


def literals(function: Function) -> frozenset[str]:
    """The literals of a function's source in plain form: constants, and whole lists, tuples, sets and dicts of them.

    Docstrings are left out: they speak about the problems, and nothing is computed from them.
    """
    tree = ast.parse(function.source)
    told = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    told |= {id(each.operand) for each in ast.walk(tree) if isinstance(each, ast.UnaryOp)}  # -5 is no 5
    found = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Set | ast.Dict | ast.UnaryOp)
            and id(node) not in told
        ):
            with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # not a literal throughout
                value = ast.literal_eval(node)
                if not isinstance(value, bool | bytes | complex | type(None) | type(...)):
                    found.add(plain(str(value)))
    return frozenset(each for each in found if telling(each))


def plain(text: str) -> str:
    """A text or number in a form in which equal answers are equal: ``1,200.0`` is ``1200``, ``"A  b"`` is ``a b``."""
    text = " ".join(normal_form("NFKC", text).casefold().split()).strip("\"'`$")
    number = text.replace(",", "")
    if _NUMBER.fullmatch(number) and len(number) < 300:
        value = float(number)
        if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
            return str(int(value))
        return repr(value) if abs(value) < 1e15 else number.lstrip("+")
    return text


def telling(text: str) -> bool:
    """Whether a literal that equals this answer says anything."""
    return len(text) > 1 and text not in TRIVIAL


def holds(texts: Collection[str], answer: str) -> bool:
    """Whether the answer is one of the literals or, if it is not too short, stands in a text as whole words.

    What stands in a list or dict is a literal of its own.
    """
    longer = (each for each in texts if len(each) > len(answer) >= INSIDE and not _NO_TEXT.match(each))
    return answer in texts or any(inside(answer, padded(each)) for each in longer)


def padded(text: str) -> str:
    """The words of a text, each between single spaces, for :func:`inside`."""
    return f" {' '.join(_WORD.findall(plain(text)))} "


def inside(text: str, words: str) -> bool:
    """Whether the words of ``text`` stand in the padded ``words``, one after another."""
    wanted = padded(text)
    return len(wanted) > 2 and wanted in words
