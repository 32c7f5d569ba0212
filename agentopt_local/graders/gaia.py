"""The graders of GAIA.

:func:`gaia` is the rule of the benchmark's leaderboard (Mialon et al., arXiv 2311.12983) to the letter; the grader of
that name applies it to an answer without the thoughts, tags, Markdown or box around it. If a number is expected, the
answer is read as one, without ``$``, ``%`` and commas. If a list is expected (the expected answer contains a comma or a
semicolon), its elements are compared in order, numbers as numbers and texts without white space and case. Any other
text is compared without white space, case and punctuation.

``gaia_lenient`` repairs that rule where it is known to be wrong:

* An answer that is not a number counts as infinity, and is right if infinity is expected; here it is wrong.
* ``1,234`` as an expected answer is a list of two; here it is a number.
* ``5 km`` is not a number; here words may follow a number.
* A space between a number in a list and its sign, or an article, makes an answer wrong; here neither matters, nor do
  accents, or full stops, quotation marks and brackets around an element.
* Thoughts, our tags, a box, Markdown and "Final answer:" are part of the answer; here they are not.
* ``4 P.M.`` and ``4:00 pm`` differ; here they do not.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Callable, Mapping

from agentopt_local.graders.clock import with_plain_times
from agentopt_local.graders.final_answer import final_answer, without_text_commands
from agentopt_local.graders.official import of_bare_answers
from agentopt_local.graders.stated_number import without_unit_powers
from agentopt_local.grading import Grade, Grader, no_answer, quote
from agentopt_local.unicode_form import normal_form

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_THOUSANDS = re.compile(r"[-+]?\$?\d{1,3}(,\d{3})+(\.\d+)?%?")


def gaia(answer: str, expected: str) -> Grade:
    """Reward 1 if ``answer`` is right by the leaderboard's rule."""
    if missing := no_answer(answer):
        return missing
    if is_number(expected):
        return _verdict(_number(answer) == float(expected), "as numbers", answer, expected)
    if re.search("[,;]", expected):
        return _lists(answer, expected, _same_element)
    right = _squeezed(answer).translate(_PUNCTUATION) == _squeezed(expected).translate(_PUNCTUATION)
    return _verdict(right, "as text", answer, expected)


def gaia_lenient(answer: str, expected: str) -> Grade:
    """Reward 1 if ``answer`` is right by the repaired rule; see the module's docstring."""
    if missing := no_answer(answer):
        return missing
    answer = without_text_commands(final_answer(answer))
    target = _loose_number(expected)
    if target is not None and not re.search("[,;]", _THOUSANDS.sub("", expected)):
        return _verdict(_loose_number(answer, words=True) == target, "as numbers", answer, expected)
    if re.search("[,;]", expected):
        return _lists(answer, expected, _same_loosely)
    return _verdict(_loose(answer) == _loose(expected), "as text", answer, expected)


def is_number(text: str) -> bool:
    """Whether the rule takes ``text`` for a number: whether Python can read it as one."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    try:
        return float(text.replace("$", "").replace("%", "").replace(",", ""))
    except ValueError:
        return math.inf


def _squeezed(text: str) -> str:
    return re.sub(r"\s", "", text).lower()


def _lists(answer: str, expected: str, same: Callable[[str, str], bool]) -> Grade:
    given, wanted = re.split("[,;]", answer), re.split("[,;]", expected)
    if len(given) != len(wanted):
        reason = f"answered {len(given)} elements, {quote(answer)}; expected {len(wanted)}, {quote(expected)}"
        return Grade(reward=0.0, reason=reason)
    for index, (one, other) in enumerate(zip(given, wanted, strict=True), start=1):
        if not same(one, other):
            reason = f"element {index} of the answer is {quote(one)}; expected {quote(other)} in {quote(expected)}"
            return Grade(reward=0.0, reason=reason)
    return Grade(reward=1.0, reason="correct: all elements of the list")


def _same_element(given: str, wanted: str) -> bool:
    if is_number(wanted):
        return _number(given) == float(wanted)
    return _squeezed(given) == _squeezed(wanted)


def _same_loosely(given: str, wanted: str) -> bool:
    target = _loose_number(wanted)
    if target is not None:
        return _loose_number(re.sub(r"^\s*and\s", "", given), words=True) == target
    return _loose(given) == _loose(wanted)


def _loose_number(text: str, *, words: bool = False) -> float | None:
    plain = re.sub(r"[$%,€£\s]|\b(?:USD|EUR|GBP)\b", "", without_unit_powers(text).replace("\u2212", "-")).rstrip(".")
    match = re.match(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,3})?", plain, re.IGNORECASE)
    if match is None or not (
        match.end() == len(plain) or (words and re.fullmatch(r"[^\d.\-+/*:]*", plain[match.end() :]))
    ):
        return None
    value = float(match[0])
    return value if math.isfinite(value) else None


def _loose(text: str) -> str:
    text = normal_form("NFKD", with_plain_times(text).casefold())
    text = re.sub(r"^and\s+|\b(?:the|an?)\s+", "", text.strip(" \"'()[]."))
    return re.sub(r"[\W_]", "", "".join(char for char in text if not unicodedata.combining(char)))


def _verdict(right: bool, how: str, answer: str, expected: str) -> Grade:
    if right:
        return Grade(reward=1.0, reason=f"correct: equal {how}")
    return Grade(reward=0.0, reason=f"answered {quote(answer)}; expected {quote(expected)}, compared {how}")


GRADERS: Mapping[str, Grader] = {"gaia": of_bare_answers(gaia), "gaia_lenient": gaia_lenient}
