"""C1: chat templates that refuse what agents say get the same conversation in turns that they accept."""

from __future__ import annotations

import re

import pytest

from agentopt_local.chat import ChatRequest, Message, ToolCall, ToolSpec
from serving.transcript import Transcripts
from tests.tools.tiny_models import make_tokenizer

BODY = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ALTERNATE = (
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
TOOLS_FIRST = "{% if tools %}<tools>{{ tools | tojson }}</tools>\n{% endif %}"
CALLS = (
    "{% if message.tool_calls %}<|im_start|>assistant\n{{ message.content }}{% for call in message.tool_calls %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>"
    "{% endfor %}<|im_end|>\n{% else %}" + BODY + "{% endif %}"
)


def each(check: str, body: str = BODY, before: str = "") -> str:
    return f"{before}{{% for message in messages %}}{check}{body}{{% endfor %}}{OPEN}"


def refusing(condition: str) -> str:
    return f"{{% if {condition} %}}{{{{ raise_exception('refused') }}}}{{% endif %}}"


ONE_CALL = refusing("message.tool_calls and message.tool_calls | length > 1")
PREVIOUS = "loop.index0 > 0 and messages[loop.index0 - 1].role == "
TEMPLATES = {
    "no system": each(refusing("message.role == 'system'")),
    "no system, strictly in turns": each(refusing("message.role not in ['user', 'assistant']") + ALTERNATE),
    "only user and assistant": each(refusing("message.role not in ['user', 'assistant']")),
    "no two users": each(refusing(f"message.role == 'user' and {PREVIOUS}'user'"), CALLS, TOOLS_FIRST),
    "no two tools": each(refusing(f"message.role == 'tool' and {PREVIOUS}'tool'"), CALLS, TOOLS_FIRST),
    "one call a turn, no two tools": each(
        ONE_CALL + refusing(f"message.role == 'tool' and {PREVIOUS}'tool'"), CALLS, TOOLS_FIRST
    ),
    "no user after a tool": each(refusing(f"message.role == 'user' and {PREVIOUS}'tool'"), CALLS, TOOLS_FIRST),
    "no two assistants": each(refusing(f"message.role == 'assistant' and {PREVIOUS}'assistant'"), CALLS, TOOLS_FIRST),
    "no empty content": each(refusing("not message.content"), BODY),
    "system only first": each(refusing("message.role == 'system' and not loop.first"), CALLS, TOOLS_FIRST),
    "drops the system": "{% for message in messages %}{% if message.role != 'system' %}"
    + BODY
    + "{% endif %}{% endfor %}"
    + OPEN,
    "drops tools": "{% for message in messages %}{% if message.role != 'tool' %}"
    + BODY
    + "{% endif %}{% endfor %}"
    + OPEN,
    "no two of anything": each(
        refusing("loop.index0 > 0 and messages[loop.index0 - 1].role == message.role"), CALLS, TOOLS_FIRST
    ),
}
TOOL = ToolSpec(
    name="gcd",
    description="Greatest common divisor.",
    parameters={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
)
CALL = ToolCall(name="gcd", arguments={"n": 12})
TURNS = {
    "s": Message(role="system", content="zsystem"),
    "u": Message(role="user", content="zuser"),
    "a": Message(role="assistant", content="zassistant"),
    "e": Message(role="assistant", content=""),
    "c": Message(role="assistant", content="", tool_calls=(CALL,)),
    "d": Message(role="assistant", content="ztwo", tool_calls=(CALL, CALL)),
    "t": Message(role="tool", content="zresult"),
}
CONVERSATIONS = (
    "u",
    "su",
    "suau",
    "suct",
    "suctau",
    "sudtt",
    "suctu",
    "suctuct",
    "suctctau",
    "uauau",
    "sudttau",
    "sueu",
    "suuau",
    "suctuau",
)


@pytest.mark.parametrize("name", TEMPLATES)
def test_c1_strict_templates_get_turns_that_they_accept(name: str) -> None:
    transcripts = Transcripts(make_tokenizer(TEMPLATES[name]), name=name)
    for letters in CONVERSATIONS:
        messages = tuple(TURNS[letter] for letter in letters)
        for tools in ((TOOL,), ()):
            prompt = transcripts.prompt(ChatRequest(messages=messages, tools=tools), 10_000)
            text = transcripts.tokenizer.decode(prompt.ids)
            wanted = [message.content for message in messages if message.content]
            assert [word for word in re.findall(r"z[a-z]+", text) if word in wanted] == wanted, (letters, text)
            assert not tools or "gcd" in text
