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
from agentopt_local.agents.dialect import Act, Answering, BadInput, CodeBlock, Turn, code_in, spoken
from agentopt_local.call_arguments import read_arguments, read_python
from agentopt_local.call_elements import known_name, read_loose_arguments
from agentopt_local.chat import Constraint, Message, ToolCall
from agentopt_local.fences import Block, blocks_of
from agentopt_local.functions import Function, FunctionSet, one_text_parameter
from agentopt_local.json_text import NotJsonError, read_json
from agentopt_local.tool_calls import check_arguments, parse_reply
from agentopt_local.tool_formats import guided
from agentopt_local.trajectory import PYTHON
from agentopt_local.wrapping import without_loose_end

_START, _END = r"^[ \t>*_#`-]{0,8}", r"(?:[ \t]?\d{1,2})?[ \t*_`]{0,4}[:：][*_`]{0,4}"
"""Around the words of a label: its number, and Markdown."""


def _label(words: str, *more: str) -> re.Pattern[str]:
    return re.compile("|".join([rf"{_START}(?:{words}){_END}", *more]), re.MULTILINE | re.IGNORECASE)


_INPUT = r"(?:Action(?:[ \t]?\d{1,2})?[ \t_]?)?(?:Input|Arguments|Parameters)(?:[ \t]?\([^()\n]{0,20}\))?"
ACTION = _label(r"Action")
INPUT = _label(_INPUT)
FINAL = _label(
    r"(?:The[ \t])?Final[ \t_]?Answer(?:[ \t]is)?", r"^[#*_]{1,6} ?Final Answer[ \t*_]*$", r"(?<=[.!?] )Final Answer:"
)
SAID = _label(
    r"(?:The[ \t])?Answer(?:[ \t]is)?", rf"{_START}(?:The[ \t])?(?:Final[ \t])?Answer[ \t](?:is|-)(?![ \t]not)[ \t]"
)
"""An answer without its label, in a turn that does nothing else."""
OBSERVATION = _label(r"Observation")
NEXT_LABEL = _label(rf"Thought|Action|{_INPUT}")
_LINE = re.compile(r"[ \t]*\n?[ \t]*([^\n]*)")
_WITH_INPUT = re.compile(r"([\w.-]+)[ \t]*(?:\[(.*)\]|\((.*)\))[`*. \t]*\Z", re.DOTALL)
_INPUT_IN_LINE = re.compile(
    r"([\w.`'\"*<>\[\] -]{1,80}?)(?:[ \t,;|.]{0,3}\bAction[ _]?Input[*_`]{0,4}[:：]|[ \t:]{1,3}(?=\{))", re.IGNORECASE
)
_QUOTED = re.compile(r"'[^'\\]*'|\"[^\"\\]*\"")
_AROUND_NAME = re.compile(
    r"\A(?:(?:use|call|invoke|run|execute|the|function|tool)\b[ \t:]*)+|(?<![ \t])[ \t]++(?:function|tool)\Z",
    re.IGNORECASE,
)
NO_ACTION = re.compile(
    r"|-|n/?a|null|(?:none|nothing|no (?:further )?(?:action|tool|function|call|input)s?|not (?:needed|required))\b.*"
)
"""What models write as an action when they mean that there is none."""
ANSWERS = frozenset(("finish", "submit", "final answer", "final_answer", "answer", "respond"))
"""What they write as one when they mean their answer."""
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
        message = spoken(message)
        if message.tool_calls:  # nobody asked for them, and a chat template could not answer them here
            call = message.tool_calls[0]
            shown = f"{message.content}\nAction: {call.name}\nAction Input: {json.dumps(call.arguments)}".strip()
            return Turn(message=Message(role="assistant", content=shown, thought=message.thought), acts=(call,))
        if made_up := OBSERVATION.search(message.content):
            message = message.model_copy(update={"content": message.content[: made_up.start()]})
        text = message.content
        final = FINAL.search(text)
        for action in ACTION.finditer(text, 0, final.start() if final else len(text)):
            act = self._act(text, action.end(), functions)
            if isinstance(act, str):
                return Turn(message=message, answer=unboxed(act).strip() or None)
            if act is not None and not (final and isinstance(act, ToolCall) and " " in act.name):
                return Turn(message=message, acts=(act,))
        if not final and (act := self._unlabelled(text, functions)):
            return Turn(message=message, acts=(act,))
        said = final_answer(text) if final else read_answer(text) or final_answer(text, SAID)
        return Turn(message=message, answer=said)

    def _unlabelled(self, text: str, functions: FunctionSet) -> Act | None:
        """A clear act that lacks its label."""
        calls = parse_reply(text, functions.tool_specs(), begun=False).tool_calls
        return calls[0] if calls else code_in(text) if self.config.interpreter else None

    def _act(self, text: str, start: int, functions: FunctionSet) -> Act | str | None:
        """The act whose label ends at ``start``; text if it is an answer, None if it is nothing."""
        line = _LINE.match(text, start)
        assert line is not None
        if FINAL.match(line[1]):
            return final_answer(line[1]) or ""
        name, end = (line[1], line.end()) if not NEXT_LABEL.match(line[1]) else ("", start)
        given = input_of(text, end)
        joined = _WITH_INPUT.fullmatch(line[1].strip("`'\"* \t"))
        if joined and not INPUT.search(text, end):
            name, given = joined[1], next(part for part in joined.groups()[1:] if part is not None)
        elif inside := _INPUT_IN_LINE.match(name):
            name, given = inside[1], input_of(text, line.start(1) + inside.end(), labelled=False)
        name = name.strip("`'\"*<>[]() \t").removesuffix("()")
        plain = name.casefold().rstrip(".")
        name = next((each for each in functions.names if each.casefold() in (plain, _AROUND_NAME.sub("", plain))), name)
        name = known_name(name, {tool.name: tool for tool in functions.tool_specs()})
        if name not in functions:
            if plain == PYTHON and self.config.interpreter:
                return CodeBlock(code=code_of(given))
            if NO_ACTION.fullmatch(plain):
                return None
            if plain in ANSWERS:
                value = json_prefix(given)  # {"answer": 12}
                return str(*value.values()) if isinstance(value, dict) and len(value) == 1 else given
            whole = parse_reply(text[start:], functions.tool_specs(), begun=False).tool_calls
            return whole[0] if whole else ToolCall(name=name, arguments={"input": given})
        return self._call(functions, name, given)

    def _call(self, functions: FunctionSet, name: str, given: str) -> Act:
        function = functions.get(name)
        tool = function.tool_spec()
        arguments = arguments_of(function, given, as_text=self._text_parameter(function) is not None)
        if arguments is None or check_arguments(tool, arguments) is not None:
            whole = parse_reply(f"<tool_call>{given}", (tool,), begun=False).tool_calls
            for read in (*(call.arguments for call in whole), *read_loose_arguments(tool, given)):
                if check_arguments(tool, read) is None:
                    return ToolCall(name=name, arguments=read)
        if arguments is None:
            error = f"the input must be a JSON object such as {example(function)}, for {function.signature}"
            return BadInput(name=name, arguments={"input": given}, error=error)
        return ToolCall(name=name, arguments=arguments)

    def observation(self, act: Act, result: str) -> Message:
        """The user's next message."""
        return Message(role="user", content=f"Observation: {result}")


def final_answer(text: str, label: re.Pattern[str] = FINAL) -> str | None:
    """What follows the last ``label`` that something follows, up to the next label, out of its tags or box; or None."""
    finals = list(label.finditer(text))
    ends = [*(each.start() for each in finals[1:]), len(text)]
    for final in reversed(finals):
        answer = text[final.end() : ends.pop()]
        if following := NEXT_LABEL.search(answer):
            answer = answer[: following.start()]
        tagged = read_answer(answer) if "<answer>" in answer else None
        answer = tagged or unboxed(without_loose_end(answer.strip()))
        if answer.strip():
            return answer.strip()
    return None


def input_of(text: str, start: int, *, labelled: bool = True) -> str:
    """The input of the action whose line ends at ``start``: up to the turn's end or its next label."""
    match = INPUT.search(text, start) if labelled else None
    other = match and ACTION.search(text, start, match.start())  # whose input it is
    rest = text[match.end() if match and not other else start :].strip()
    fenced = fence_of(rest)
    label = NEXT_LABEL.search(rest, fenced.end if fenced else 0) or FINAL.search(rest)
    return rest[: label.start()].rstrip() if label and not fenced else rest


def fence_of(text: str) -> Block | None:
    """The fenced block with which ``text`` begins."""
    first = blocks_of(text)[:1] if text.startswith(("```", "~~~")) else []
    return first[0] if first and first[0].start == 0 else None


def code_of(given: str) -> str:
    """The code in an interpreter's input: in a fence, as a JSON string, or bare."""
    if block := fence_of(given):
        return block.text
    value = json_prefix(given)
    if isinstance(value, dict) and isinstance(value.get("code"), str):
        value = value["code"]
    return value if isinstance(value, str) else given.strip("`")


def arguments_of(function: Function, given: str, *, as_text: bool) -> dict[str, Any] | None:
    """The arguments in a function's input; None if it holds none.

    ``as_text``: the function takes one text, quoted or not. A lone value is the argument of a function that has one.
    """
    if block := fence_of(given):
        given = block.text.strip()
    value = json_prefix(given.removeprefix("`"))
    names = list(function.parameters["properties"])
    if value is None and given.startswith("{"):
        value = read_python(given)
    if isinstance(value, str) and not as_text and value.lstrip().startswith("{"):
        value = json_prefix(value)
    if isinstance(value, dict) and not (as_text and set(value) - set(names)):
        return value
    if not names and (NO_ACTION.fullmatch(given.strip("`(){} ").casefold()) or read_arguments(given) == [{}]):
        return {}
    if len(names) != 1:
        return None
    if value is None or (as_text and not isinstance(value, str)):
        if one_text_parameter(function) is None:
            return None
        value = re.sub(rf"\A{re.escape(names[0])}\s*[:=]\s*", "", given.strip("`"))
        value = value[1:-1] if _QUOTED.fullmatch(value) else value
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
