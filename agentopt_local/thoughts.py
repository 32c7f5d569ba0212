"""Thoughts that a model or a server left in a text."""

from __future__ import annotations

import re

_WORDS = "think|thinking|thought|thoughts|reasoning"
_MARK = re.compile(
    rf"(?P<open><(?:\w+:)?(?:{_WORDS})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<\n]{0,200}<\|message\|>)"
    rf"|(?P<close></(?:\w+:)?(?:{_WORDS})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|channel\|>final\b[^<\n]{0,200}<\|message\|>)",
    re.IGNORECASE,
)
_END_OF_TURN = re.compile(r"<\|(?:im_end|return|end|endoftext|eot_id|end_of_text)\|>|</s>|<end_of_turn>")


def without_thoughts(text: str) -> str:
    """``text`` without the thoughts in it, and without marks that end a turn.

    The opening mark may be missing, because many chat templates write it at the end of the prompt: then all that comes
    before the closing mark is a thought. Without a closing mark, all that follows the opening one is a thought.
    """
    end = len(text.rstrip())
    kept: list[str] = []
    start, inside, closed = 0, False, False
    for mark in _MARK.finditer(text):
        if mark["open"]:
            kept += [] if inside else [text[start : mark.start()]]
            inside = True
        elif closed and not inside and mark.end() >= end:  # a second closing mark at the very end is a slip
            end = mark.start()
        else:
            kept = kept if inside else []
            start, inside, closed = mark.end(), False, True
    rest = "".join([*kept, "" if inside else text[start:end]])
    return _END_OF_TURN.sub("", rest) if "<" in rest else rest
