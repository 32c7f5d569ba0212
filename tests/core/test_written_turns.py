"""What models write: calls, code and answers in all the forms that they use for them, and what only looks so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.dialect import code_in
from agentopt_local.agents.make import make_agent
from agentopt_local.call_arguments import read_arguments, typed
from agentopt_local.chat import ChatReply, ChatRequest, Message, ToolCall
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.models.wire import from_response, to_messages
from agentopt_local.problem import Problem
from agentopt_local.thoughts import split_thought, without_thoughts
from agentopt_local.tool_calls import MAX_CALLS, parse_reply
from agentopt_local.trajectory import Attempt
from tests.tools.recorder import Recorder

AREA = 'def area(w: int, h: int) -> int:\n    """Return w * h."""\n    return w * h\n'
TODAY = 'def today() -> str:\n    """Return the date."""\n    return "x"\n'
NOTE = 'def note(text: str) -> str:\n    """Keep a text."""\n    return text\n'
FUNCTIONS = FunctionSet.of(AREA, TODAY, NOTE)
TOOLS = FUNCTIONS.tool_specs()
PROBLEM = Problem(id="p", question="?", answer="12")
WH = {"w": 3, "h": 4}
F = "```"


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


def named(name: str, arguments: Any = None) -> str:
    return json.dumps({"name": name, "arguments": arguments})


CALL = named("area", WH)
OTHER = named("area", {"w": 5, "h": 6})


def calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in parse_reply(text, TOOLS).tool_calls]


def solve(turns: Sequence[Any], *, kind: str = "function_calling", **settings: Any) -> tuple[Attempt, list[Any], Any]:
    """One attempt without grammars: it, what was run, and the requests."""
    model, sandbox = ScriptedChatModel(turns), Recorder()
    config = AgentConfig.model_validate({"kind": kind, "constrain": False, "act_first": False, **settings})
    attempt = asyncio.run(make_agent(model, sandbox, config).solve(PROBLEM, FUNCTIONS, seed=0))  # type: ignore[arg-type]
    return attempt, sandbox.did, model.requests


@pytest.mark.parametrize(
    "written", ["null", "{}", '""', '"{}"', '"null"', '"None"', "[]", '" "', '"\\"{}\\""', '"[]"', '"undefined"']
)
def test_t1_no_arguments_in_all_their_spellings(written: str) -> None:
    call = f'{{"name": "today", "arguments": {written}}}'
    for text in (tagged(call), f"{F}json\n{call}\n{F}", call):
        assert calls(text) == [("today", {})]
    assert calls(tagged('{"name": "today"}')) == [("today", {})]
    assert calls('{"name": "today"}') == [], "outside of tags that could be anything"


@pytest.mark.parametrize(
    "text",
    [
        f"{F}json\n{CALL}\n{OTHER}\n{F}",
        f"{F}json\n{CALL},\n{OTHER}\n{F}",
        f"{F}json\n[{CALL}, {OTHER}]\n{F}",
        f"{F}JSON\n{CALL}\n\n{OTHER}\n{F}\nDone.",
        f"{F}\n{CALL}\n{OTHER}",
        f"{F}tool_call\n{CALL}\n{F}\n{F}tool_call\n{OTHER}\n{F}",
        f"{F}json\n{CALL}\n{F}\nand then\n{F}json\n{OTHER}\n{F}",
        f'{F}json\n{{"thought": "both"}}\n{CALL}\n{OTHER}\n{F}',
        f'{F}json\n{{"tool_calls": [{CALL}, {{"type": "function", "function": {OTHER}}}]}}\n{F}',
        tagged(f"{CALL}\n{OTHER}"),
        tagged(f"[{CALL}, {OTHER}]"),
        f"{tagged(CALL)}{tagged(OTHER)}",
        f"{CALL}\n{OTHER}",
        f"<tool_calls>[{CALL}, {OTHER}]</tool_calls>",
        f"[TOOL_CALLS] [{CALL}, {OTHER}]",
        f"{F}xml\n{tagged(CALL)}\n{tagged(OTHER)}\n{F}",
        "[area(w=3, h=4), area(w=5, h=6)]",
        "<|python_tag|>[area(w=3, h=4), area(5, 6)]<|eot_id|>",
    ],
)
def test_t2_no_call_of_several_is_lost(text: str) -> None:
    assert calls(text) == [("area", WH), ("area", {"w": 5, "h": 6})]


CODE = f"{F}python\nprint(1)\n{F}"


@pytest.mark.parametrize(
    "inside", [tagged(CALL), f"{F}json\n{CALL}\n{F}", CALL, CODE, "<answer>12</answer>", "\\boxed{12}"]
)
@pytest.mark.parametrize(
    "around",
    [
        "<think>I could say {}</think>No.",
        "<think>\nI could say\n{}",
        "I could say\n{}\n</think>\n\nNo.",
        "<think>a</think>So <think>b {}</think>No.",
        "<think>a <think>b</think> {} </think>No.",
        "<thinking>\n{}\n</thinking>\nNo.",
        "<reasoning>{}</reasoning>No.",
        "[THINK]{}[/THINK]No.",
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>No.",
        "◁think▷{}◁/think▷No.",
        "<unused94>thought\n{}<unused95>No.",
        "<chain_of_thought>{}</chain_of_thought>No.",
        "<seed:think>{}</seed:think>No.",
        '<think>He said "{}"</think>No.',
    ],
)
def test_t3_nothing_in_a_thought_is_done_or_the_answer(around: str, inside: str) -> None:
    text = around.replace("{}", inside)
    attempt, did, requests = solve([text, "<answer>7</answer>"])
    assert (did, attempt.answer) == ([], "7")
    kept = requests[1].messages[2]
    assert (inside in kept.thought, inside in kept.content) == (True, False)
    raw = ChatReply(message=Message(role="assistant", content=text))  # of a model that leaves thoughts in its text
    assert solve([raw, "<answer>7</answer>"])[1] == []
    body = {"choices": [{"message": {"content": text}}]}
    assert from_response(ChatRequest(messages=(), tools=TOOLS), body).message.tool_calls == ()


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("<think>a</think>b", "b"),
        ("<think></think>\n\n<answer>1</answer></think>", "<answer>1</answer>"),
        ("print('</think>')", "print('</think>')"),
        ("Tags such as `<think>` and `</think>` are used.", "Tags such as `<think>` and `</think>` are used."),
        ("The <think> tag starts one. 12", "The <think> tag starts one. 12"),
        ("<think> is a tag", "<think> is a tag"),
        ("<think>I write '<think>' here</think>12", "12"),
        (tagged('{"name": "note", "arguments": {"text": "a </think> b"}}'),) * 2,
        ("I am reasoning about <b>it</b>", "I am reasoning about <b>it</b>"),
        ("a<|end|>", "a<|end|>"),
        ("x < think > y", "x < think > y"),
    ],
)
def test_t3_what_is_no_thought_stays(text: str, spoken: str) -> None:
    assert split_thought(text)[1] == spoken


def test_t3_a_text_to_be_graded_has_no_thoughts_and_no_marks_at_its_end() -> None:
    assert without_thoughts("<think>\n12") == ""
    assert without_thoughts("<think> is it 12") == ""
    assert without_thoughts("<think>a</think>12<|im_end|>") == "12"


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=area>\n<parameter=w>\n3\n</parameter>\n<parameter=h>\n4\n</parameter>\n</function>\n</tool_call>",
        "<function=area>\n<parameter=w>\n3\n</parameter>\n<parameter=h>\n4\n</parameter>\n</function>\n</tool_call>",
        "<function=area><parameter=w>3</parameter><parameter=h>4</parameter></function>",
        "<function=area>\n<parameter=w>\n3\n<parameter=h>\n4\n</function>",
        '<function name="area"><parameter name="w">3</parameter><parameter name="h">4</parameter></function>',
        '<minimax:tool_call><invoke name="area">\n<parameter name="w">3</parameter>\n'
        '<parameter name="h">4</parameter>\n</invoke>',
        '<function_calls>\n<invoke name="area">\n<parameter name="w" string="false">3</parameter>'
        '<parameter name="h">4</parameter></invoke></function_calls>',
        '<function=area>{"w": 3, "h": 4}</function>',
        "<tool_call>area\n<arg_key>w</arg_key>\n<arg_value>3</arg_value>\n<arg_key>h</arg_key>\n<arg_value>4</arg_value>\n</tool_call>",
        '[TOOL_CALLS]area[ARGS]{"w": 3, "h": 4}',
        '<|tool_call_begin|>functions.area:0<|tool_call_argument_begin|>{"w": 3, "h": 4}<|tool_call_end|>',
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>area\n```json\n{"w": 3, "h": 4}\n```<｜tool▁call▁end｜>',
        '<|channel|>commentary to=functions.area <|constrain|>json<|message|>{"w": 3, "h": 4}',
        'functools[{"name": "area", "arguments": {"w": 3, "h": 4}}]',
        '<tool_call>area\n{"w": 3, "h": 4}</tool_call>',
        tagged('{"tool": "area", "args": {"w": 3, "h": 4}}'),
        tagged('{"area": {"w": 3, "h": 4}}'),
        tagged('{"name": "area", "w": 3, "h": 4}'),
        tagged("{'name': 'area', 'arguments': {'w': 3, 'h': 4}}"),
        tagged('{"name": "functions.area", "arguments": {"w": 3, "h": 4,}}'),
        '{"action": "area", "action_input": {"w": 3, "h": 4}}',
        "[area(w=3, h=4)]",
    ],
)
def test_t5_calls_in_the_forms_of_other_families(text: str) -> None:
    for before in ("", "I compute it.\n") if not text.startswith("[area") else ("",):
        message = parse_reply(before + text, TOOLS)
        assert [(call.name, call.arguments) for call in message.tool_calls] == [("area", WH)]
        assert message.content in (before.strip(), f"{before}<minimax:tool_call>".strip())


def test_t5_parameters_get_the_types_of_their_schema() -> None:
    text = "<function=note>\n<parameter=text>\n  3 < 4\n\nnull\n</parameter>\n</function>"
    assert calls(text) == [("note", {"text": "  3 < 4\n\nnull"})]
    assert calls("<function=note><parameter=text>\\frac{1}{2}\\n</parameter></function>")[0][1] == {
        "text": "\\frac{1}{2}\\n"
    }
    assert calls("<function=today>\n</function>") == [("today", {})]
    schema = {
        "properties": {
            "a": {"type": "array"},
            "b": {"type": "boolean"},
            "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        }
    }
    given = {"a": "[1, 'x']", "b": "True", "n": "None", "z": "5"}
    assert typed(given, schema)["b"] is True
    assert typed(given, schema)["n"] is None
    assert typed({"n": "12 apples"}, schema) == {"n": "12 apples"}


@pytest.mark.parametrize(
    "text",
    [
        tagged("area(w=3, h=4)"),
        tagged('area({"w": 3, "h": 4})'),
        tagged("[area(w=3, h=4)]"),
        tagged('{{"name": "area", "arguments": {{"w": 3, "h": 4}}}}'),
        "<|python_tag|>area(w=3, h=4)<|eom_id|>",
        "<|python_tag|>area.call(w=3, h=4)",
        "So:\n<|tool_call_start|>[area(w=3, h=4)]<|tool_call_end|>",
        '<functioncall> {"name": "area", "arguments": \'{"w": 3, "h": 4}\'}',
        f'<tool_call id="1">{CALL}</tool_call>',
        f"<tool_use>{CALL}</tool_use>",
        "<function=functions.area><parameter = w>3</parameter><parameter = h>4</parameter></function>",
        '<｜DSML｜invoke name="area"><｜DSML｜parameter name="w">3</｜DSML｜parameter>'
        '<｜DSML｜parameter name="h">4</｜DSML｜parameter></｜DSML｜invoke>',
        f"- {CALL}",
        f"{F}json\n// first\n{CALL}\n{F}",
        f"{F}json\n{{'name': 'area', 'arguments': {{'w': 3, 'h': 4}}}}\n{F}",
        f'{F}json\n{{"name": "area", "arguments": {{"w": 3, "h": 4,}}}}\n{F}',
        f'> {F}json\n> {{"name": "area",\n>  "arguments": {{"w": 3, "h": 4}}}}\n> {F}',
        f"`{tagged(CALL)}`",
    ],
)
def test_t5_calls_with_slips(text: str) -> None:
    assert calls(text) == [("area", WH)]


@pytest.mark.parametrize("text", ["f(1);\ng(2)", "a</b> <tool_call>", "it's", 'say "x"', "C:\\new"])
def test_texts_in_calls_of_python_stay_as_they_are(text: str) -> None:
    written = text.replace("\\", "\\\\").replace('"', '\\"')
    both = [("note", {"text": text}), ("area", WH)]
    assert calls(tagged(f'note(text="{written}"); area(3, 4)')) == both
    assert calls(tagged(f'note("{written}")\narea(w=3, h=4)')) == both


@pytest.mark.parametrize(
    "text",
    [
        f"`<tool_call>{CALL}</tool_call>` is the form.",
        "The tags <tool_call>area(w, h)</tool_call> are used.",
        tagged("area(w=3, h=4) and area(w=5, h=6)"),
        "<|python_tag|>print(1)",
        f"{F}json\n// {CALL}\n{F}",
        "<function=area><parameter=w>3</parameter>",
        "<function=area><parameter=w>3",
        "Write <function=area> to call it.",
        "The form is <function=NAME>...</function>.",
        "<function=nope><parameter=w>3</parameter></function>",
        "[area(w=3, h=4)] is what I would write.",
        "[area(w=x, h=4)]",
        "area(w=3, h=4)",
        "[1, 2]",
        '{"name": "Bob", "args": {}}',
        "to=functions.area",
        "Use [TOOL_CALLS] to call.",
        f"{F}python\n{CALL}\n{F}",
        f'{F}python\ns = """\n{F}\n{CALL}\n{F}\n"""\n{F}',
    ],
)
def test_t5_what_only_looks_like_a_call_is_text(text: str) -> None:
    message = parse_reply(text, TOOLS)
    assert (message.tool_calls, message.content) == ((), text.strip())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"I plan.\n{F}json\n{{}}\n{F}\nNow compute.\n{CODE}\n", "print(1)\n"),  # A1
        (f"{F}text\nA table\n{F}\nSo:\n{CODE}\nwhich prints\n{F}\n1\n{F}\n", "print(1)\n"),
        (f"Use `f`, so: {CODE}", "print(1)\n"),
        (f"{F}Python\nprint(1)\n{F}", "print(1)\n"),  # A2
        (f"{F}python3\r\nprint(1)\r\n{F}\r\n", "print(1)\n"),
        (f"{F}PY\nprint(1)\n{F}", "print(1)\n"),
        (f"{F}python3.11 title=x\nprint(1)\n{F}", "print(1)\n"),
        (f"{F}{{python}}\nprint(1)\n{F}", "print(1)\n"),
        ("~~~python\nprint(1)\n~~~", "print(1)\n"),
        (f"{F}python\n>>> x = 1\n>>> print(x)\n1\n{F}", "x = 1\nprint(x)\n"),
        (f"{F}python\n# use {F} here\nprint(1)\n{F}", f"# use {F} here\nprint(1)\n"),
        (f"{F}tool_code\nprint(1)\n{F}", "print(1)\n"),
        (f"{F}\nprint(1)\n{F}", "print(1)\n"),
        (f"1. First\n   {F}python\n   if 1:\n       print(1)\n   {F}\n2. Then", "if 1:\n    print(1)\n"),  # A3
        (f"- {F}python\n  print(1)\n  {F}", "print(1)\n"),
        (f"> {F}python\n> print(1)\n> {F}", "print(1)\n"),
        (f"\t{F}python\n\tprint(1)\n\t{F}", "print(1)\n"),
        (f"{F}python\n    x = 1\n    print(x)\n{F}", "x = 1\nprint(x)\n"),
        (f"{F}python\nx = 1\n{F}\nThen\n{F}python\nprint(x)\n{F}", "x = 1\nprint(x)\n"),  # A4
        (f"{F}python\nx = 1\n{F}\n{F}json\n{{}}\n{F}\n{F}py\nprint(x)", "x = 1\nprint(x)"),
        (f"{F}python\nx = 1\n\n{F}python\nprint(x)\n{F}", "x = 1\n\nprint(x)\n"),
        (f'{F}python\ns = """\n{F}\n"""\nprint(s)\n{F}\nDone', f's = """\n{F}\n"""\nprint(s)\n'),  # A5
        (f"{F}python\ns = '''\n{F}python\nx\n{F}\n'''\nprint(s)\n{F}", f"s = '''\n{F}python\nx\n{F}\n'''\nprint(s)\n"),
        (f'{F}python\ns = "{F}"\nprint(s)\n{F}', f's = "{F}"\nprint(s)\n'),
        (f"{F}python\nprint('{F}python')\n{F}", f"print('{F}python')\n"),
        (f"{F}python\nprint(1){F}", "print(1)"),
        (f"````python\nprint('''\n{F}\n''')\n````", f"print('''\n{F}\n''')\n"),
        (
            f'{F}python\ns = """\nprint(1)\n{F}\nNo.\n{F}python\nprint("""a""")\n{F}',
            's = """\nprint(1)\nprint("""a""")\n',
        ),
    ],
)
def test_a1_to_a5_blocks_of_code_are_found(text: str, code: str) -> None:
    found = code_in(text)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize(
    "text",
    [
        f"{F}json\n{{}}\n{F}\nNow compute.\n",
        f"{F}\n12\n{F}\n<answer>12</answer>",
        f"{F}\nThe answer is twelve\n{F}",
        f"{F}text\nprint(1)\n{F}",
        f"{F}javascript\nprint(1)\n{F}",
        f"inline {F}print(1){F} code",
        "`python`",
        f"{F}python\n{F}",
        f"{F}",
    ],
)
def test_a1_other_blocks_are_not_code(text: str) -> None:
    assert code_in(text) is None


def test_a4_two_blocks_are_one_act_in_one_namespace() -> None:
    _, did, requests = solve([f"{F}python\nx = 1\n{F}\nand\n{F}python\nprint(x)\n{F}", "<answer>1</answer>"])
    assert did == ["x = 1\nprint(x)\n"]
    assert len(requests[1].messages) == 4


def test_a4_of_a_cut_turn_the_whole_blocks_run() -> None:
    cut = ChatReply(
        message=Message(role="assistant", content=f"{CODE}\nand\n{F}python\nprint(2"), finish_reason="length"
    )
    _, did, requests = solve([cut, "<answer>1</answer>"])
    assert did == ["print(1)\n"]
    assert "cut off" in requests[1].messages[-1].content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("I must answer as <answer>your answer</answer>.\nSo: <answer>12</answer>", "12"),
        ("<answer>11</answer> No: <answer>12</answer>", "12"),
        ("<answer>12</answer>\n<answer></answer>", "12"),
        ("<answer>I said <answer>12</answer>", "12"),
        ("<answer>12", "12"),
        ("<Answer>12</Answer>", "12"),
        ("<answer>12</answ", "12"),
        ('<answer type="int">12</answer>', "12"),
        ("So <answer>12</answer>. (I must give it as <answer>your answer</answer>.)", "12"),
    ],
)
def test_a6_the_last_answer_counts(text: str, answer: str) -> None:
    assert solve([text])[0].answer == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Action: None\nAction Input: None\nFinal Answer: 12", "12"),
        ("**Final Answer:** 12", "12"),
        ("**Final Answer**: 12", "12"),
        ("**Final Answer: 12**", "12"),
        ("### Final Answer: 12", "12"),
        ("## Final Answer\n12", "12"),
        ("The final answer is: 12", "12"),
        ("- Final Answer: 12", "12"),
        ("> Final Answer: 12", "12"),
        ("Thought: I know. Final Answer: 12", "12"),
        ("Thought: done\nAction: N/A\nFinal Answer: 12", "12"),
        ("Action: no action needed\nFinal Answer: 12", "12"),
        ("Action: Finish[12]", "12"),
        ('Action: finish\nAction Input: {"answer": 12}', "12"),
        ("Action: Final Answer: 12", "12"),
        ("Action: I have the answer.\nFinal Answer: 12", "12"),
        ("**Final Answer**\n12", "12"),
        ("Final Answer - 12", "12"),
        ("The final answer is 12", "12"),
        ("Final_Answer：12", "12"),
        ("Action: None\nAnswer: 12", "12"),
        ("Action: finish\nAction Input: 12", "12"),
        ("Action: Final Answer\nAction Input: 12", "12"),
        ("Final Answer: your answer\n\nFinal Answer: 12", "12"),
        ("<think>Final Answer: 5</think>Final Answer: 12", "12"),
    ],
)
def test_r1_answers_of_react_writers(text: str, answer: str) -> None:
    attempt, did, _ = solve([text], kind="react")
    assert (did, attempt.answer) == ([], answer)


@pytest.mark.parametrize(
    "text",
    [
        'Action: area\nAction Input: {"w": 3, "h": 4}',
        '**Action:** area\n**Action Input:** {"w": 3, "h": 4}',
        '**Action**: `area`\n**Action Input**: `{"w": 3, "h": 4}`',
        'action: Area\naction input: {"w": 3, "h": 4}',
        'Action:\narea\nAction Input:\n{"w": 3, "h": 4}',
        'Action: area\nInput: {"w": 3, "h": 4}',
        'Action: area({"w": 3, "h": 4})',
        'Action: area[{"w": 3, "h": 4}]',
        "Action: area(w=3, h=4)",
        'Action: functions.area\nAction Input: {"w": 3, "h": 4}',
        'Action: use the area tool\nAction Input: {"w": 3, "h": 4}',
        'Action: area, Action Input: {"w": 3, "h": 4}',
        'Action: area {"w": 3, "h": 4}',
        "Action: area\nAction Input: [3, 4]",
        "Action: area\nAction Input: w: 3, h: 4",
        "Action: area\nAction Input: {w: 3, h: 4}",
        "Action: area\nAction Input: area(w=3, h=4)",
        'Action: area\nParameters: {"area": {"w": 3, "h": 4}}',
        "Action: area\nAction Input: w=3, h=4",
        "Action: area\nAction Input: {'w': 3, 'h': 4}",
        'Action: area\nAction Input: "{\\"w\\": 3, \\"h\\": 4}"',
        f'Action:\n{F}json\n{{"action": "area", "action_input": {{"w": 3, "h": 4}}}}\n{F}',
        'Action: {"name": "area", "arguments": {"w": 3, "h": 4}}',
        f"Thought: I call it.\n{tagged(CALL)}",
        'Action: None\nAction Input: None\nAction: area\nAction Input: {"w": 3, "h": 4}',
    ],
)
def test_r1_actions_of_react_writers(text: str) -> None:
    _, did, _ = solve([text, "Final Answer: 12"], kind="react")
    assert did == [("area", WH)]


def test_r1_an_action_without_input_does_not_take_that_of_the_next() -> None:
    assert solve(['Action: today\n\nAction: note\nAction Input: "a"', "Final Answer: 1"], kind="react")[1] == [
        ("today", {})
    ]


@pytest.mark.parametrize("given", ["'a b'", 'text="a b"', "text: a b", "a b"])
def test_r1_a_text_may_be_named_or_quoted(given: str) -> None:
    text = f"Action: note\nAction Input: {given}"
    assert solve([text, "Final Answer: 1"], kind="react")[1] == [("note", {"text": "a b"})]


def test_r1_no_action_is_not_an_unknown_function() -> None:
    attempt, did, requests = solve(["Thought: hm\nAction: None\nAction Input: None", "Final Answer: 1"], kind="react")
    assert (did, attempt.calls) == ([], ())
    assert "no function" not in requests[1].messages[-1].content
    _, did, requests = solve(["Action: triple\nAction Input: 3", "Final Answer: 1"], kind="react")
    assert "there is no function 'triple'" in requests[1].messages[-1].content


@pytest.mark.parametrize("kind", ["function_calling", "react"])
def test_c1_our_own_agent_takes_turns(kind: str) -> None:
    act = CODE if kind == "function_calling" else "Action: today\nAction Input: {}"
    answer = "<answer>1</answer>" if kind == "function_calling" else "Final Answer: 1"
    for turns in ([act, act, answer], ["Hm.", act, act, act, answer]):
        _, _, requests = solve(turns, kind=kind)
        roles = [message.role for message in requests[-1].messages]
        assert roles == ["system", *(("user", "assistant") * len(turns))[: 2 * len(turns) - 1]]
        assert "exactly this before" in requests[-1].messages[-1].content
    _, _, requests = solve([tagged(CALL), tagged(CALL), "<answer>1</answer>"])
    assert [message.role for message in requests[-1].messages][-1] == "tool"


@pytest.mark.parametrize("native", [True, False])
def test_13_calls_per_turn_are_limited_and_the_model_is_told(native: bool) -> None:
    many = [ToolCall(name="area", arguments={"w": number, "h": 1}) for number in range(3000)]
    text = "\n".join(tagged(named(call.name, call.arguments)) for call in many)
    reply = ChatReply(message=Message(role="assistant", tool_calls=tuple(many)))
    _, did, requests = solve([reply if native else text, "<answer>1</answer>"])
    assert len(did) == MAX_CALLS
    said = requests[1].messages[2:]
    assert (len(said[0].tool_calls), len(said)) == (MAX_CALLS, MAX_CALLS + 1)
    assert "at most 32 calls" in said[-1].content
    _, did, requests = solve(
        [ChatReply(message=Message(role="assistant", tool_calls=tuple(many[:32]))), "<answer>1</answer>"]
    )
    assert "at most" not in requests[1].messages[-1].content


NATIVE = [
    ('{"w":3,"h":4}', [WH]),
    ({"w": 3, "h": 4}, [WH]),
    ('{"w":3,"h":4}\n</tool_call>', [WH]),
    ('{"w":3,"h":4}<|im_end|>', [WH]),
    ('{"w":3,"h":4}{"w":3,"h":4}', [WH]),
    ('{"w":3,"h":4}{"w":5,"h":6}', [WH, {"w": 5, "h": 6}]),
    ('{}{"w":3,"h":4}', [WH]),
    (json.dumps('{"w":3,"h":4}'), [WH]),
    (json.dumps(json.dumps('{"w":3,"h":4}')), [WH]),
    (f'{F}json\n{{"w":3,"h":4}}\n{F}', [WH]),
    ('{"w":3,"h":4}}', [WH]),
    ("{'w': 3, 'h': 4}", [WH]),
    ('{"w": 3, "h": 4,}', [WH]),
    ('[{"w":3,"h":4}]', [WH]),
    ('{"name": "area", "arguments": {"w": 3, "h": 4}}', [WH]),
    ('{"name": "area", "parameters": "{\\"w\\": 3, \\"h\\": 4}"}', [WH]),
]


@pytest.mark.parametrize(("given", "made"), NATIVE)
def test_e2_one_reader_for_native_and_textual_calls(given: Any, made: list[Any]) -> None:
    body = {
        "choices": [{"message": {"content": None, "tool_calls": [{"function": {"name": "area", "arguments": given}}]}}]
    }
    message = from_response(ChatRequest(messages=(), tools=TOOLS), body).message
    assert [call.arguments for call in message.tool_calls] == made
    assert [arguments for _, arguments in calls(tagged(named("area", given)))] == made


@pytest.mark.parametrize("given", ["null", "", None, "{}", " ", '"null"', [], "None"])
def test_e2_native_calls_without_arguments(given: Any) -> None:
    body = {"choices": [{"message": {"tool_calls": [{"function": {"name": "functions.today", "arguments": given}}]}}]}
    message = from_response(ChatRequest(messages=(), tools=TOOLS), body).message
    assert message.tool_calls == (ToolCall(name="today", arguments={}),)


@pytest.mark.parametrize(
    "given", ["[1]", "5", '{"w": NaN}', "{w: 3}", '{"w": 3', "area", '{"w":3} and {"h":4}', "[" * 5000, [1], 7]
)
def test_e2_arguments_that_cannot_be_read_are_shown_to_the_model(given: Any) -> None:
    assert read_arguments(given) == []
    body = {"choices": [{"message": {"tool_calls": [{"function": {"name": "area", "arguments": given}}]}}]}
    message = from_response(ChatRequest(messages=(), tools=TOOLS), body).message
    assert message.tool_calls == ()
    assert '"name": "area"' in message.content


@pytest.mark.parametrize("text", ['{"text":"w\\ud83d"}', '{"text":"w\ud83d"}', '{"te\ud83dxt":"w"}'])
@pytest.mark.parametrize("name", ["note", "no\ud83dte"])
def test_e3_halves_of_characters_never_leave_the_border(text: str, name: str) -> None:
    for given in (text, json.loads(text)):
        body = {
            "choices": [
                {"message": {"content": "a\udc00", "tool_calls": [{"function": {"name": name, "arguments": given}}]}}
            ]
        }
        message = from_response(ChatRequest(messages=(), tools=TOOLS), body).message
        json.dumps(to_messages([message]), ensure_ascii=False).encode()
        message.model_dump_json().encode()
