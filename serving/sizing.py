"""How much memory a model needs, and how long and how many its sequences can be on a given GPU.

vLLM measures this while it starts; here it is estimated from ``config.json`` and the size of the files, before anything
is loaded or even downloaded. The estimate leaves out what differs by GPU and version, so a result close to the limit
may go either way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from agentopt_local.record import Record
from serving.engine_config import CPU_QUANTIZATION, EngineConfig
from serving.hub import Listing, read_text
from serving.weight_files import folder_weights

GIB = 1 << 30
CPU_MODEL_LEN, CPU_SEQS, CPU_STEP = 8192, 64, 8192
LARGE_SHARE = 60 * GIB
"""Memory from which on an engine gets vLLM's own sizes of batches for large GPUs."""
LARGE, SMALL = (1024, 16_384), (256, 8192)
"""Sequences and tokens of the largest batch: vLLM's own for offline use, tuned by its authors."""
SEQUENCE = 512
"""Tokens that a sequence holds on average: most are unfinished and share their first tokens. A batch that proves too
large costs nothing, because rollouts wait outside the engine while its cache is full (admission.py)."""
SHORTEST = 2048
"""Context below which no agent can work."""
FIXED = int(1.5 * GIB)
"""Of the GPU's driver and libraries, and captured graphs."""
SHARES = {"8": 0.55, "4": 0.35}
"""Share of 16-bit weights that remains after quantization to so many bits; embeddings stay as they are."""

Kind = Literal["full", "sliding", "state", "none"]


class ModelFacts(Record):
    """What of a model decides its need for memory. Sizes are bytes on one GPU at 2 bytes per number."""

    weights: int
    """Bytes of its files of weights."""
    quantized: bool = False
    """Whether its files are quantized."""
    multimodal: bool = False
    max_positions: int | None = None
    """The longest context it was made for."""
    full: int
    """Bytes per token in the KV cache of the layers that attend to everything."""
    sliding: int = 0
    """Bytes per token of the layers that attend to the last ``window`` tokens."""
    window: int = 0
    state: int = 0
    """Bytes per sequence of the layers that keep a state instead of tokens."""
    heads: int = 1
    """KV heads, which tensor parallelism divides; 1 if it cannot."""
    step_token: int
    """Bytes of intermediate results per token of a step."""
    vocabulary: int = 0

    def sequence(self, tokens: int, share: float = 1.0) -> float:
        """Bytes of the cache for a sequence; ``share``: of the cache's bytes that is kept on one GPU."""
        return share * (self.full * tokens + self.sliding * min(tokens, self.window) + self.state)


class Sizes(Record):
    """The limits of an engine's batches."""

    max_model_len: int
    """Tokens of one sequence; -1: vLLM finds the most that fits."""
    max_num_seqs: int
    max_num_batched_tokens: int


class Fit(Record):
    """Whether and how a model fits a GPU."""

    fits: bool
    reason: str
    sizes: Sizes
    weights: int
    """Bytes of weights on each GPU."""
    cache: int
    """Bytes left for the KV cache on each GPU; 0 or less if the weights do not fit."""
    token: int
    """Bytes per token in the cache, on each GPU."""
    tokens: int
    """Capacity of the cache."""

    def __str__(self) -> str:
        sizes = self.sizes
        cache = max(self.cache, 0) / GIB
        return (
            f"weights {self.weights / GIB:.1f} GiB, KV cache {cache:.1f} GiB = {self.tokens:,} tokens at "
            f"{self.token / 1024:.0f} KiB; max_model_len {sizes.max_model_len}, max_num_seqs {sizes.max_num_seqs}, "
            f"max_num_batched_tokens {sizes.max_num_batched_tokens}"
        )


def read_facts(config: Mapping[str, Any], weights: int) -> ModelFacts | None:
    """The facts in a model's ``config.json``; None if its keys are not known. ``weights``: bytes of its files."""
    text = config.get("text_config") or config
    if not {"hidden_size", "num_hidden_layers"} <= text.keys():
        return None
    hidden = int(text["hidden_size"])
    heads = int(text.get("num_attention_heads") or 1)
    keys = int(text.get("num_key_value_heads") or heads)
    width = int(text.get("head_dim") or hidden // heads)
    kinds = layer_kinds(text)
    latent = text.get("kv_lora_rank")
    each = 2 * keys * width * 2
    whole = 2 * int(text.get("num_global_key_value_heads") or keys) * int(text.get("global_head_dim") or width) * 2
    if latent:  # DeepSeek keeps one compressed vector for all heads
        each = whole = (int(latent) + int(text.get("qk_rope_head_dim") or 0)) * 2
    experts = int(text.get("num_experts_per_tok") or text.get("experts_per_token") or 1)
    inner = max(int(text.get("moe_intermediate_size") or 0) * experts, int(text.get("intermediate_size") or 4 * hidden))
    return ModelFacts(
        weights=weights,
        quantized=bool(config.get("quantization_config") or text.get("quantization_config")),
        multimodal=any(key.endswith(("vision_config", "audio_config")) for key in config),
        max_positions=text.get("max_position_embeddings"),
        full=kinds.count("full") * whole,
        sliding=kinds.count("sliding") * each,
        window=int(text.get("sliding_window") or text.get("attention_chunk_size") or 0),
        state=kinds.count("state") * state_bytes(text),
        heads=1 if latent else keys,
        step_token=(8 * hidden + 3 * inner) * 2,
        vocabulary=int(text.get("vocab_size") or 0),
    )


def layer_kinds(text: Mapping[str, Any]) -> list[Kind]:
    """What each layer keeps of earlier tokens."""
    layers = int(text["num_hidden_layers"])
    names = text.get("layer_types") or text.get("layers_block_type") or list(text.get("hybrid_override_pattern") or "")
    if names:
        return [layer_kind(str(name)) for name in names]
    every = int(text.get("full_attention_interval") or 0)
    if every:
        return ["state" if (index + 1) % every else "full" for index in range(layers)]
    if not text.get("sliding_window") or text.get("use_sliding_window") is False:
        return ["full"] * layers
    every = int(text.get("sliding_window_pattern") or 0)
    return ["full" if every and (index + 1) % every == 0 else "sliding" for index in range(layers)]


def layer_kind(name: str) -> Kind:
    """The kind of a layer with the name that a configuration gives it."""
    if "sliding" in name or "chunked" in name:
        return "sliding"
    if name == "M" or any(word in name for word in ("linear", "mamba", "conv", "recurrent")):
        return "state"
    return "full" if name == "*" or "attention" in name else "none"


def state_bytes(text: Mapping[str, Any]) -> int:
    """Bytes that one layer with a state keeps for a sequence."""

    def number(name: str) -> int:
        return int(text.get(name) or 0)

    delta = number("linear_num_value_heads") * number("linear_value_head_dim") * number("linear_key_head_dim")
    mamba = number("mamba_num_heads") * number("mamba_head_dim") * number("ssm_state_size")
    return 4 * (delta + mamba)


def read_folder(model: Path) -> ModelFacts | None:
    """The facts of a model's folder; None if it has no configuration, or one of a kind that is not known."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read_facts(config, sum(path.stat().st_size for path in folder_weights(model) if path.exists()))


def read_listing(name: str, listing: Listing) -> ModelFacts | None:
    """The facts of a model on the hub, of which only its configuration is fetched. Raises ConfigError."""
    config = json.loads(read_text(name, listing.commit, "config.json"))
    return read_facts(config, listing.size(".safetensors"))


def cpu_sizes(config: EngineConfig, facts: ModelFacts | None) -> Sizes:
    """The sizes of a CPU engine."""
    limit = facts.max_positions if facts and facts.max_positions else CPU_MODEL_LEN
    return Sizes(
        max_model_len=min(CPU_MODEL_LEN, limit) if config.max_model_len == "auto" else config.max_model_len,
        max_num_seqs=CPU_SEQS if config.max_num_seqs == "auto" else config.max_num_seqs,
        max_num_batched_tokens=CPU_STEP if config.max_num_batched_tokens == "auto" else config.max_num_batched_tokens,
    )


def gpu_sizes(config: EngineConfig, facts: ModelFacts | None, memory: int) -> Sizes:
    """The sizes of an engine on GPUs with ``memory`` bytes each. vLLM itself finds the longest context that fits."""
    most, step = LARGE if memory * config.memory_share >= LARGE_SHARE else SMALL
    seqs = fit(facts, config, memory).sizes.max_num_seqs if facts else most
    seqs = seqs if config.max_num_seqs == "auto" else config.max_num_seqs
    return Sizes(
        max_model_len=-1 if config.max_model_len == "auto" else config.max_model_len,
        max_num_seqs=seqs,
        max_num_batched_tokens=max(step, seqs)
        if config.max_num_batched_tokens == "auto"
        else config.max_num_batched_tokens,
    )


def fit(facts: ModelFacts, config: EngineConfig, memory: int) -> Fit:
    """Whether a model fits GPUs with ``memory`` bytes each, and the sizes that ``auto`` stands for there."""
    share = memory * config.memory_share
    most, step = LARGE if share >= LARGE_SHARE else SMALL
    most = most if config.max_num_seqs == "auto" else config.max_num_seqs
    step = max(step, most) if config.max_num_batched_tokens == "auto" else config.max_num_batched_tokens
    weights = int(facts.weights * kept_share(facts, config) / slices(config))
    working = FIXED + step * facts.step_token // config.tensor_parallel_size + most * facts.vocabulary * 8
    cache = int(share - weights - working)
    part = cache_share(facts, config)
    token = int(part * (facts.full + facts.sliding))
    typical = facts.sequence(SEQUENCE, part) or 1
    limit = facts.max_positions or longest(facts, part, cache)
    length = min(limit, longest(facts, part, cache)) if config.max_model_len == "auto" else config.max_model_len
    seqs = max(8, min(most, int(max(cache, 0) / typical) // 8 * 8))
    have = f"{share / GIB:.1f} GiB, {config.memory_share:.2g} of {memory / GIB:.0f} GiB"
    need = facts.sequence(length, part)
    fits, reason = True, f"it fits {have}"
    if cache <= 0:
        fits = False
        reason = f"it does not fit {have}: weights {weights / GIB:.1f} GiB and working memory {working / GIB:.1f} GiB"
    elif length < min(SHORTEST, limit) or need > cache:
        fits = False
        wanted = length if need > cache else min(SHORTEST, limit)
        reason = (
            f"a sequence of {wanted} tokens needs {facts.sequence(wanted, part) / GIB:.1f} GiB of KV cache, and "
            f"{cache / GIB:.1f} GiB are left of {have}: at most {longest(facts, part, cache)} tokens fit"
        )
    return Fit(
        fits=fits,
        reason=reason,
        sizes=Sizes(
            max_model_len=length,
            max_num_seqs=seqs if config.max_num_seqs == "auto" else config.max_num_seqs,
            max_num_batched_tokens=step,
        ),
        weights=weights,
        cache=cache,
        token=token,
        tokens=int(max(cache, 0) / typical * SEQUENCE),
    )


def slices(config: EngineConfig) -> int:
    """Over how many GPUs the weights of a replica are distributed."""
    return config.gpus if config.expert_parallel else config.tensor_parallel_size * config.pipeline_parallel_size


def kept_share(facts: ModelFacts, config: EngineConfig) -> float:
    """The weights' size in memory, as a share of their size in files."""
    if facts.quantized or config.quantization in CPU_QUANTIZATION:
        return 1.0
    known = re.search(r"(?:fp|int)([48])", config.quantization)
    return SHARES[known[1]] if known else 1.0


def cache_share(facts: ModelFacts, config: EngineConfig) -> float:
    """The cache's size on one GPU, as a share of its size at 2 bytes on a single one."""
    number = 1.0
    if config.kv_cache_dtype.startswith(("fp8", "int8")):
        number = 0.5
    elif re.search(r"fp4|int4|4bit", config.kv_cache_dtype):
        number = 0.3
    elif config.kv_cache_dtype == "auto" and config.dtype == "float32":
        number = 2.0
    return number / min(config.tensor_parallel_size, facts.heads) / config.pipeline_parallel_size


def longest(facts: ModelFacts, share: float, cache: int) -> int:
    """Tokens of the longest sequence that a cache of so many bytes holds."""
    if facts.sequence(1, share) > cache:
        return 0
    shortest, above = 1, 1 << 24
    while above - shortest > 1:
        middle = (shortest + above) // 2
        shortest, above = (middle, above) if facts.sequence(middle, share) <= cache else (shortest, middle)
    return shortest
