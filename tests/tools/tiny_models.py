"""Tiny models of random weights in the architectures and with the chat templates of real families.

Random weights sample anything that a grammar lets through: where turns are legal, the grammar has seen to it and not
the model. The templates are those that TRL ships for its tests; Mistral's rules are written out below.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SMALL = {
    "hidden_size": 128,  # not every config has head_dim, and the attention for CPUs has no heads of fewer than 32
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
DELTA_NET = {
    "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 1, "linear_num_value_heads": 2,  # chunk_gated_delta_rule_cpu takes no heads of 32
}  # fmt: skip
MISTRAL = r"""
{%- if messages[0].role == "system" %}{% set system = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set rest = messages %}{% endif %}
{{- bos_token }}
{%- if system is defined %}{{- "[SYSTEM_PROMPT]" + system + "[/SYSTEM_PROMPT]" }}{% endif %}
{%- if tools %}{{- "[AVAILABLE_TOOLS]" + (tools | tojson) + "[/AVAILABLE_TOOLS]" }}{% endif %}
{%- set at = namespace(turn=0) %}
{%- for message in rest %}
{%- if message.role == "user" or (message.role == "assistant" and not message.tool_calls) %}
{%- if (message.role == "user") != (at.turn % 2 == 0) %}{{ raise_exception("roles must alternate") }}{% endif %}
{%- set at.turn = at.turn + 1 %}
{%- endif %}
{%- if message.role == "user" %}{{- "[INST]" + message.content + "[/INST]" }}
{%- elif message.role == "assistant" and message.tool_calls %}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("Tool call IDs should be of length 9!") }}{% endif %}
{{- "[TOOL_CALLS]" + call.function.name + "[CALL_ID]" + call.id + "[ARGS]" + (call.function.arguments | tojson) }}
{%- endfor %}{{- eos_token }}
{%- elif message.role == "assistant" %}{{- message.content + eos_token }}
{%- elif message.role == "tool" %}
{%- if message.tool_call_id | length != 9 %}{{ raise_exception("Tool call IDs should be of length 9!") }}{% endif %}
{{- "[TOOL_RESULTS]" + message.tool_call_id + "[TOOL_CONTENT]" + message.content + "[/TOOL_RESULTS]" }}
{%- endif %}
{%- endfor %}
"""


@dataclass(frozen=True)
class TinyFamily:
    """A family: its template, architecture, and the special tokens that end its turns."""

    name: str
    template: str
    """The name of TRL's file, or the text of a template."""
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    drops_thoughts: bool = False
    """Whether the template rewrites earlier turns without their thoughts, or without the mark of an empty one."""


FAMILIES = (
    TinyFamily("qwen2.5", "qwen2_5", "qwen2", ends=("<|im_end|>",)),
    TinyFamily("qwen3", "qwen3", "qwen3", ends=("<|im_end|>",), drops_thoughts=True),
    TinyFamily("qwen3-instruct", "qwen3_instruct_2507", "qwen3", ends=("<|im_end|>",)),
    TinyFamily(
        "qwen3.6",
        "qwen3_6",
        "qwen3_5_text",
        DELTA_NET,
        ends=("<|im_end|>",),
        drops_thoughts=True,
    ),
    TinyFamily(
        "qwen3.8",
        "qwen3_8",
        "qwen3_5_moe_text",
        {**DELTA_NET, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 32},
        ends=("<|im_end|>",),
    ),
    TinyFamily("llama3.1", "llama3_1", "llama", ends=("<|eot_id|>", "<|eom_id|>")),
    TinyFamily("llama3.2", "llama3_2", "llama", ends=("<|eot_id|>",)),
    TinyFamily("mistral-small-3", MISTRAL, "mistral"),
    TinyFamily("gemma3", "gemma3", "gemma3_text", {"sliding_window": 512}, ends=("<end_of_turn>",)),
    TinyFamily(
        "gemma4",
        "gemma4_v5",
        "gemma4_text",
        {
            "sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 64,
            "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 1024,
        },
        ends=("<turn|>", "<|tool_response>"),
        drops_thoughts=True,  # an empty one
    ),
    TinyFamily(
        "gpt-oss",
        "gptoss",
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128},
        ends=("<|return|>", "<|call|>"),
        drops_thoughts=True,
    ),
    TinyFamily(
        "glm4.5",
        "glm4moe",
        "glm4_moe",
        {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
        ends=("<|user|>", "<|observation|>"),
        drops_thoughts=True,
    ),
    TinyFamily(
        "deepseek-v3",
        "deepseekv3",
        "deepseek_v3",
        {
            **EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
            "topk_group": 1, "q_lora_rank": 32, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32,
            "v_head_dim": 32, "num_key_value_heads": 4, "topk_method": "noaux_tc",
        },
        ends=("<｜end▁of▁sentence｜>",),
        drops_thoughts=True,
    ),
    TinyFamily(
        "deepseek-r1-distill", "deepseek_r1_distill", "llama", ends=("<｜end▁of▁sentence｜>",), drops_thoughts=True
    ),
    TinyFamily(
        "nemotron3",
        "nemotron_3_nano",
        "nemotron_h",
        {
            # not its experts: vLLM's FusedMoE has is_act_and_mul=False only for CUDA, XPU and ROCm
            "layers_block_type": ["linear_attention", "mlp", "full_attention"], "num_hidden_layers": 3,
            "mamba_num_heads": 4, "mamba_head_dim": 32, "ssm_state_size": 32, "n_groups": 2,
        },
        ends=("<|im_end|>",),
        drops_thoughts=True,
    ),
    TinyFamily("phi3.5", "phi3_5", "phi3", {"pad_token_id": 0}, ends=("<|end|>",)),
)  # fmt: skip
MARK = re.compile(r"<\|?/?[\w▁｜|\"/:-]+\|?>|<｜[^｜]+｜>|\[/?[A-Z_]+\]|\[e~\[")
PLAIN = re.compile(r"</?(function|parameter|tools?|IMPORTANT|arg-|tool_response|name|description|required|br)\b")
"""Marks that families write with ordinary tokens."""


def templates() -> Path | None:
    """The folder of TRL's templates; None if it is not installed."""
    found = importlib.util.find_spec("trl")
    return None if found is None or found.origin is None else Path(found.origin).parent / "chat_templates"


def template_text(name: str) -> str:
    """A template by the name of TRL's file, or as it is if it is one already."""
    folder = templates()
    return name if "{" in name or folder is None else (folder / f"{name}.jinja").read_text(encoding="utf-8")


def make_tokenizer(
    template: str,
    *,
    text: str = '{"name": "gcd", "arguments": {"a": 1}} function parameter answer\n',
    bos: str | None = "<|bos|>",
    eos: str = "<|eos|>",
) -> Any:
    """A small byte-level tokenizer with a template and its marks as special tokens.

    It merges what is frequent in ``text``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[each for each in (bos, eos) if each is not None],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text] * 3, trainer)
    marks = {mark for mark in MARK.findall(template) if not PLAIN.match(mark)}
    if "<|call|>" in marks:
        marks.add("<|constrain|>")  # gpt-oss has it; its template does not use it
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in sorted(marks)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, chat_template=template)


def make_model(family: TinyFamily, folder: Path) -> Path:
    """Write a model of random weights to ``folder``. Returns it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    tokenizer = make_tokenizer(template_text(family.template))
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(family.ends))]
    config = AutoConfig.for_model(family.model_type, **{**SMALL, **family.config}, vocab_size=len(tokenizer))
    config.eos_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    return folder
