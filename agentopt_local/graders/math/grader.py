r"""The grader of MATH: mathematical equivalence of final answers.

The conventions, where several are possible:

* The answer is what the last ``\boxed{...}`` holds; without a box, what follows "answer is", or all of the text.
* Percent and degree signs, currency and nouns may be there or not, as in the data set's own normalisation: 50\% is 50
  and not 0.5. Two different units of measure are different answers. Within trigonometric functions degrees count.
* Values must be equal, not close: 0.5 is 1/2, 0.33 is not 1/3. Any form will do: factored, expanded, unreduced.
* ``x = 5`` is 5, and ``y = 2x + 3`` is 2x + 3; ``x = 5`` is not ``y = 5``. Equations may be rearranged and scaled.
* ``1, 2`` without brackets and ``\{1, 2\}`` have no order; ``(1, 2)`` has one, and is neither of these nor ``[1, 2]``.
  A bare list counts repeated values. Inequalities and the intervals they describe are the same.
* ``1101_2`` is neither 1101 nor 13; base ten may be left out.
* Words are compared without case, white space and punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agentopt_local.graders.answer import Answer, understand
from agentopt_local.graders.compare import Comparison
from agentopt_local.graders.evaluate import UnboundedError, UndefinedError
from agentopt_local.graders.extract import final_answer, has_box, last_box
from agentopt_local.graders.latex import UnparsableError
from agentopt_local.graders.vocabulary import canonical_text
from agentopt_local.grading import Grade, no_answer, quote

_STYLE = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,!;: ]|\\displaystyle|(?<!\d)[\s~]+|[\s~]+(?!\d)|\\q?quad")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")


def math(answer: str, expected: str) -> Grade:
    """Reward 1 if the final answers in the two texts are mathematically the same."""
    given, wanted = final_answer(answer), gold_answer(expected)
    if missing := no_answer(given):
        return missing
    if _squeezed(given) == _squeezed(wanted):
        return Grade(reward=1.0, reason="correct: the same text")
    shown = f"answered {quote(given)}; expected {quote(wanted)}"
    comparison = Comparison()
    problem = ""
    for left, right in _readings(wanted, given):
        if isinstance(left, str) or isinstance(right, str):
            which, why = ("", right) if isinstance(right, str) else ("expected ", left)
            problem = problem or f" (the {which}answer is not understood: {why})"
            continue
        try:
            if comparison.answers(left, right):
                return Grade(reward=1.0, reason=f"correct: {quote(given)} equals {quote(wanted)}")
        except (UnparsableError, UndefinedError) as error:
            problem = problem or f" ({error})"
        except RecursionError:
            return Grade(reward=0.0, reason=f"{shown} (the answer is nested too deeply)")
        except UnboundedError as error:
            return Grade(reward=0.0, reason=f"{shown} ({error})")
    if problem and _same_words(given, wanted):
        return Grade(reward=1.0, reason="correct: the same words")
    return Grade(reward=0.0, reason=f"{shown}{problem}")


def math_exact(answer: str, expected: str) -> Grade:
    """Reward 1 if the boxed texts are the same characters, a trailing ``.0`` apart: how the paper scored MATH."""
    given, wanted = final_answer(answer).strip(), gold_answer(expected).strip()
    if missing := no_answer(given):
        return missing
    if re.sub(r"^(-?\d+)\.0$", r"\1", given) == re.sub(r"^(-?\d+)\.0$", r"\1", wanted):
        return Grade(reward=1.0, reason="correct")
    return Grade(reward=0.0, reason=f"answered {quote(given)}; expected exactly {quote(wanted)}")


def gold_answer(text: str) -> str:
    """The expected answer: the last box of a solution, or the text."""
    return (last_box(text) or "") if has_box(text) else text.strip()


def _same_words(given: str, wanted: str) -> bool:
    left, right = (_TEXT.sub(r"\1", text) for text in (given, wanted))
    words = canonical_text(left)
    return "\\" not in left + right and bool(re.search("[a-z]{2}", words)) and words == canonical_text(right)


def _squeezed(text: str) -> str:
    text = _STYLE.sub("", text.strip()).strip("$").removesuffix(".")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _readings(wanted: str, given: str) -> Iterator[tuple[Answer | str, Answer | str]]:
    """The ways to read the two texts, the usual one first; text in place of an answer says what is wrong with it."""
    one, two = _read(wanted), _read(given)
    yield one, two
    if isinstance(one, str) or isinstance(two, str):
        return
    first = one, two
    # Without spaces, 100,200 may be a list where the other answer is one.
    if len(first[0].parts) != len(first[1].parts):
        for index, text in enumerate((wanted, given)):
            if re.search(r"\d,\d{3}", text):
                other = _read(text, thousands=False)
                yield (other, first[1]) if index == 0 else (first[0], other)
    # 5 m is a product, unless the other answer is a length.
    for index, text in enumerate((wanted, given)):
        if any(part.unit for part in first[1 - index].parts) and re.search(r"\d\s*[A-Za-z]{1,2}\b", text):
            other = _read(text, short_units=True)
            yield (other, first[1]) if index == 0 else (first[0], other)


def _read(text: str, *, thousands: bool = True, short_units: bool = False) -> Answer | str:
    try:
        return understand(text, thousands=thousands, short_units=short_units)
    except UnparsableError as error:
        return str(error)
