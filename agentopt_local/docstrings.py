"""Other docstrings for a right function: they decide whether an agent calls it, and rollouts show which one does."""

from __future__ import annotations

from collections.abc import Sequence

from agentopt_local import prompts
from agentopt_local.chat import Constraint, Message
from agentopt_local.errors import FunctionError, PromptError
from agentopt_local.evidence import cut
from agentopt_local.functions import Function
from agentopt_local.problem import Problem
from agentopt_local.source import function_node
from agentopt_local.talk import Talk

TOKENS = 100
"""Generated tokens of a docstring."""
QUESTION_CHARS = (600, 200)
"""Characters of each problem, in the order in which they are tried."""
DOCSTRING = r'"""For problems that ask to [^"\\\n ][^"\\\n]*"""'


async def described_anew(function: Function, problems: Sequence[Problem], talk: Talk) -> Function | None:
    """``function`` with another docstring, in the words of ``problems``; None if the model writes none that is new."""
    constraint = Constraint(kind="regex", value=DOCSTRING) if talk.config.constrain else None
    forms = (
        prompts.fill(
            "write_docstring",
            problems="\n\n".join(cut(each.question, chars) for each in problems),
            source=function.source.strip(),
        )
        for chars in QUESTION_CHARS
    )
    asking = ((Message(role="user", content=each),) for each in forms)
    try:
        reply = await talk.ask(asking, constraint, max_tokens=TOKENS, part="docstring/")
        written = with_docstring(function, reply.message.content.strip().strip('"').strip())
    except (PromptError, FunctionError):  # the function stays as it is
        return None
    return None if reply.finish_reason == "length" or written.source == function.source else written


def with_docstring(function: Function, text: str) -> Function:
    """``function`` with ``text`` as its docstring. Raises FunctionError if ``text`` cannot be one."""
    if not text or any(mark in text for mark in ('"""', "\\", "\n")):
        raise FunctionError("a docstring is one line here, without quotation marks and backslashes")
    first = function_node(function.source).body[0]
    lines = function.source.splitlines(keepends=True)
    indent = lines[first.lineno - 1][: first.col_offset]
    if indent.strip():
        raise FunctionError("the docstring stands in the line of the def")
    lines[first.lineno - 1 : first.end_lineno] = [f'{indent}"""{text}"""\n']
    return Function.new("".join(lines)).for_questions(function.questions)
