"""Model families: their templates, the calls that their grammars let through, their thoughts, and engines of each."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Sampling, Thinking, ToolCall, ToolSpec
from agentopt_local.errors import ConfigError
from agentopt_local.tool_calls import check_arguments
from ray_jobs.cli import main
from serving.engine import transcripts_of as load_transcripts
from serving.family import Opening
from serving.transcript import Transcripts
from serving.weight_files import text_files
from tests.tools.tiny_models import FAMILIES, TinyFamily, make_model, make_tokenizer, template_text, templates

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch and vLLM, when they are imported
pytest.importorskip("vllm")
FOLDER = templates()
if FOLDER is None:
    pytest.skip("trl, which ships the templates, is not installed", allow_module_level=True)
SURVEYED = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "flag": {"type": "boolean"},
        "mode": {"enum": ["fast", "slow"]},
        "text": {"type": "string"},
        "xs": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "names": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "table": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "required": ["n", "text"],
}
FIRM = {**PARAMETERS, "properties": {key: PARAMETERS["properties"][key] for key in ("n", "flag", "mode", "xs")}}
FIRM["required"] = ["n"]
TOOLS = (
    ToolSpec(name="gcd", description="Greatest common divisor.", parameters=PARAMETERS),
    ToolSpec(name="now", description="The time.", parameters={"type": "object", "properties": {}}),
    ToolSpec(name="options", description="All optional.", parameters={**PARAMETERS, "required": []}),
)
FIRM_TOOLS = tuple(ToolSpec(name=name, description="Does it.", parameters=FIRM) for name in ("gcd", "lcm"))
"""Their arguments end by themselves; random weights would hardly ever end a string."""
ANSWER = Constraint(kind="turn", value=r"<answer>[a-z]{1,9}</answer>", max_thought_sentences=0)
SYSTEM = Message(role="system", content="You are zsystem.")
ASK = Message(role="user", content="What is zask?")
NUDGE = Message(role="user", content="Go on, znudge.")
RESULT = Message(role="tool", content="zresult")
SAY = Message(role="assistant", content="It is zsay.")
GCD = ToolCall(name="gcd", arguments={"n": 12, "text": 'a "b"\n<c>', "flag": False, "xs": [1, 25]})
CALL = Message(role="assistant", content="", tool_calls=(GCD,))
TALK_AND_CALL = Message(role="assistant", content="I call it.", thought="zthought", tool_calls=(GCD,))
TWO = Message(role="assistant", content="Twice.", tool_calls=(GCD, ToolCall(name="now", arguments={})))
CONVERSATIONS = (
    (ASK,),
    (SYSTEM, ASK),
    (SYSTEM, ASK, SAY, NUDGE),  # a turn that neither acts nor answers; the output of code
    (SYSTEM, ASK, CALL, RESULT),
    (SYSTEM, ASK, TALK_AND_CALL, RESULT, SAY, NUDGE),
    (SYSTEM, ASK, TWO, RESULT, RESULT),
    (SYSTEM, ASK, CALL, RESULT, NUDGE),  # an attempt that repeats itself
    (SYSTEM, ASK, SAY, NUDGE, NUDGE),
    (SYSTEM, ASK, CALL, RESULT, CALL, RESULT, NUDGE, SAY, NUDGE),
    (ASK, SAY, NUDGE, SAY, NUDGE),  # the optimizer's
)
"""The kinds of conversation that agents and optimizer have."""


@functools.cache
def transcripts_of(template: str, ends: tuple[str, ...] = ()) -> Transcripts:
    tokenizer = make_tokenizer(template_text(template))
    return Transcripts(tokenizer, name=template, stop_ids=tokenizer.convert_tokens_to_ids(list(ends)))


@pytest.mark.parametrize("template", SURVEYED)
def test_no_template_refuses_what_agents_say_or_drops_it(template: str) -> None:
    transcripts = transcripts_of(template)
    for messages in CONVERSATIONS:
        for tools in ((), TOOLS):
            for effort in ("off", "least", "on", "high"):
                request = ChatRequest(messages=messages, tools=tools, thinking=Thinking(effort=effort))
                text = transcripts.tokenizer.decode(transcripts.prompt(request, 10_000).ids)
                at = -1
                for message in messages:
                    word = next((word for word in message.content.split() if word.startswith("z")), "")
                    at = text.find(word.strip(".?"), at + 1)
                    assert at >= 0, f"{word} is missing in {text}"
                assert all(tool.name in text for tool in tools)


@pytest.mark.parametrize("template", SURVEYED)
def test_the_ids_of_a_later_turn_say_what_the_template_says(template: str) -> None:
    transcripts = transcripts_of(template)
    for effort in ("least", "on"):
        thinking = Thinking(effort=effort)
        for reply in (SAY, SAY.model_copy(update={"thought": "zthought"}), CALL):
            request = ChatRequest(messages=(SYSTEM, ASK), tools=TOOLS, thinking=thinking, conversation=effort)
            prompt = transcripts.prompt(request, 100_000)
            then = (*request.messages, reply)
            whole = transcripts.render(then, TOOLS, prompt.variables, open_turn=False)
            shown = transcripts.tokenizer.decode(prompt.ids)
            said = whole[len(shown) :] if whole.startswith(shown) else reply.content
            said = transcripts.family.marks and re.split("|".join(map(re.escape, transcripts.stop_marks)), said)[0]
            transcripts.remember(request, prompt, reply, transcripts.encode(said))
            after = RESULT if reply.tool_calls else NUDGE
            later = request.model_copy(update={"messages": (*then, after)})
            expected = transcripts.render(later.messages, TOOLS, prompt.variables, open_turn=True)
            expected += transcripts.prompt(later, 100_000).opening.added
            assert transcripts.tokenizer.decode(transcripts.prompt(later, 100_000).ids) == expected


def read_back(
    transcripts: Transcripts, turn: Message, tools: tuple[ToolSpec, ...], *, undoubled: bool = False
) -> tuple[ToolCall, ...]:
    """The calls of ``turn``, written by the template and read; ``undoubled``: with single backslashes, as models do.

    After a question: DeepSeek's template writes a call after a result without the mark that begins calls.
    """
    opened = transcripts.encode(transcripts.render((SYSTEM, ASK), tools, {}, open_turn=True))
    said = (SYSTEM, ASK, turn.model_copy(update={"thought": ""}))
    written = transcripts.render(said, tools, {}, open_turn=False).rstrip()
    whole = transcripts.encode(written.replace("\\\\", "\\") if undoubled else written)
    start = next((i for i, (a, b) in enumerate(zip(opened, whole, strict=False)) if a != b), len(opened))
    return transcripts.family.read(whole[start:], tools, None, Opening(thought="none"))[0].tool_calls


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.name)
def test_a_call_is_read_as_it_was_rendered(family: TinyFamily) -> None:
    transcripts = transcripts_of(family.template, family.ends)
    assert read_back(transcripts, CALL, TOOLS) == (GCD,)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.name)
def test_t4_latex_survives_in_the_form_of_each_family(family: TinyFamily) -> None:
    transcripts = transcripts_of(family.template, family.ends)
    texts = (r"\frac{1}{2} + \sqrt{2}", r"x \ne \theta", r"\(\beta\)", r"C:\new\table.txt", "x = 1\nu = 2", "a\tb")
    for text in texts:
        call = GCD.model_copy(update={"arguments": {"n": 1, "text": text}})
        turn = CALL.model_copy(update={"tool_calls": (call,)})
        assert read_back(transcripts, turn, TOOLS) == (call,)
        assert read_back(transcripts, turn, TOOLS, undoubled=True) == (call,)


def sample(guide: Any, transcripts: Transcripts, constraint: Constraint, draw: random.Random) -> list[int]:
    """A turn that a grammar lets through: random tokens, with a liking for special ones and for what ends a string."""
    import llguidance
    import llguidance.torch
    import numpy as np

    kind = "json" if constraint.kind == "json_schema" else constraint.kind
    matcher = llguidance.LLMatcher(guide, llguidance.grammar_from(kind, constraint.value), log_level=0)
    assert matcher.get_error() == "", constraint.value
    mask = llguidance.torch.allocate_token_bitmask(1, guide.vocab_size)
    marks = [index for index in transcripts.family.marks.values() if index not in transcripts.stop_ids]
    closers = [transcripts.encode(text)[0] for text in ("</", ">", '"', "'", "\n", "}", "]", "parameter")]
    ids: list[int] = []
    for step in range(3000):
        llguidance.torch.fill_next_token_bitmask(matcher, mask)
        allowed = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")[: guide.vocab_size]
        stops = [index for index in transcripts.stop_ids if allowed[index]]
        wanted = [index for index in (marks if step < 400 or draw.random() < 0.5 else closers) if allowed[index]]
        if stops and draw.random() < 0.8:
            chosen = draw.choice(stops)
        elif wanted and draw.random() < 0.3:
            chosen = draw.choice(wanted)
        else:
            chosen = int(draw.choice(np.flatnonzero(allowed)))
        ids.append(chosen)
        if chosen in transcripts.stop_ids:
            return ids
        assert matcher.consume_token(chosen), matcher.get_error()
    return ids


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.name)
def test_whatever_a_grammar_lets_through_is_a_legal_turn_and_the_ids_grow(family: TinyFamily) -> None:
    import llguidance.hf

    transcripts = transcripts_of(family.template, family.ends)
    guide = llguidance.hf.from_tokenizer(transcripts.tokenizer)
    draw = random.Random(family.name)
    calls = whole = 0
    for attempt in range(12):
        thinking = Thinking(effort=draw.choice(["off", "least", "on"]), max_tokens=40)
        messages: tuple[Message, ...] = (SYSTEM, ASK)
        known: list[int] = []
        offered = draw.choice([TOOLS, FIRM_TOOLS])
        for _ in range(3):
            request = ChatRequest(
                messages=messages,
                tools=offered,
                constraint=ANSWER.model_copy(update={"max_thought_sentences": draw.choice([0, 2])}),
                thinking=thinking,
                conversation=str(attempt),
            )
            prompt = transcripts.prompt(request, 100_000)
            if not family.drops_thoughts:
                assert prompt.ids[: len(known)] == known, transcripts.tokenizer.decode(prompt.ids)[-900:]
            constraint = transcripts.constraint(request, prompt.opening)
            assert constraint is not None
            sampled = sample(guide, transcripts, constraint, draw)
            message, thought = transcripts.read(request, prompt, sampled)
            transcripts.remember(request, prompt, message, sampled)
            ended = sampled[-1] in transcripts.stop_ids
            known = prompt.ids + (sampled[:-1] if ended else sampled)
            tools = {tool.name: tool for tool in request.tools}
            assert thought <= 40 + 20  # its marks
            if ended:
                whole += 1
                calls += len(message.tool_calls)
                said = message.content
                text = transcripts.tokenizer.decode(sampled)
                assert message.tool_calls or (said.startswith("<answer>") and said.endswith("</answer>")), text
                for call in message.tool_calls:
                    assert check_arguments(tools[call.name], call.arguments) is None, call
                assert read_back(transcripts, message, offered) == message.tool_calls
            messages = (*messages, message, *(RESULT for _ in message.tool_calls))
            messages = messages if message.tool_calls else (*messages, NUDGE)
    assert whole > 12
    assert calls > 3


THINKING = ("qwen3", "qwen3.6", "glm4.5", "gpt-oss", "gemma4", "nemotron3")
THINKERS = [family for family in FAMILIES if family.name in THINKING]


@pytest.mark.parametrize("family", THINKERS, ids=lambda each: each.name)
def test_a_thought_is_apart_and_what_it_calls_is_not_called(family: TinyFamily) -> None:
    transcripts = transcripts_of(family.template, family.ends)
    made = transcripts.family
    request = ChatRequest(messages=(SYSTEM, ASK), tools=TOOLS, thinking=Thinking(effort="on"))
    prompt = transcripts.prompt(request, 10_000)
    assert prompt.opening.thought != "none"
    call = '<tool_call>\n{"name": "gcd", "arguments": {"n": 1, "text": ""}}\n</tool_call> ```python\nprint(1)\n```'
    opened = "" if prompt.opening.thought == "begun" else made.thought_open
    spoken = made.template.rules.text_opening + "<answer>six</answer>"
    message, tokens = made.read(
        [*transcripts.encode(f"{opened}{call}{made.thought_close}{spoken}"), transcripts.stop_ids[-1]],
        TOOLS,
        None,
        prompt.opening,
    )
    assert "gcd" in message.thought
    assert message.content == "<answer>six</answer>"
    assert message.tool_calls == ()
    assert tokens > 20
    cut, _ = made.read(transcripts.encode(f"{opened}{call}"), TOOLS, None, prompt.opening)
    assert (cut.content, cut.tool_calls) == ("", ())
    assert "gcd" in cut.thought


ALWAYS = """{%- for message in messages %}
{{- message.role + ": " + message.content.split("</think>")[-1] + "\n" }}{% endfor %}
{%- if add_generation_prompt %}{{ "assistant: <think>\n" }}{% endif %}"""


@pytest.mark.parametrize(
    "written",
    [
        ' to=functions.gcd<|channel|>commentary json<|message|>{"n": 1, "text": ""}',
        '<|channel|>commentary to=functions.gcd <|constrain|>json<|message|>{"n": 1, "text": ""}',
        ' to=functions.gcd<|channel|>commentary <|constrain|>json<|message|>{"n": 1, "text": ""}',
    ],
)
def test_gpt_oss_may_name_the_function_before_or_after_the_channel(written: str) -> None:
    family = next(each for each in FAMILIES if each.name == "gpt-oss")
    transcripts = transcripts_of(family.template, family.ends)
    sampled = [*transcripts.encode(written), transcripts.encode("<|call|>")[0]]
    message, _ = transcripts.family.read(sampled, TOOLS, None, Opening(thought="allowed"))
    assert message.tool_calls == (ToolCall(name="gcd", arguments={"n": 1, "text": ""}),)


def test_a_thought_may_begin_in_the_token_that_ends_its_mark() -> None:
    family = next(each for each in FAMILIES if each.name == "gemma4")
    transcripts = transcripts_of(family.template, family.ends)
    tokenizer = transcripts.tokenizer
    longer = next(text for text in ("ter", "tion", "te", "ta", "t ") if len(transcripts.encode(text)) == 1)
    spelled = [transcripts.encode(char)[0] for char in "though"]
    sampled = [*transcripts.encode("<|channel>"), *spelled, *transcripts.encode(longer)]
    sampled += transcripts.encode("<channel|><answer>six</answer>")
    assert tokenizer.decode(sampled).startswith(f"<|channel>though{longer}<channel|>")
    message, _ = transcripts.family.read(sampled, TOOLS, None, Opening(thought="allowed"))
    assert (message.content, message.tool_calls) == ("<answer>six</answer>", ())
    assert message.thought == longer.strip()


def test_a_thought_that_the_template_begins_is_ended_where_none_is_wanted() -> None:
    transcripts = transcripts_of(ALWAYS)
    assert transcripts.family.thinks == "always"
    for thinking, end, thought in (
        (Thinking(effort="off"), "<think>\n</think>\n\n", "none"),
        (Thinking(effort="on", max_tokens=0), "<think>\n</think>\n\n", "none"),
        (Thinking(effort="least"), "<think>\n", "begun"),
    ):
        prompt = transcripts.prompt(ChatRequest(messages=(ASK,), thinking=thinking), 10_000)
        assert transcripts.tokenizer.decode(prompt.ids).endswith(f"assistant: {end}")
        assert prompt.opening.thought == thought


def test_a_thought_leaves_room_for_the_reply() -> None:
    transcripts = transcripts_of(ALWAYS)
    request = ChatRequest(messages=(ASK,), thinking=Thinking(max_tokens=900), sampling=Sampling(max_tokens=100))
    length = len(transcripts.prompt(request, 10_000).ids)
    assert transcripts.prompt(request, length + 600).opening.max_tokens == 500
    assert transcripts.prompt(request, length + 110).opening.thought == "none"
    short = request.model_copy(update={"thinking": Thinking(max_tokens=5)})
    assert transcripts.prompt(short, length + 600).opening.max_tokens == 5


def test_mistrals_own_tokenizer_beside_the_usual_one_is_left_alone(tmp_path: Path) -> None:
    import mistral_common

    family = next(each for each in FAMILIES if each.name == "mistral-small-3")
    make_model(family, tmp_path)
    shutil.copy(Path(mistral_common.__file__).parent / "data" / "tekken_240911.json", tmp_path / "tekken.json")
    assert load_transcripts(tmp_path).family.template.rules.calls
    assert "tekken.json" not in text_files(["tekken.json", "tokenizer.json", "config.json"])


def test_doctor_says_what_family_a_model_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(next(each for each in FAMILIES if each.name == "glm4.5"), tmp_path)
    assert main(["doctor", str(tmp_path)]) == 0
    assert "calls: glm45; thinks: if switched on" in capsys.readouterr().out
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('never') }}", encoding="utf-8")
    assert main(["doctor", str(tmp_path)]) == 1
    assert "does not render a single question: never" in " ".join(capsys.readouterr().out.split())


def test_a_tokenizer_that_cannot_be_loaded_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"the tokenizer of .* cannot be loaded"):
        load_transcripts(tmp_path)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.name)
def test_odd_text_is_read_in_bounded_time(family: TinyFamily) -> None:
    transcripts = transcripts_of(family.template, family.ends)
    reader, form = transcripts.family.reader, transcripts.family.template.rules.form
    if reader is None or form is None:
        return  # the readers of tests/core/test_readers.py
    begun = form.opening + "gcd" + form.named
    for seed in (form.opening, begun, begun + form.before + "n" + form.between, form.closing, '{"n": [', '"', "<"):
        seconds = []
        for size in (8_000, 64_000):
            started = time.process_time()
            reader.read((seed * size)[:size], TOOLS)
            seconds.append(time.process_time() - started)
        # vLLM's parsers are not all linear; no turn is longer than this
        assert seconds[1] < 40 * max(seconds[0], 0.1), seed


ALL = "AGENTOPT_ALL_FAMILIES" in os.environ
"""Set this variable to start an engine of every family, which takes a quarter of an hour; otherwise these, which differ
most: Gated DeltaNet and experts with thoughts that stay, Mamba2, and Harmony."""
IN_CI = ("qwen3.8", "nemotron3", "gpt-oss")
CONFIG = {
    "concurrency": 16,
    "task": {"spec": "reasoning_gym:spell_backward", "n_train": 4, "n_test": 2},
    "agent": {"max_turns": 2, "max_turn_tokens": 60, "think": False, "interpreter": False},
    "optimizer": {"n_samples": 2, "max_retries": 0, "max_source_tokens": 80, "max_actions": 1},
    "trainer": {"max_epochs": 1, "noise_floor": False},
}


def noting(folder: Path, config: Any, notes: Path) -> Any:
    """An engine that notes the ids of each prompt, and of the prompt with its turn."""
    from serving.engine import Engine

    class Noting(Engine):
        async def complete(self, request: ChatRequest) -> ChatReply:
            reply = await super().complete(request)
            if request.conversation in self.transcripts.conversations:
                made = self.transcripts.conversations[request.conversation]
                with notes.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([request.conversation, made.prompt.ids, made.ids]) + "\n")
            return reply

    return Noting(folder, config, cpu=True)


async def converse(pool: Any, number: int) -> list[tuple[ChatRequest, ChatReply]]:
    """Three turns of a conversation; every other one thinks if it can."""
    messages: tuple[Message, ...] = (SYSTEM, Message(role="user", content=f"What is {number}?"))
    made = []
    for turn in range(3):
        request = ChatRequest(
            messages=messages,
            tools=FIRM_TOOLS,
            constraint=ANSWER,
            thinking=Thinking(effort="on" if number % 2 else "least", max_tokens=12),
            sampling=Sampling(max_tokens=200, temperature=1.0, seed=10 * number + turn),
            conversation=f"talk {number}",
        )
        reply = await pool.complete(request)
        made.append((request, reply))
        messages = (*messages, reply.message, *(RESULT for _ in reply.message.tool_calls))
        messages = messages if reply.message.tool_calls else (*messages, NUDGE)
    return made


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("family", [each for each in FAMILIES if ALL or each.name in IN_CI], ids=lambda each: each.name)
def test_an_engine_takes_its_turns_and_trains(family: TinyFamily, tmp_path: Path, cluster: None) -> None:
    from agentopt_local.run.report import Report
    from agentopt_local.run.writer import RunDir
    from ray_jobs.config import build
    from ray_jobs.training import train
    from serving.engine_config import EngineConfig, HostedModel
    from serving.pool import host
    from serving.vllm_options import engine_environment

    folder = make_model(family, tmp_path / "model")
    notes = tmp_path / "notes.jsonl"

    async def work() -> tuple[list[tuple[ChatRequest, ChatReply]], Report]:
        config = EngineConfig(device="cpu", max_model_len=4096, max_num_seqs=64, kv_cache_gib=0.5)
        env = engine_environment(config, cpu=True, cores=2)
        hosted = HostedModel(model=str(folder), device="cpu")
        pool = await host(functools.partial(noting, folder, config, notes), config, hosted, env=env)
        try:
            many = await asyncio.gather(*(converse(pool, number) for number in range(68)))
            with contextlib.closing(RunDir(tmp_path / "run", create=True)) as run_dir:
                report = await train(build(CONFIG, "this test"), run_dir, model=pool)
            return [each for made in many for each in made], report
        finally:
            await pool.aclose()

    turns, report = asyncio.run(work())
    assert report.test is not None
    assert len(turns) == 204
    transcripts = load_transcripts(folder)
    calls = 0
    for _, reply in turns:
        assert reply.finish_reason == "stop"
        message = reply.message
        calls += len(message.tool_calls)
        assert message.tool_calls or (message.content[:8], message.content[-9:]) == ("<answer>", "</answer>")
        assert all(check_arguments(FIRM_TOOLS[0], call.arguments) is None for call in message.tool_calls)
        assert {call.name for call in message.tool_calls} <= {"gcd", "lcm"}
        assert read_back(transcripts, message, FIRM_TOOLS) == message.tool_calls
    assert calls > 40
    assert any(reply.message.thought for _, reply in turns) == (transcripts.family.thinks != "never")

    known: dict[str, list[int]] = {}
    grown = 0
    for conversation, prompt, whole in map(json.loads, notes.read_text(encoding="utf-8").splitlines()):
        before = known.get(conversation, [])
        grown += bool(before) and prompt[: len(before)] == before
        known[conversation] = whole if conversation.startswith("talk") else []
    assert grown == 136 or family.drops_thoughts
    if not family.drops_thoughts and "layer_types" not in family.config:  # Gated DeltaNet's blocks hold 544 tokens
        assert sum(reply.usage.cached_tokens for _, reply in turns) > 0
