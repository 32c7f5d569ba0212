"""The OpenAI-compatible adapter against vLLM's own server, with a reasoning parser and a tool parser."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Sampling, Thinking, ToolSpec
from agentopt_local.errors import ConfigError
from agentopt_local.models.openai import OpenAIChatModel
from agentopt_local.tool_calls import check_arguments
from tests.tools.servers import wait_until_healthy

pytestmark = pytest.mark.engine
TEMPLATE = """\
{%- if tools %}<|im_start|>system
The functions: {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for each in messages %}<|im_start|>{{ each.role }}
{% if each.reasoning_content or each.reasoning %}<think>
{{ each.reasoning_content or each.reasoning }}
</think>

{% endif %}{{ each.content or "" }}
{%- for call in each.tool_calls or [] %}
<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
<think>
{% if enable_thinking is defined and not enable_thinking %}
</think>

{% endif %}{% endif %}"""
SWITCH = ToolSpec(
    name="switch",
    description="Switch the lamp.",
    parameters={"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
)
TURN = Constraint(kind="turn", value=r"<answer>[0-9]</answer>", max_thought_sentences=0)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of random weights that ends each thought after some ten tokens, and a turn only where it must."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from serving.model_store import resolve

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve("qwen2.5-coder-0.5b", allow_fetch=False))
    except ConfigError as error:
        pytest.skip(f"the embedded test model is not here ({error}); make test fetches it")
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        # One large component in every hidden state makes a column of the output layer the logits of all tokens.
        model.model.embed_tokens.weight[:, 0] = 4.0
        column = model.lm_head.weight[:, 0]
        column.zero_()
        scale = 1 / math.sqrt(config.hidden_size)
        logits = {"</think>": math.log(len(tokenizer) / 9), "<tool_call>": 2.0}
        for token in ("<think>", "<|im_end|>", "<|endoftext|>"):
            logits[token] = -20.0
        for token, logit in logits.items():
            column[tokenizer.convert_tokens_to_ids(token)] = logit * scale
    folder: Path = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from serving import cpu
    from serving.engine_config import EngineConfig
    from serving.vllm_options import engine_environment

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | engine_environment(EngineConfig(kv_cache_gib=1), cpu=True, cores=cpu.cores())
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(tiny_model), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8"),
        *("--structured-outputs-config", '{"backend": "guidance"}', "--reasoning-parser", "qwen3"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ]
    written = tmp_path_factory.mktemp("log") / "server.log"
    with written.open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process, written, 300)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Recorder(httpx.AsyncHTTPTransport):
    """Notes the ``tool_choice`` of every request for a completion."""

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/chat/completions"):
            self.choices.append(json.loads(request.content)["tool_choice"])
        return await super().handle_async_request(request)


def ask(server: str, *requests: ChatRequest, transport: Recorder | None = None) -> list[ChatReply]:
    async def session() -> list[ChatReply]:
        settings: dict[str, Any] = {"send_seed": False, "max_resamples": 0, "max_retries": 0, "timeout_s": 120}
        model = OpenAIChatModel(server, "tiny", transport=transport, **settings)
        try:
            return await asyncio.gather(*map(model.complete, requests))
        finally:
            await model.aclose()

    return asyncio.run(session())


def question(effort: Any, **fields: Any) -> ChatRequest:
    given = {
        "messages": (Message(role="user", content="Is it dark?"),),
        "tools": (SWITCH,),
        "constraint": TURN,
        "sampling": Sampling(max_tokens=150, temperature=1.0),
        **fields,
    }
    return ChatRequest(thinking=Thinking(effort=effort, max_tokens=300), **given)


def check(reply: ChatReply) -> None:
    """That ``reply`` is a turn under ``TURN``."""
    assert reply.finish_reason == "stop"
    for call in reply.message.tool_calls:
        assert call.name == "switch"
        assert check_arguments(SWITCH, call.arguments) is None
    if not reply.message.tool_calls:
        assert re.fullmatch(r"<answer>[0-9]</answer>", reply.message.content)


def test_a_constrained_turn_after_a_thought_and_without_one(server: str) -> None:
    thoughtful = ask(server, *[question("on")] * 8)
    assert [reply for reply in thoughtful if not (reply.message.thought and reply.usage.thought_tokens)] == []
    quiet = ask(server, *[question("least")] * 4, *[question("off")] * 4)
    assert [reply for reply in quiet if reply.message.thought or reply.usage.thought_tokens] == []
    for reply in (*thoughtful, *quiet):
        check(reply)
        assert "think>" not in reply.message.content + reply.message.thought
    called = next(reply.message for reply in thoughtful if reply.message.tool_calls)
    history = (Message(role="user", content="Is it dark?"), called, Message(role="tool", content="yes"))
    check(ask(server, question("on"), question("on", messages=history))[1])


def test_a_free_turn_goes_through_the_servers_own_tool_parser(server: str) -> None:
    recorder = Recorder()
    free = question("off", constraint=None, sampling=Sampling(max_tokens=20, temperature=1.0))
    (reply,) = ask(server, free, transport=recorder)
    assert recorder.choices == ["auto"], "it is not refused"
    assert reply.finish_reason == "length"
