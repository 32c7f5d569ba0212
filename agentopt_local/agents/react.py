"""The dialect of the paper's ReAct agent: Thought, Action, Action Input and Observation as text.

The conversation is a chat that only grows: the agent's turn ends with its action, the observation is the next user
turn. So chat models see the form they were trained on, and an engine reuses what it has computed.

Source: Yao et al., "ReAct: Synergizing Reasoning and Acting in Language Models", ICLR 2023, arXiv 2210.03629.
"""

from __future__ import annotations

import json
import re
from typing import Any

from agentopt_local import prompts
from agentopt_local.agents.answers import read_answer, unboxed
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.dialect import CODE, Act, Answering, BadInput, CodeBlock, Turn
from agentopt_local.chat import Constraint, Message, ToolCall
from agentopt_local.functions import Function, FunctionSet, one_text_parameter
from agentopt_local.json_text import NotJsonError, read_json
from agentopt_local.tool_formats import guided
from agentopt_local.trajectory import PYTHON

ACTION = re.compile(r"^[ \t]*Action(?: \d+)?[ \t]*:(.*)$", re.MULTILINE)
INPUT = re.compile(r"^[ \t]*Action(?: \d+)? Input(?: \d+)?[ \t]*:[ \t]*", re.MULTILINE)
FINAL = re.compile(r"^[ \t]*Final Answer[ \t]*:[ \t]*(.*)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
OBSERVATION = re.compile(r"^[ \t]*Observation(?: \d+)?[ \t]*:", re.MULTILINE)
NEXT_LABEL = re.compile(r"^[ \t]*(?:Thought|Action)(?: \d+)?(?: Input)?[ \t]*:", re.MULTILINE)
FENCE = re.compile(r"\A```\w*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
REPEATED = "You have done exactly this before. Now give the answer as 'Final Answer:'."
NUDGE = "Give an action as 'Action:' and 'Action Input:', or the answer as 'Final Answer:'."

# As in the function-calling dialect: a thought is one line, a line break may follow the closing fence, no counted
# repetitions. The name is part of the literal that opens an input, so one name may begin like another.
GRAMMAR = """%llguidance {{}}
start: {thought}turn
turn: {turns}
{rules}
"""
PYTHON_RULES = r"""python: "Action: python\nAction Input:" CODE
CODE: /[ \n]```python\n([^`]|`[^`]|``[^`])*\n```\n?/"""
THOUGHT_RULE = r"THOUGHT: /Thought: [^\n]+\n/"
FINAL_RULE = r"""final: "Final Answer: " ANSWER
ANSWER: /[^\n]+/"""


class ReactDialect:
    """Turns of a thought with one action, or with the final answer, as labelled lines."""

    repeated = REPEATED
    nudge = NUDGE
    offers_tools = False
    """The system prompt describes the functions; a chat template would offer them in another form."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config

    def system(self, functions: FunctionSet) -> str:
        """The system prompt with a line per action."""
        thought = "Thought: one line on what to do next\n" if self.config.think else ""
        return prompts.fill("react_system", thought=thought, actions=self._actions(functions))

    def _actions(self, functions: FunctionSet) -> str:
        """A line per action: what it does and what its input looks like."""
        lines = []
        for function in functions.each():
            text = " ".join(function.description.split())
            if self._text_parameter(function):
                shape = "one text in double quotes"
            else:
                shape = f"a JSON object such as {example(function)}"
            lines.append(f"- {function.name}: {function.signature}: {text} Input: {shape}.")
        if self.config.interpreter:
            use = " It can import sympy and numpy" + (", and call the functions above." if lines else ".")
            lines.append(
                f"- {PYTHON}: runs Python code and shows what it prints. Input: the code, in a block that starts with "
                f"```python and ends with ```.{use}"
            )
        return "\n".join(lines) or "none"

    def _text_parameter(self, function: Function) -> str | None:
        """The parameter of a function that is given as one text; None where arguments are given as JSON."""
        return one_text_parameter(function) if self.config.one_string_argument else None

    def constraint(self, functions: FunctionSet, answering: Answering) -> Constraint:
        """A thought of one line at most, then an existing action with valid input, or the answer."""
        must_answer = answering == "required"
        turns, rules = [], []
        if self.config.think:
            rules.append(THOUGHT_RULE)
        if self.config.interpreter and not must_answer:
            turns.append("python")
            rules.append(PYTHON_RULES)
        for index, function in enumerate(() if must_answer else functions.each()):
            schema: dict[str, Any] = {"type": "string"} if self._text_parameter(function) else function.parameters
            schema = guided(schema, lenient=True)
            turns.append(f"call_{index}")
            opening = json.dumps(f"Action: {function.name}\nAction Input: ")
            rules.append(f"call_{index}: {opening} args_{index}\nargs_{index}: %json {json.dumps(schema)}")
        if answering != "forbidden":
            turns.append("final")
            rules.append(FINAL_RULE)
        thought = "[THOUGHT] " if self.config.think else ""
        value = GRAMMAR.format(thought=thought, turns=" | ".join(turns), rules="\n".join(rules))
        return Constraint(kind="grammar", value=value)

    def read(self, message: Message, functions: FunctionSet) -> Turn:
        """The turn's first action, or else its answer; observations that the model made up are cut off."""
        if made_up := OBSERVATION.search(message.content):
            message = message.model_copy(update={"content": message.content[: made_up.start()]})
        text = message.content
        action, final = ACTION.search(text), FINAL.search(text)
        if action and not (final and final.start() < action.start()):
            return Turn(message=message, acts=(self._act(action[1], input_of(text, action.end()), functions),))
        if self.config.interpreter and not final and (block := CODE.search(text)):
            return Turn(message=message, acts=(CodeBlock(code=block[1]),))  # a clear act that lacks its label
        return Turn(message=message, answer=final_answer(text) if final else read_answer(text))

    def _act(self, name: str, given: str, functions: FunctionSet) -> Act:
        name = name.strip("`'\"*[] \t").removesuffix("()")
        if name.casefold() == PYTHON and self.config.interpreter:
            return CodeBlock(code=code_of(given))
        if name not in functions:
            return ToolCall(name=name, arguments={"input": given})
        function = functions.get(name)
        arguments = arguments_of(function, given, as_text=self._text_parameter(function) is not None)
        if arguments is None:
            error = f"the input must be a JSON object such as {example(function)}, for {function.signature}"
            return BadInput(name=name, arguments={"input": given}, error=error)
        return ToolCall(name=name, arguments=arguments)

    def observation(self, act: Act, result: str) -> Message:
        """The user's next message."""
        return Message(role="user", content=f"Observation: {result}")


def final_answer(text: str) -> str | None:
    """What follows ``Final Answer:``, up to the next label, out of its tags or box; None if that is empty."""
    match = FINAL.search(text)
    if match is None:
        return None
    answer = match[1]
    if label := NEXT_LABEL.search(answer):
        answer = answer[: label.start()]
    tagged = read_answer(answer) if "<answer>" in answer else None
    return tagged or unboxed(answer).strip() or None


def input_of(text: str, start: int) -> str:
    """The input of the action whose line ends at ``start``: up to the turn's end or its next label."""
    match = INPUT.search(text, start)
    rest = text[match.end() if match else start :].strip()
    fenced = FENCE.match(rest)
    label = NEXT_LABEL.search(rest, fenced.end() if fenced else 0) or FINAL.search(rest)
    return rest[: label.start()].rstrip() if label and not fenced else rest


def code_of(given: str) -> str:
    """The code in an interpreter's input: in a fence, as a JSON string, or bare."""
    if block := FENCE.match(given):
        return block[1]
    value = json_prefix(given)
    if isinstance(value, dict) and isinstance(value.get("code"), str):
        value = value["code"]
    return value if isinstance(value, str) else given.strip("`")


def arguments_of(function: Function, given: str, *, as_text: bool) -> dict[str, Any] | None:
    """The arguments in a function's input; None if it holds none.

    ``as_text``: the function takes one text, quoted or not. A lone value is the argument of a function that has one.
    """
    if block := FENCE.match(given):
        given = block[1].strip()
    value = json_prefix(given)
    names = list(function.parameters["properties"])
    if isinstance(value, dict) and not (as_text and set(value) - set(names)):
        return value
    if not names and not given:
        return {}
    if len(names) != 1:
        return None
    if value is None or (as_text and not isinstance(value, str)):
        if one_text_parameter(function) is None:
            return None
        value = given.strip("`")
    return {names[0]: value}


def json_prefix(text: str) -> Any:
    """The JSON value that ``text`` starts with; None if there is none."""
    try:
        return read_json(text)[0]
    except NotJsonError:
        return None


def example(function: Function) -> str:
    """The shape of a function's arguments: ``{"word": <string>, "n": <integer>}``."""
    fields = (
        f'"{name}": <{schema.get("type", "value")}>' for name, schema in function.parameters["properties"].items()
    )
    return "{" + ", ".join(fields) + "}"
