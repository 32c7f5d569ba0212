"""A model of random weights that vLLM loads in seconds: all of a family's plumbing and none of its knowledge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def random_llama(folder: Path, tokenizer: Path, **settings: Any) -> Path:
    """A Llama of two layers with the tokenizer of another model, written to ``folder``. ``settings``: of its config."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    }  # fmt: skip
    words = AutoTokenizer.from_pretrained(str(tokenizer))
    vocabulary = -(-len(words) // 64) * 64
    config = LlamaConfig(vocab_size=vocabulary, eos_token_id=words.eos_token_id, **(size | settings))
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    return folder
