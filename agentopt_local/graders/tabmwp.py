"""The graders of TabMWP.

``tabmwp`` follows the rule of the data set's authors (Lu et al., arXiv 2209.14610, the evaluation of PromptPG), so that
accuracies are comparable to published ones. In short: an option is chosen by its letter, or else by the words that it
shares with the answer. A number is taken from phrases such as "the answer is". A leading dollar sign, commas and the
row's unit are removed from both sides, fractions and decimals are rounded to three places, and the texts must be equal.

``tabmwp_lenient`` repairs that rule where it is known to be wrong:

* An answer that shares nothing with any option counts as the first option; here it counts as none.
* "The answer is Brenda" is taken for option B; here only a letter that stands alone names an option.
* Options are case-sensitive, so "No" is taken for the first option instead of "no"; here case does not matter.
* ``-$3`` and ``50 %`` are not numbers, and ``1/0`` makes the authors' program crash; here a minus sign may come before
  or after a currency sign, and percent signs are ignored.
* It looks for "the answer is" in any text, but not for our tags or a box; here these come first. Thoughts and Markdown
  are part of the answer; here they are not.
* ``4:15 PM`` shares one word with each of ``4:15 P.M.`` and ``4:15 A.M.``; here times are compared by what they say.
* Both sides are rounded to three places, so 0.3334 is 1/3; here a decimal answer may be rounded to two or more places
  and must be right in every place that it shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from agentopt_local.graders.clock import with_plain_times
from agentopt_local.graders.final_answer import final_answer, without_text_commands
from agentopt_local.graders.numbers import parse_number
from agentopt_local.graders.official import of_bare_answers
from agentopt_local.graders.stated_number import without_unit_powers
from agentopt_local.grading import Grade, no_answer, quote

MAX_CHARS = 20_000
"""A longer answer is wrong: the rule's regular expressions are meant for a line of text."""

_UNDENIED = r"(?<!not )(?<!no )(?<!not an )(?<!not a )(?<!not the )(?<!n't )(?<!non-)"
_DENIED = re.compile(r"\b(?:not|non|neither|nor|no(?= \w))\b|n't\b")
_LETTERS = "ABCDEF"
_NUMBER = re.compile(r"[-+]?[\d,./]+")
_OPTION_FORMS = (
    re.compile(r"\(([A-Za-z])\)"),
    re.compile(r"([A-Za-z])"),
    re.compile(r"([A-Za-z]). .*", re.DOTALL),
    re.compile(r".*?[Th]he answer is ([A-Z]).*", re.DOTALL),
    re.compile(r"\(([A-Za-z])\) .+", re.DOTALL),
    re.compile(r".*?[Th]he answer is \(([A-Za-z])\) .+", re.DOTALL),
)
_SIGNS = r"[\d$.,/:]"
_NUMBER_FORMS = (
    re.compile(r"[Th]he answer is (.+)", re.DOTALL),
    re.compile(rf"[Th]he table shows that ({_SIGNS}+) "),
    re.compile(rf" = ({_SIGNS}+)"),
    re.compile(r"(?<= be| is) ([-\d$.,/:]+)"),
    re.compile(r"(?<= are| was) ([-\d$.,/:]+)"),
    re.compile(r"(?<= were) ([-\d$.,/:]+)"),
    re.compile(rf" ({_SIGNS}+ [AP]\.M\.)"),
    re.compile(r"([-\d$.,/:]+)"),
)
_NO_DIGITS = "-$.,/:"
_ENDS_WITH_DIGIT = (3, 4, 5, 7)
"""The forms, by index, whose number ends at its last digit."""


def tabmwp(answer: str, expected: str, *, unit: str | None = None, choices: Sequence[str] | None = None) -> Grade:
    """Reward 1 if ``answer`` is right by the authors' rule, given the row's ``unit`` and ``choices``."""
    if missing := no_answer(answer):
        return missing
    if len(answer) > MAX_CHARS:
        return Grade(reward=0.0, reason=f"the answer is longer than {MAX_CHARS} characters")
    taken = extract(answer, choices)
    given, wanted = normalize(taken, unit), normalize(expected, unit)
    return _verdict(given.lower() == wanted.lower(), taken, expected)


tabmwp_bare = of_bare_answers(tabmwp)
"""The authors' rule for an answer without what stands around it."""


def tabmwp_lenient(
    answer: str, expected: str, *, unit: str | None = None, choices: Sequence[str] | None = None
) -> Grade:
    """Reward 1 if ``answer`` is right by the repaired rule; see the module's docstring."""
    if missing := no_answer(answer):
        return missing
    if len(answer) > MAX_CHARS:
        return Grade(reward=0.0, reason=f"the answer is longer than {MAX_CHARS} characters")
    text = without_text_commands(final_answer(answer)).strip()
    if missing := no_answer(text):
        return missing
    if choices:
        option = nearest_option(text, choices)
        return _verdict(option is not None and _folded(option) == _folded(expected), option or text, expected)
    target = _number(expected, unit)
    if target is None:
        return _verdict(_folded(_without(text, unit)) == _folded(_without(expected, unit)), text, expected)
    value = _number(text, unit)
    if value is None:
        shown = without_unit_powers(text)
        found = [cut for hit in _NUMBER_FORMS[-1].findall(shown) if (cut := hit.rstrip(_NO_DIGITS))]
        text = found[-1] if found else text
        value = _number(text, unit)
    places = text.strip(" .").rpartition(".")[2] if "." in text else ""
    digits = len(re.sub(r"\D", "", places))
    rounded = (
        value is not None and digits >= 2 and "/" not in text and abs(value - target) * 2 <= Fraction(1, 10**digits)
    )
    return _verdict(value == target or ((rounded and target.denominator > 10_000) or _close(value, target, rounded)),
                    text, expected)  # fmt: skip


def _close(value: Fraction | None, target: Fraction, rounded: bool) -> bool:
    """Whether a rounded decimal is right: only if the exact value, such as 1/3, is not a finite decimal."""
    denominator = target.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return value is not None and rounded and denominator != 1


def extract(answer: str, choices: Sequence[str] | None) -> str:
    """The part of ``answer`` that the authors' rule takes for the answer."""
    text = re.sub(r"\$?\\frac\{([\d.,-]+)\}\{([\d.,]+)\}\$?", r"\1/\2", answer)
    text = re.sub(r"(?<![AP]\.M)\.$", "", text)
    text = re.sub(r"(?<=\d)=(?=[-$\d])", " = ", text).replace("\u2212", "-")
    if choices:
        for form in _OPTION_FORMS:
            if found := form.fullmatch(text):
                index = _LETTERS.find(found[1].upper())
                if index >= 0:
                    # For a letter past the last option the rule draws one at random; the last one is repeatable.
                    return choices[min(index, len(choices) - 1)]
        return max(choices, key=lambda option: _similarity(option, text))
    for index, form in enumerate(_NUMBER_FORMS):
        hits = form.findall(text)
        if index in _ENDS_WITH_DIGIT:
            hits = [cut for hit in hits if (cut := hit.rstrip(_NO_DIGITS))]
        if hits:
            taken = str(hits[-1]).strip()
            return taken[:-1] if taken.endswith(".") and ".M." not in taken else taken
    return text


def normalize(text: str, unit: str | None) -> str:
    """A number without commas, rounded to three places; other text without the unit."""
    text = re.sub(r"[,./]$", "", re.sub(r"^\$", "", text))
    if _NUMBER.fullmatch(text) is None:
        return text.replace(unit, "").strip() if unit else text
    plain = text.replace(",", "")
    try:
        if re.fullmatch(r"[-+]?\d+", plain):
            return str(int(plain))
        top, slash, bottom = plain.partition("/")
        value = float(top) / float(bottom.partition("/")[0]) if slash else float(plain)
        return re.sub(r"\.0+$", "", str(round(value, 3)))
    except (ValueError, ZeroDivisionError, OverflowError):
        return text  # the authors' program crashes here


def nearest_option(text: str, choices: Sequence[str]) -> str | None:
    """The option that ``text`` names by its letter or its words; None if it names none, or several equally well."""
    folded = [_folded(choice) for choice in choices]
    whole = _folded(text)
    if whole in folded:
        return choices[folded.index(whole)]
    letter = re.fullmatch(r"(?:(?i:option|choice))?\s*\(?([A-Fa-f])\)?[.:]?(?:\s+(.*))?", text.strip(), re.DOTALL)
    index = _LETTERS.index(letter[1].upper()) if letter else 0
    if letter and (letter[2] is None or _folded(letter[2]) in folded[index : index + 1]):
        return choices[index] if index < len(choices) else None
    inside = [choice for choice, option in zip(choices, folded, strict=True)
              if re.search(rf"(?<!\w){_UNDENIED}{re.escape(option)}(?!\w)", whole)]  # fmt: skip
    inside = [option for option in inside if not any(option != o and _folded(option) in _folded(o) for o in inside)]
    if inside:
        return inside[0] if len(inside) == 1 else None
    if _DENIED.search(whole):
        return None
    figures = _figures(whole)  # 5:15 pm is not the option 4:15 pm, however many words they share
    scores = [_similarity(option, whole) if _figures(option) <= figures else 0.0 for option in folded]
    best = max(scores)
    return choices[scores.index(best)] if best > 0 and scores.count(best) == 1 else None


def _similarity(one: str, other: str) -> float:
    """Shared words divided by the words of the longer text; 2 for equal texts."""
    if one == other:
        return 2.0
    left, right = one.split(" "), other.split(" ")
    if len(left) == len(right) == 1:
        return 0.0
    return len(set(left) & set(right)) / max(len(left), len(right))


def _figures(text: str) -> set[str]:
    return {word for word in text.split() if any(char.isdigit() for char in word)}


def _folded(text: str) -> str:
    return " ".join(with_plain_times(text).casefold().replace("\u2212", "-").split()).strip(" .$\"'")


def _without(text: str, unit: str | None) -> str:
    return text.replace(unit, "").strip() if unit else text


def _number(text: str, unit: str | None) -> Fraction | None:
    text = text.replace("\u2212", "-").replace("%", "").strip()
    if unit:
        text = re.sub(rf"(?<!\s)\s*{re.escape(unit)}\s*\.?$", "", text).lstrip()
    text = re.sub(r"^(-?)\s*\\?\$\s*(-?)", r"\1\2", text).rstrip(" .$")
    value, rest = parse_number(text)
    return value if not rest or not re.search(r"\d", rest) else None


def _verdict(right: bool, given: str, expected: str) -> Grade:
    if right:
        return Grade(reward=1.0, reason=f"correct: {quote(given)}")
    return Grade(reward=0.0, reason=f"answered {quote(given)}; expected {quote(expected)}")
