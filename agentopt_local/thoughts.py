"""Thoughts in the text of a reply: told apart from what the model says."""

from __future__ import annotations

import re

from agentopt_local.json_text import NotJsonError, read_json

THOUGHT_MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""What opens and closes a thought in the chat templates of families that think."""
_TAG = (
    r"(?:\w{1,20}:)?(?:think|(?:ant)?thinking|(?:internal_|inner_)?thoughts?|inner_monologue|chain_of_thought|cot"
    r"|reasoning|reflection|scratchpad|longcat_think)"
)
_KINDS = (
    (rf"<{_TAG}\s*>", rf"</{_TAG}\s*>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"<\|channel>thought\b", r"<channel\|>"),
    (
        r"<\|channel\|>(?:analysis|commentary)(?![^<\n]{0,200} to=)[^<\n]{0,200}<\|message\|>",
        r"<\|end\|>(?:<\|start\|>assistant)?(?:<\|channel\|>final[^<\n]{0,200}<\|message\|>)?"
        r"|<\|channel\|>final[^<\n]{0,200}<\|message\|>",
    ),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"◁think▷", r"◁/think▷"),
    (r"<unused94>thought\b", r"<unused95>"),
)
"""As ``THOUGHT_MARKS``, and what models are trained or asked to write beside their template."""
_MARK = re.compile("|".join(f"(?P<o{i}>{a})|(?P<c{i}>{b})" for i, (a, b) in enumerate(_KINDS)), re.IGNORECASE)
_ENDS_MORE = "c3"
"""gpt-oss ends every message so: alone, it does not say that there was a thought."""
_END_OF_TURN = re.compile(r"<\|(?:im_end|return|end|endoftext|eot_id|end_of_text)\|>|</s>|<end_of_turn>")
_QUOTES = "\"'`"
_OBJECT = re.compile(r"(?:^[^\S\n]*|<tool_call>\s*)(?=\{)", re.MULTILINE)
_INDENT = 40
"""Most white space before a mark that begins a line."""
_SENTENCE = re.compile(r"[^\S\n][a-z]|[.,:;?!)]")
_READ_TWICE = 4
"""See :mod:`~agentopt_local.tool_calls`."""


def split_thought(text: str, *, cut: bool = False, begun: bool = True) -> tuple[str, str]:
    """The thoughts in a reply, and what it says beside them. Takes linear time; no text raises.

    ``begun``: the prompt may have opened a thought, as many chat templates do; then everything up to the first closing
    mark is one. If the closing mark is missing, the rest of the reply is a thought, provided that the opening mark
    begins a line and that the reply was ``cut`` or the line does not go on as a sentence about the mark. Marks in
    quotes, and in the JSON of a call, are text.
    """
    marks = _real_marks(text)
    if not marks:
        return "", text
    last = {mark.lastgroup: number for number, mark in enumerate(marks)}
    thoughts: list[str] = []
    spoken: list[str] = []
    at = number = 0
    while number < len(marks):
        mark = marks[number]
        kind = str(mark.lastgroup)
        number += 1
        if kind[0] == "c":
            if (kind == _ENDS_MORE and "final" not in mark[0]) or not (begun or thoughts):
                continue
            # After a thought, a closing mark that closes nothing is a slip.
            (spoken if thoughts else thoughts).append(text[at : mark.start()])
            at = mark.end()
            continue
        close = f"c{kind[1:]}"
        if last.get(close, -1) < number:
            if not _begins_line(text, at, mark.start()) or (not cut and _SENTENCE.match(text, mark.end())):
                continue
            return _joined([*thoughts, text[mark.end() :]]), _joined(spoken, text[at : mark.start()])
        nested = 0
        while marks[number].lastgroup != close:
            nested += marks[number].lastgroup == kind
            number += 1
        while nested and number + 1 < len(marks) and marks[number + 1].lastgroup == close:
            nested, number = nested - 1, number + 1
        spoken.append(text[at : mark.start()])
        thoughts.append(text[mark.end() : marks[number].start()])
        at = marks[number].end()
        number += 1
    return _joined(thoughts), _joined(spoken, text[at:]) if thoughts else text


def without_thoughts(text: str) -> str:
    """What a whole text says beside its thoughts, without marks that end a turn."""
    rest = split_thought(text, cut=True)[1]
    return _END_OF_TURN.sub("", rest) if "<" in rest else rest


def _begins_line(text: str, at: int, start: int) -> bool:
    """Whether only white space precedes ``start`` in its line, or after ``at``."""
    before = text[max(at, start - _INDENT) : start].rpartition("\n")
    return not before[2].strip() and (before[1] != "" or start - at <= _INDENT)


def _joined(parts: list[str], rest: str = "") -> str:
    kept = [part for part in map(str.strip, parts) if part]
    return "\n\n".join([*kept, rest.lstrip()] if rest.strip() else kept)


def _real_marks(text: str) -> list[re.Match[str]]:
    """The marks of ``text`` that are neither quoted nor in the JSON of a call."""
    found = list(_MARK.finditer(text))
    if not found:
        return []
    spans = _objects(text)
    marks: list[re.Match[str]] = []
    passed = 0
    line_end = -1
    """Of the line in which a quoted opening mark is."""
    for mark in found:
        while passed < len(spans) and spans[passed][1] <= mark.start():
            passed += 1
        if passed < len(spans) and spans[passed][0] < mark.start():
            continue
        before, after = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
        quoted = before != "" and before in _QUOTES
        if str(mark.lastgroup)[0] == "o":
            if quoted:  # so is its closing mark, if that is in the same line
                if mark.start() > line_end:
                    end = text.find("\n", mark.end())
                    line_end = len(text) if end < 0 else end
                continue
        elif after != "" and after in _QUOTES and (before == after or mark.start() < line_end):
            continue
        marks.append(mark)
    return marks


def _objects(text: str) -> list[tuple[int, int]]:
    """Where the JSON objects are that begin a line or a call."""
    spans: list[tuple[int, int]] = []
    left = _READ_TWICE * len(text) + 4096
    at = 0
    while left > 0 and (opening := _OBJECT.search(text, at)):
        start = opening.end()
        try:
            at = read_json(text, start)[1]
            spans.append((start, at))
        except NotJsonError as error:
            left -= error.reached - start
            at = start + 1
    return spans
