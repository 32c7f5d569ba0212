"""Finding the final answer in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agentopt_local.boxed import has_box, last_box
from agentopt_local.wrapping import spoken, unwrapped, without_loose_end

MAX_CHARS = 100_000
"""Only this much of the end of a text is read."""

MAX_NESTED_CHARS = 1000
"""Of a longer text, only one layer of text commands is taken off: each takes time for all of the text."""

# Every gap is bounded: what follows a mark is searched once for each place where the mark may end.
_GAP = r"\s{1,5}"
_SIGN = r"[*_`]{0,3}"
_COPULA = rf"{_SIGN}{_GAP}(?:is|are|was|equals|(?:would|should|must|will){_GAP}be)\b"
_ANSWER = (
    rf"(?<![^\W_])(?<!is the )(?<!as the )(?<!is my )final{_GAP}answer(?![^\W_])"
    rf"(?:{_COPULA}|{_SIGN}[ ]{{1,5}}(?:[-–—]|[-=]>|→)(?=\s))?"
    rf"|(?<![^\W_])answer(?:{_COPULA}|\s{{0,5}}{_SIGN}\s{{0,5}}(?=[:=]))"
    rf"|^[#>*_ \t]{{0,8}}answer{_SIGN}[ \t]{{0,5}}$|\#\#\#\#"
)
_SUM = rf"(?<![^\W_])(?:total|result)(?:{_COPULA}|{_SIGN}\s{{0,5}}(?=[:=]))"
# After the mark may come a colon and the end of the bold print around it.
_AFTER = (
    r"[ \t]{0,5}(?:[-=]>|[:=→])?(?:[*_`]{1,3}(?=\s|:)[ \t]{0,5}[:=]?)?[ \t]{0,5}"
    r"(?:,?[ \t]?(?:therefore|thus|then|hence|simply|indeed|clearly)\b[,:]?[ \t]{0,5})?"
)
_MARKER = re.compile(rf"(?:{_ANSWER}){_AFTER}", re.IGNORECASE | re.MULTILINE)
_MARKER_OR_SUM = re.compile(rf"(?:{_ANSWER}|{_SUM}){_AFTER}", re.IGNORECASE | re.MULTILINE)

_REMARK = re.compile(
    r"(?:also\s)?(?:correct|right|verified|confirmed|consistent|as follows|reasonable|valid)\b", re.IGNORECASE
)

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|emph)\s*\{([^{}]*)\}")
_SENTENCE = re.compile(r"[A-Za-z]{2}\s+[A-Za-z]{2}")
_LAST_FORMULA = re.compile(r"\$([^$]{1,400})\$[\s.]*\Z|\\\(([^()]{1,400})\\\)[\s.]*\Z")
_DISPLAYED = re.compile(r"\A(?:\$\$(.+?)\$\$|\\\[(.+?)\\\]|```[\w+-]*\n(.+?)```)", re.DOTALL)
_REASON = r",?[ \t](?:because|since|as[ \t](?:the|we|it|there))\b|,[ \t](?:which|where)\b"
_END_OF_STATEMENT = re.compile(rf"(?<=[\w$)}}\]*_`])\.\s+(?=[A-Z])|{_REASON}")


def final_answer(text: str) -> str:
    """The content of the last ``<answer>`` or else of all of the text, without thoughts; of that, of the last box.

    Without a box: what follows "answer is" or "####"; failing that, the formula that ends a sentence; failing that, all
    of the text. Markdown around the answer or the mark is taken off. Empty if the last box is empty or not closed. Only
    the last ``MAX_CHARS`` characters are read.
    """
    text = spoken(text)[-MAX_CHARS:]
    if has_box(text):
        box = last_box(text, "solution") or ""
        return final_answer(box) if has_box(box) else _of_sentence(unwrapped(box))
    said = ""
    for statement in statements(text):  # of "answer: 12. The answer is correct", the first
        said = said or statement
        if not _REMARK.match(statement):
            return statement
    if said:
        return said
    text = unwrapped(text)
    if _SENTENCE.search(text.split("$", 1)[0]) and (found := _LAST_FORMULA.search(text)):
        return (found[1] or found[2]).strip()
    return text


def statements(text: str, *, sums: bool = False) -> Iterator[str]:
    """What follows "answer is", "answer:" or "####", the last one first; never empty.

    ``sums``: also what follows "total is" or "result =".
    """
    end = len(text)
    for marker in reversed(list((_MARKER_OR_SUM if sums else _MARKER).finditer(text))):
        line = _first_line(text[marker.end() : end].strip())
        end = marker.start()
        if line.strip(" .,;:!*_"):
            yield line


def without_text_commands(text: str) -> str:
    r"""``text`` with what is in ``\text{...}`` and its like as it is."""
    while (inner := _TEXT.sub(r"\1", text)) != text and len(inner) < MAX_NESTED_CHARS:
        text = inner
    return inner


def _of_sentence(box: str) -> str:
    r"""The answer in a box that holds a sentence: ``460`` of ``\text{The answer is 460}``."""
    return (
        next(statements(re.sub(r"(?<!\\)\\[ ,;~]|~", " ", without_text_commands(box))), box) if "nswer" in box else box
    )


def _first_line(rest: str) -> str:
    """The formula that ``rest`` starts with, or its first line up to the end of its first sentence."""
    if displayed := _DISPLAYED.match(rest):
        return unwrapped(displayed[1] or displayed[2] or displayed[3])
    line = _END_OF_STATEMENT.split(rest.split("\n", 1)[0], maxsplit=1)[0].strip()
    return unwrapped(without_loose_end(line))
