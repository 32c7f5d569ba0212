"""A script in place of a model for docs/python.md and docs/examples: it writes the function that their questions need.

It imports nothing but the public API, so that a test can run it where only the wheel is installed.
"""

from __future__ import annotations

import json
import re
from typing import Any

import agentopt_local as ao

REVERSE = '''def reverse_words(sentence: str) -> str:
    """Return the words of a sentence in reverse order."""
    return " ".join(reversed(sentence.split()))
'''
ROMAN = '''def to_roman(number: int) -> str:
    """Return a number as a Roman numeral."""
    values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
    letters = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
    text = ""
    for value, letter in zip(values, letters):
        text += letter * (number // value)
        number %= value
    return text
'''
SORT = '''def sort_words(words: str) -> str:
    """Return words, separated by commas, sorted by their length."""
    return ", ".join(sorted(words.split(", "), key=len))
'''
KNOWN = (
    (r"Reverse the words: ([a-z ]+)", "reverse_words", REVERSE, lambda given: {"sentence": given}),
    (r"Write (\d+) as a Roman numeral", "to_roman", ROMAN, lambda given: {"number": int(given)}),
    (r"by the alphabet: ([a-z, ]+)", "sort_words", SORT, lambda given: {"words": given}),
)
"""Pattern of a question, name and source of its function, and the arguments from what the pattern caught."""


def match(text: str) -> tuple[str, str, dict[str, Any]]:
    """Name and source of the function for the first known question in ``text``, and its arguments."""
    for pattern, name, source, arguments in KNOWN:
        if found := re.search(pattern, text):
            return name, source, arguments(found[1].strip())
    raise ao.ModelError(f"the script knows no such question: {text[:200]}")


def optimizer(request: ao.ChatRequest) -> str:
    """An action, its source, arguments for the shown problems, or a thought about the expected results."""
    if request.constraint is None:
        return "They are the words in their order."
    name, source, _ = match(request.messages[0].content)
    if request.constraint.kind == "json_schema":
        shown = re.findall(r"(problem_\d+): (.*)", request.messages[-1].content)
        return json.dumps({key: match(question)[2] for key, question in shown})
    if f'"def {name}(' in request.constraint.value:
        return source
    known = f"`{name}(" in request.messages[0].content
    return json.dumps({"action": "terminate"} if known else {"action": "add_function", "name": name})


def agent(request: ao.ChatRequest) -> str:
    """A call of the function for the question if there is one, then what it returned."""
    last = request.messages[-1]
    if last.role == "tool":
        return f"<answer>{last.content}</answer>"
    name, _, arguments = match(last.content)
    if name not in {tool.name for tool in request.tools}:
        return "<answer>no idea</answer>"
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def brain(request: ao.ChatRequest) -> str:
    """Both roles."""
    return optimizer(request) if (request.conversation or "").startswith("optimizer/") else agent(request)


def model() -> ao.ScriptedChatModel:
    """The scripted model."""
    return ao.ScriptedChatModel(brain)
