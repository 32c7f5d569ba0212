r"""What may stand around an answer: our tags, Markdown, the marks of a formula, a box."""

from __future__ import annotations

import re
from itertools import zip_longest

from agentopt_local.boxed import last_box, whole_box, whole_group
from agentopt_local.thoughts import without_thoughts

MAX_LAYERS = 10
"""Most wrappings that are taken off: a bound for boxes in boxes."""

_TAG = re.compile(
    r"<\s{0,2}(?P<closing>/?)\s{0,2}(?:final[_ ]?)?answer\s{0,2}(?: \w{1,20}=[^<>\n]{0,40})?>", re.IGNORECASE
)
_CUT_TAG = re.compile(r"</\s?\w{0,13}\Z")
_PLACEHOLDER = re.compile(r"(?:\b(?:your|the|my|final|answer|here|goes)\b|[\W_])*+\Z", re.IGNORECASE)
_MENTION = re.compile(r"\s*(?:tags?\b|[`'\"])")
_LABEL = re.compile(
    r"[\W_]{0,8}(?:\d{1,2}[.)]\s[\W_]{0,4})?(?:final[ _]{1,5})?answer[*_`]{0,3}\s{0,5}:[*_`]{0,3}\s{1,20}",
    re.IGNORECASE,
)
_LOOSE_END = re.compile(r"(\*{1,3}|_{2,3}|`)([.!]?)\Z")
_LOOSE_START = re.compile(r"\*{2,3}(?=[^\s*])|</(?:b|strong)>\s{0,5}")
_EMPHASIS = re.compile(r"\\(?:textbf|textit|emph|mathbf|boldsymbol|bm|underline)\s*(?=\{)")
_FENCE = re.compile(r"\A```[\w+-]*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_PAIRS = (("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"),
          ("\\[", "\\]"), ("<b>", "</b>"), ("<strong>", "</strong>"), ("<u>", "</u>"), ("<em>", "</em>"),
          ("<i>", "</i>"), ("<p>", "</p>"), ("<code>", "</code>"), ("==", "=="))  # fmt: skip
_OPENINGS = frozenset("*_`$\\<=")
# Bold text has no word at its outer sides, unlike the powers of 2**3**4.
_BOLD = re.compile(r"(?<![\w*)\]}])\*\*(?=[^\s*])([^*\n]++)(?<=\S)\*\*(?![\w*({\[])")
_FULL_STOP = re.compile(r"(?<=[*_`$)\]}])\s*\.\Z")


def tagged(text: str) -> str | None:
    """The last ``<answer>`` that holds something, if any does more than "your answer"; empty if none holds anything,
    None if there is none.

    A tag that the end of the text cut off counts. One that is only mentioned does not: "in <answer> tags".
    """
    marks = list(_TAG.finditer(text))
    found = [
        _CUT_TAG.sub("", text[mark.end() : following.start() if following else len(text)]).strip()
        for mark, following in zip_longest(marks, marks[1:])
        if not (mark["closing"] or _mentioned(text, mark, closed=bool(following and following["closing"])))
    ]
    contents = [content for content in found if content]
    stated = [content for content in contents if not _PLACEHOLDER.match(content)]
    return (stated or contents or [""])[-1] if found else None


def bare_answer(answer: str, expected: str) -> str:
    """``answer`` without what :func:`unwrapped_for` takes off, and without an "Answer:" before it."""
    text = answer_for(expected, answer)
    return unwrapped_for(expected, unlabelled(text) if unlabelled(expected) == expected else text)


def unwrapped_for(expected: str, answer: str) -> str:
    """``answer`` without what :func:`answer_for` and :func:`unwrapped` take off, unless the like is expected."""
    text = answer_for(expected, answer)
    return unwrapped(text) if unwrapped(expected) == expected.strip() else text


def answer_for(expected: str, text: str) -> str:
    """The answer that ``text`` gives as an agent's turn gives it: in tags, in its last box, or else all of it."""
    text = spoken_for(expected, text)
    box = last_box(text, "turn") if last_box(expected, "turn") is None else None
    return text if box is None else box


def spoken_for(expected: str, text: str) -> str:
    """What ``text`` says as its answer (see :func:`spoken`), unless tags or thoughts are expected in it."""
    return text if spoken(expected) != expected else spoken(text)


def unlabelled(text: str) -> str:
    """``text`` without an "Answer:" or "Final answer:" that it begins with."""
    label = _LABEL.match(text)
    return without_loose_end(text[label.end() :]) if label else text


def without_loose_end(text: str) -> str:
    """``text`` without a mark at an end of it that belongs to bold print begun before it or ended after it."""
    loose = _LOOSE_END.search(text)
    if loose and loose[1] not in text[: loose.start()]:
        return text[: loose.start()] + loose[2]
    start = _LOOSE_START.match(text)
    return text[start.end() :] if start and start[0] not in text[start.end() :] else text


def _mentioned(text: str, mark: re.Match[str], *, closed: bool) -> bool:
    quoted = text.startswith("`", max(0, mark.start() - 1)) and text.startswith("`", mark.end())
    return quoted or (not closed and _MENTION.match(text, mark.end()) is not None)


def untagged(text: str) -> str:
    """``text`` without its ``<answer>`` and what is in it."""
    kept, start, inside = [], 0, False
    for mark in _TAG.finditer(text):
        if not inside:
            kept.append(text[start : mark.start()])
        inside, start = not mark["closing"], mark.end()
    return "".join([*kept, "" if inside else text[start:]]).strip()


def spoken(text: str) -> str:
    """What a text says as its answer: without thoughts, and if it has an ``<answer>``, what is in that."""
    text = without_thoughts(text)
    answer = tagged(text)
    return text if answer is None else answer


def unwrapped(text: str) -> str:
    """``text`` without the Markdown, marks of a formula and boxes that are around all of it, and without bold print."""
    text = text.strip()
    for _ in range(MAX_LAYERS):
        inner = _inside(text)
        if inner is None:
            break
        text = inner.strip()
    return _BOLD.sub(r"\1", text)


def _inside(text: str) -> str | None:
    """What is inside the outermost wrapping; None if there is none around all of ``text``."""
    if text[:1] not in _OPENINGS:
        return None
    text = _FULL_STOP.sub("", text)
    content = whole_box(text)
    if content is None and (emphasis := _EMPHASIS.match(text)):
        content = whole_group(text, emphasis.end())
    if content is not None:
        return content
    if fence := _FENCE.match(text):
        return None if "```" in fence[1] else fence[1]
    for opening, closing in _PAIRS:
        content = text[len(opening) : -len(closing)]
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            spaced = opening[0] in "*_" and content != content.strip()
            return None if spaced or opening in content or closing in content else content
    return None
