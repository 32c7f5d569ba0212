"""Graders: functions that judge an answer against the expected one.

Each takes ``(answer, expected)`` and returns a :class:`Grade`. The built-in ones run no text as code.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from pydantic import Field

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record
from agentopt_local.task import Problem, did_you_mean

MAX_NUMBER_CHARS = 200
"""Longer text is not read as a number; with ``MAX_EXPONENT`` it keeps ``1e999999999`` from filling the memory."""

MAX_EXPONENT = 400

_SHOWN_CHARS = 80
"""Longest piece of an answer that a reason quotes."""


class Grade(Record):
    """The judgement of one answer."""

    reward: float = Field(ge=0.0, le=1.0, allow_inf_nan=False)
    """From 0, wrong, to 1, right; some graders give partial credit between."""
    reason: str
    """Why, in words for the optimizer."""
    exact: bool | None = None
    """Whether the answer also has the expected one's characters, where a task reports that beside its own verdict."""

    @property
    def correct(self) -> bool:
        """Whether the reward is 1, up to rounding."""
        return self.reward >= 1.0 - 1e-9


Grader = Callable[[str, str], Any]
"""A grading function ``(answer, expected)``; it may return a bool, a float in [0, 1] or a Grade."""


def no_answer(answer: str | None) -> Grade | None:
    """The grade of a missing or blank answer; None if there is something to grade."""
    return Grade(reward=0.0, reason="no answer was given") if answer is None or not answer.strip() else None


def exact(answer: str, expected: str) -> Grade:
    """Reward 1 if the texts are equal but for white space at both ends."""
    return no_answer(answer) or _verdict(answer.strip() == expected.strip(), answer, expected)


def normalized(answer: str, expected: str) -> Grade:
    """Reward 1 if the texts are equal but for case, white space, one trailing period and Unicode form (NFKC)."""
    return no_answer(answer) or _verdict(_normalize(answer) == _normalize(expected), answer, expected)


def numeric(answer: str, expected: str) -> Grade:
    """Reward 1 if both texts are the same number: ``1,234.50``, ``3/4``, ``1 3/4``, ``-2e-3``, ``\\frac{3}{4}``.

    Two whole numbers must be equal. Otherwise a relative error is allowed, of 1e-9 if a whole number is expected
    and of 1e-6 if not. A currency sign, a percent sign and the expected answer's unit may be there or not: 50% is 50.
    An expected answer that is no number is compared as :func:`normalized` does.
    """
    if missing := no_answer(answer):
        return missing
    target, unit = parse_number(expected)
    if target is None:
        return normalized(answer, expected)
    value, given_unit = parse_number(answer)
    if value is None or given_unit not in ("", unit):
        return Grade(reward=0.0, reason=f"{quote(answer)} is not a number; expected {quote(expected)}")
    return _verdict(_same_number(value, target), answer, expected)


BUILT_IN: dict[str, Grader] = {"exact": exact, "normalized": normalized, "numeric": numeric}

BENCHMARKS = {
    "math": "agentopt_local.graders.math:math",
    "math_exact": "agentopt_local.graders.math:math_exact",
    "gsm8k": "agentopt_local.graders.gsm8k:gsm8k",
    "gaia": "agentopt_local.graders.gaia:gaia",
    "gaia_lenient": "agentopt_local.graders.gaia:gaia_lenient",
}
"""Graders of benchmarks by name, each with the place it is loaded from when it is named."""


def load_grader(name: str) -> Grader:
    """The grader called ``name``: a built-in one (``exact``, ``numeric``, ``math``, ...) or ``module:function``.

    Raises :class:`~agentopt_local.errors.ConfigError` if there is no such grader.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module_name, colon, attribute = BENCHMARKS.get(name, name).partition(":")
    if not colon:
        known = [*BUILT_IN, *BENCHMARKS]
        raise ConfigError(
            f"grader {name!r} is not known{did_you_mean(name, known)}. "
            f"Use one of: {', '.join(known)}; or 'module:function' for a function of your own"
        )
    if not module_name or not attribute:
        raise ConfigError(f"grader {name!r}: write it as 'module:function', such as 'my_graders:same_city'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's: importing it may raise anything
        raise ConfigError(
            f"grader {name!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}). "
            f"Install it, or start from the folder that holds it with PYTHONPATH=."
        ) from error
    grader = getattr(module, attribute, None)
    if grader is None:
        raise ConfigError(f"grader {name!r}: {module_name} has no {attribute!r}{did_you_mean(attribute, vars(module))}")
    if not callable(grader):
        raise ConfigError(f"grader {name!r}: {attribute!r} is a {type(grader).__name__}, not a function")
    result: Grader = grader
    return result


def apply_grader(name: str, grader: Grader, problem: Problem, answer: str | None) -> Grade:
    """Grade ``answer``. A missing or blank one has reward 0 and is not shown to ``grader``.

    Raises :class:`~agentopt_local.errors.ConfigError` if ``grader`` raises, or returns no bool, float in [0, 1] or
    Grade: a broken grader must stop the run, not pass for a wrong answer.
    """
    missing = no_answer(answer)
    if answer is None or missing is not None:
        return missing or Grade(reward=0.0, reason="no answer was given")
    try:
        result = grader(answer, problem.answer)
    except Exception as error:  # the grader is the user's: it may raise anything
        raise ConfigError(
            f"grader {name!r} raised {type(error).__name__}: {error} on problem {problem.id!r}, "
            f"answer {quote(answer)}. A grader must return a bool, a float or a Grade for every text"
        ) from error
    if isinstance(result, Grade):
        return result
    if isinstance(result, bool):
        return _verdict(result, answer, problem.answer)
    if inspect.iscoroutine(result):
        result.close()
    try:
        reward = float(result)
    except (TypeError, ValueError):
        reward = math.nan
    if not 0.0 <= reward <= 1.0 or isinstance(result, str):
        raise ConfigError(
            f"grader {name!r} returned {quote(repr(result))} on problem {problem.id!r}; "
            f"it must return a bool, a float from 0 to 1, or a Grade"
        )
    return Grade(reward=reward, reason=f"{quote(answer)} has reward {reward:g}; expected {quote(problem.answer)}")


def parse_number(text: str) -> tuple[Fraction | None, str]:
    """The number that ``text`` starts with and the unit after it, normalised; ``(None, "")`` if it is no number."""
    if len(text) > MAX_NUMBER_CHARS:
        return None, ""
    text = _normalize(re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)).replace("⁄", "/")
    text = re.sub(r"^\$(.*)\$$|^\\\((.*)\\\)$", lambda match: match[1] or match[2] or "", text)
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1/\2", text).replace("\\", "").strip()
    text = re.sub(r"^([+-]?)\s*[$€£¥]\s*", r"\1", text)
    sign = -1 if text.startswith("-") else 1
    text = re.sub(r"^[+-]\s*", "", text)
    whole = re.match(r"(\d+)\s+(?=\d+\s*/\s*\d)", text)
    if whole is not None:
        text = text[whole.end() :]
    match = _NUMBER.match(text)
    if match is None:
        return None, ""
    value, rest = _fraction(match[0]), text[match.end() :].strip()
    if value is not None and (over := re.match(r"/\s*", rest)):
        match = _NUMBER.match(rest, over.end())
        denominator = _fraction(match[0]) if match else None
        value = value / denominator if denominator else None
        rest = rest[match.end() :].strip() if match else rest
    if value is None or re.match(r"[\d.,/^*+=-]", rest):
        return None, ""
    value += int(whole[1]) if whole else 0
    return sign * value, "" if rest == "%" else rest


_NUMBER = re.compile(r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:e[+-]?\d{1,4}(?!\d))?", re.ASCII)

_POWERS = str.maketrans({char: f"^{digit}" for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})


def _fraction(text: str) -> Fraction | None:
    mantissa, _, exponent = text.replace(",", "").partition("e")
    if abs(int(exponent or 0)) > MAX_EXPONENT:
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _same_number(value: Fraction, target: Fraction) -> bool:
    if value == target:
        return True
    if value.denominator == target.denominator == 1:
        return False
    tolerance = Fraction(1, 10**9) if target.denominator == 1 else Fraction(1, 10**6)
    return abs(value - target) <= tolerance * max(abs(target), Fraction(1, 1000))


def _normalize(text: str) -> str:
    # Without the powers' own sign, NFKC would make 52 of 5².
    text = unicodedata.normalize("NFKC", text.translate(_POWERS)).replace("\u2212", "-").casefold()
    return " ".join(text.split()).removesuffix(".").rstrip()


def _verdict(right: bool, answer: str, expected: str) -> Grade:
    if right:
        return Grade(reward=1.0, reason="correct")
    return Grade(reward=0.0, reason=f"answered {quote(answer)}; expected {quote(expected)}")


def quote(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…")
