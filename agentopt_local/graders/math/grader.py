r"""The graders of MATH: mathematical equivalence of final answers, and equality of their characters.

``math`` follows these conventions:

* Thoughts do not count. The answer is what the last ``<answer>`` holds, or else all of the text; of that, the content
  of the last ``\boxed{...}``; without a box, what follows "answer is", or all of it. Markdown around it is dropped.
* Percent and degree signs, currency signs and nouns are optional, as in the data set's own normalization: 50\% is 50,
  not 0.5. Two different units of measure are different answers. Inside trigonometric functions, degrees matter.
* Values must be equal, not close: 0.5 is 1/2, but 0.33 is not 1/3. Any form is accepted: factored, expanded, unreduced.
* ``x = 5`` is 5, and ``y = 2x + 3`` is 2x + 3; ``x = 5`` is not ``y = 5``. Equations may be rearranged and scaled.
* The order of ``1, 2`` without brackets and of ``\{1, 2\}`` does not matter; that of ``(1, 2)`` does, which equals
  neither of them nor ``[1, 2]``. In a list without brackets, repeated values count. An inequality equals the interval
  that it describes.
* ``1101_2`` is neither 1101 nor 13; base ten is optional.
* Words are compared without case, white space and punctuation. Of a sentence, what it says counts: "There are 460
  ways" is 460.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agentopt_local.boxed import has_box, last_box
from agentopt_local.graders.final_answer import final_answer
from agentopt_local.graders.math.answer_parser import Answer, parse_answer
from agentopt_local.graders.math.equivalence import Equivalence
from agentopt_local.graders.math.failures import UnboundedError, UndefinedError, UnparsableError
from agentopt_local.graders.math.sentences import conclusion
from agentopt_local.graders.math.words import canonical_text
from agentopt_local.grading import Grade, no_answer, quote
from agentopt_local.wrapping import spoken

_STYLE = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,!;: ]|\\displaystyle|(?<!\d)[\s~]+|[\s~]+(?!\d)|\\q?quad")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")


def math(answer: str, expected: str) -> Grade:
    """Reward 1 if the final answers in the two texts are mathematically equivalent."""
    given, wanted = final_answer(answer), _gold_answer(expected)
    if missing := no_answer(given):
        return missing
    if _squeezed(given) == _squeezed(wanted):
        return Grade(reward=1.0, reason="correct: the same text")
    shown = f"answered {quote(given)}; expected {quote(wanted)}"
    equivalence = Equivalence()
    problem = ""
    for left, right in _readings(wanted, given):
        if isinstance(left, str) or isinstance(right, str):
            which, why = ("", right) if isinstance(right, str) else ("expected ", left)
            problem = problem or f" (the {which}answer is not understood: {why})"
            continue
        try:
            if equivalence.answers(left, right):
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
    """Reward 1 if the boxed texts are equal up to a trailing ``.0``, as in the paper's scoring of MATH."""
    text = spoken(answer)
    given = (_gold_answer(text) if has_box(text) else final_answer(text)).strip()
    wanted = _gold_answer(expected).strip()
    if missing := no_answer(given):
        return missing
    if re.sub(r"^(-?\d+)\.0$", r"\1", given) == re.sub(r"^(-?\d+)\.0$", r"\1", wanted):
        return Grade(reward=1.0, reason="correct")
    return Grade(reward=0.0, reason=f"answered {quote(given)}; expected exactly {quote(wanted)}")


def _gold_answer(text: str) -> str:
    """The expected answer: the last box of a solution, or all of the text if it has no box."""
    return (last_box(text, "solution") or "") if has_box(text) else text.strip()


def _same_words(given: str, wanted: str) -> bool:
    left, right = (_TEXT.sub(r"\1", text) for text in (given, wanted))
    words = canonical_text(left)
    return "\\" not in left + right and bool(re.search("[a-z]{2}", words)) and words == canonical_text(right)


def _squeezed(text: str) -> str:
    text = _STYLE.sub("", text.strip()).strip("$").removesuffix(".")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _readings(wanted: str, given: str) -> Iterator[tuple[Answer | str, Answer | str]]:
    """The ways to read the two texts, the usual one first. A string in place of an answer says why it is unreadable."""
    one, two = _read(wanted), _read(given)
    yield one, two
    if (said := conclusion(given)) is not None:
        yield one, _read(said)
    if isinstance(one, str) or isinstance(two, str):
        return
    first = one, two
    # 100,200 without a space may be a list if the other answer is one.
    if len(first[0].parts) != len(first[1].parts):
        for index, text in enumerate((wanted, given)):
            if re.search(r"\d,\d{3}", text):
                other = _read(text, thousands=False)
                yield (other, first[1]) if index == 0 else (first[0], other)
    # 5 m is a product unless the other answer has a unit.
    for index, text in enumerate((wanted, given)):
        if any(part.unit for part in first[1 - index].parts) and re.search(r"\d\s*[A-Za-z]{1,2}(?![A-Za-z])", text):
            other = _read(text, short_units=True)
            yield (other, first[1]) if index == 0 else (first[0], other)


def _read(text: str, *, thousands: bool = True, short_units: bool = False) -> Answer | str:
    try:
        return parse_answer(text, thousands=thousands, short_units=short_units)
    except UnparsableError as error:
        return str(error)
    except RecursionError:
        return "it is nested too deeply"
