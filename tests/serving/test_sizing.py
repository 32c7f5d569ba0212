"""Whether models fit GPUs, by their published configurations; and what an engine gets on a GPU and on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.engine_config import EngineConfig
from serving.sizing import GIB, ModelFacts, cpu_sizes, fit, gpu_sizes, read_facts
from serving.vllm_options import engine_options

QWEN_1_5B = {
    "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "intermediate_size": 8960, "vocab_size": 151_936, "max_position_embeddings": 32_768, "sliding_window": 32_768,
    "use_sliding_window": False,
}  # fmt: skip
QWEN_30B = {
    "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts_per_tok": 8, "vocab_size": 151_936,
    "max_position_embeddings": 262_144, "sliding_window": None,
}  # fmt: skip
GPT_OSS = {
    "hidden_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
    "intermediate_size": 2880, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131_072, "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
QWEN_NEXT = {  # a hybrid inside a multimodal model
    "vision_config": {},
    "text_config": {
        "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 256, "intermediate_size": 5120, "full_attention_interval": 4, "linear_num_value_heads": 32,
        "linear_value_head_dim": 128, "linear_key_head_dim": 128, "max_position_embeddings": 262_144,
    },
}  # fmt: skip
DEEPSEEK = {
    "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "intermediate_size": 18_432, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "max_position_embeddings": 163_840,
}  # fmt: skip
MISTRAL = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14_336, "sliding_window": 4096,
}  # fmt: skip
NEMOTRON = {
    "hidden_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 21_504, "hybrid_override_pattern": "M-M*-M", "mamba_num_heads": 128, "mamba_head_dim": 64,
    "ssm_state_size": 128,
}  # fmt: skip
CARD_24, CARD_80 = 24 * GIB, 80 * GIB


def facts(config: dict[str, Any], weights: float = 3.0) -> ModelFacts:
    found = read_facts(config, int(weights * 1e9))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "full", "sliding", "state"),
    [
        (QWEN_1_5B, 28_672, 0, 0),
        (QWEN_30B, 98_304, 0, 0),
        (GPT_OSS, 24_576, 24_576, 0),
        (QWEN_NEXT, 12 * 2048, 0, 36 * 4 * 32 * 128 * 128),
        (DEEPSEEK, 61 * 576 * 2, 0, 0),
        (MISTRAL, 0, 131_072, 0),
        ({**MISTRAL, "sliding_window_pattern": 4}, 8 * 4096, 24 * 4096, 0),
        (NEMOTRON, 4096, 0, 3 * 4 * 128 * 64 * 128),
    ],
)
def test_bytes_of_the_cache_per_token_and_sequence(config: dict[str, Any], full: int, sliding: int, state: int) -> None:
    found = facts(config)
    assert (found.full, found.sliding, found.state) == (full, sliding, state)
    window = found.window if sliding else 0
    assert found.sequence(100_000) == full * 100_000 + sliding * min(100_000, window) + state


def test_a_configuration_with_other_keys_gives_no_facts() -> None:
    assert read_facts({"n_embd": 768, "n_layer": 12}, 1) is None


def test_one_large_card_is_full_and_a_small_one_gets_what_fits() -> None:
    small = fit(facts(QWEN_1_5B, 3.1), EngineConfig(), CARD_80)
    assert small.fits
    assert (small.sizes.max_num_seqs, small.sizes.max_num_batched_tokens) == (1024, 16_384)
    assert small.sizes.max_model_len == 32_768
    large = fit(facts(QWEN_30B, 61.1), EngineConfig(), CARD_80)
    assert large.fits
    assert 64 < large.sizes.max_num_seqs < 256
    assert 50_000 < large.tokens < 150_000
    assert large.sizes.max_model_len < 262_144, "the model's own limit does not fit"
    assert abs(large.tokens * large.token - large.cache) < 0.01 * large.cache


@pytest.mark.parametrize(
    ("weights", "settings", "reason"),
    [
        (61.1, {}, "does not fit 21.6 GiB, 0.9 of 24 GiB: weights 56.9 GiB"),
        (61.1, {"tensor_parallel_size": 4}, None),
        (15.0, {"gpu_fraction": 0.3}, "does not fit 6.5 GiB, 0.27 of 24 GiB"),
        (15.0, {"max_model_len": 100_000}, "100000 tokens needs 9.2 GiB of KV cache, and .* GiB are left"),
        (15.0, {"max_model_len": 8192}, None),
        (30.0, {}, "does not fit"),
        (30.0, {"quantization": "fp8"}, None),
    ],
)
def test_what_does_not_fit_says_what_is_needed_and_what_there_is(
    weights: float, settings: dict[str, Any], reason: str | None
) -> None:
    found = fit(facts(QWEN_30B, weights), EngineConfig.model_validate(settings), CARD_24)
    assert found.fits == (reason is None)
    if reason is not None:
        import re

        assert re.search(reason, found.reason), found.reason


def test_a_smaller_cache_type_and_more_gpus_hold_more_tokens() -> None:
    def tokens(**settings: Any) -> int:
        return fit(facts(QWEN_30B, 30.0), EngineConfig.model_validate(settings), CARD_80).tokens

    assert tokens(kv_cache_dtype="fp8") == pytest.approx(2 * tokens(), rel=0.01)
    assert tokens(tensor_parallel_size=2) > 2 * tokens()
    assert tokens(gpu_fraction=0.5) < tokens()


def test_what_the_user_sets_stays() -> None:
    config = EngineConfig(max_model_len=4096, max_num_seqs=40, max_num_batched_tokens=2048)
    for sizes in (
        fit(facts(QWEN_1_5B), config, CARD_80).sizes,
        gpu_sizes(config, facts(QWEN_1_5B), CARD_80),
        cpu_sizes(config, facts(QWEN_1_5B)),
    ):
        assert (sizes.max_model_len, sizes.max_num_seqs, sizes.max_num_batched_tokens) == (4096, 40, 2048)


def test_on_a_cpu_the_numbers_are_small_and_no_longer_than_the_model() -> None:
    sizes = cpu_sizes(EngineConfig(), None)
    assert (sizes.max_model_len, sizes.max_num_seqs, sizes.max_num_batched_tokens) == (8192, 64, 8192)
    assert cpu_sizes(EngineConfig(), facts(QWEN_1_5B | {"max_position_embeddings": 2048})).max_model_len == 2048


def test_a_gpu_engine_gets_sizes_and_parallelism_and_arguments_passed_through() -> None:
    options = engine_options(Path("m"), EngineConfig(), memory=CARD_80)
    assert (options["max_model_len"], options["max_num_seqs"], options["max_num_batched_tokens"]) == (-1, 1024, 16_384)
    assert (options["distributed_executor_backend"], options["gpu_memory_utilization"]) == (None, 0.9)
    config = EngineConfig.model_validate(
        {
            "tensor_parallel_size": 4, "pipeline_parallel_size": 2, "expert_parallel": True, "quantization": "fp8",
            "kv_cache_dtype": "fp8", "speculative_config": {"method": "ngram"}, "vllm": {"cpu_offload_gb": 1},
        }
    )  # fmt: skip
    options = engine_options(Path("m"), config, memory=CARD_24, spans=True)
    names = (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "enable_expert_parallel",
        "quantization",
        "cpu_offload_gb",
    )
    assert [options[name] for name in names] == [4, 2, True, "fp8", 1]
    assert options["distributed_executor_backend"] == "ray"
    assert options["max_num_seqs"] == 256
    assert engine_options(Path("m"), config, memory=CARD_24)["distributed_executor_backend"] == "mp"
