"""Small but complete GGUF files made here must load in transformers with the same numbers and tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentopt_local.errors import ConfigError
from serving import gguf as ours
from serving.model_store import EMBEDDED, Sources, resolve

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

HIDDEN, HEADS, KV_HEADS, FFN, LAYERS = 32, 4, 2, 64, 2
HEAD_DIM = HIDDEN // HEADS
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN_ADDED = ["<tool_call>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def vocabulary() -> tuple[list[str], list[int], list[str]]:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w"]
    tokens = letters + [merge.replace(" ", "") for merge in merges] + SPECIAL + PLAIN_ADDED
    types = [ours.NORMAL] * (len(letters) + len(merges))
    types += [ours.CONTROL] * len(SPECIAL) + [ours.USER_DEFINED] * len(PLAIN_ADDED)
    return tokens, types, merges


def layer_shapes() -> dict[str, tuple[int, ...]]:
    kv = KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (HIDDEN,),
        "ffn_norm.weight": (HIDDEN,),
        "attn_q.weight": (HIDDEN, HIDDEN),
        "attn_k.weight": (kv, HIDDEN),
        "attn_v.weight": (kv, HIDDEN),
        "attn_output.weight": (HIDDEN, HIDDEN),
        "ffn_gate.weight": (FFN, HIDDEN),
        "ffn_up.weight": (FFN, HIDDEN),
        "ffn_down.weight": (HIDDEN, FFN),
    }
    biases = {"attn_q.bias": (HIDDEN,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
    return shapes | biases


def write_gguf(
    path: Path, architecture: str = "qwen2", pre: str = "qwen2", output: str = "", rope_scaling: bool = False
) -> dict[str, Any]:
    """A GGUF file; returns the float32 weights that it stands for, by GGUF name."""
    tokens, types, merges = vocabulary()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    if rope_scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        biased = architecture == "qwen2"
        shapes |= {f"blk.{layer}.{n}": s for n, s in layer_shapes().items() if biased or not n.endswith("bias")}
    floats = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if output == "same":
        floats["output.weight"] = floats["token_embd.weight"]
    elif output == "other":
        floats["output.weight"] = random.standard_normal(shapes["token_embd.weight"]).astype(np.float32)
    kinds = gguf.GGMLQuantizationType
    stored = {}
    for name, values in floats.items():
        kind = kinds.F32 if values.ndim == 1 else kinds.F16 if name == "output.weight" else kinds.Q8_0
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        stored[name] = gguf.quants.dequantize(data, kind).reshape(values.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def load_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def as_bfloat16(values: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)


def test_weights_are_the_dequantised_ones_rounded_to_bfloat16(tmp_path: Path) -> None:
    stored = write_gguf(tmp_path / "m.gguf")
    seen: list[tuple[int, int]] = []
    ours.convert(tmp_path / "m.gguf", tmp_path / "out", lambda done, total: seen.append((done, total)))
    weights = load_weights(tmp_path / "out")
    assert weights.keys() == {ours.huggingface_name(name) for name in stored}
    for name, values in stored.items():
        assert torch.equal(weights[ours.huggingface_name(name)], as_bfloat16(values)), name
    assert seen[-1] == (sum(2 * v.size for v in stored.values()),) * 2


def test_blocks_cover_a_tensor_once_and_in_order() -> None:
    tensor = ours.Tensor("t", np.zeros((1000, 1024), np.float32), gguf.GGMLQuantizationType.F32, (1000, 1024), None)
    blocks = list(tensor.blocks())
    assert len(blocks) == 4
    assert [first for first, _ in blocks] == [rows.start * 1024 for _, rows in blocks]
    assert sum(len(tensor.bfloat16(rows)) for _, rows in blocks) == 2 * 1000 * 1024


def test_bfloat16_rounds_to_nearest_even() -> None:
    bits = np.arange(0x3F800000, 0x3F800000 + (1 << 18), 7, dtype=np.uint32)
    values = bits.view(np.float32)
    tensor = ours.Tensor("t", values, gguf.GGMLQuantizationType.F32, values.shape, None)
    assert tensor.bfloat16(slice(None)) == as_bfloat16(values).view(torch.int16).numpy().tobytes()


def test_the_folder_loads_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "m.gguf")
    ours.convert(tmp_path / "m.gguf", tmp_path / "out")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.rms_norm_eps == 1e-6
    assert model.config.rope_parameters["rope_theta"] == 1e6
    assert model.config.tie_word_embeddings
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, len(vocabulary()[0]))
    assert torch.isfinite(logits).all()


def test_the_tokenizer_keeps_added_tokens_and_the_template(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_gguf(tmp_path / "m.gguf")
    ours.convert(tmp_path / "m.gguf", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens, _, _ = vocabulary()
    ids = tokenizer("hello world<|im_end|><tool_call>é").input_ids
    assert [tokens[i] for i in ids] == ["hello", "Ġw", *"orld", "<|im_end|>", "<tool_call>", "Ã", "©"]
    assert tokenizer.decode(ids) == "hello world<|im_end|><tool_call>é"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello world<tool_call>é"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.bos_token is None
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n"
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert [tokens[i] for i in ends] == ["<|im_end|>", "<|endoftext|>"]


def test_a_tied_matrix_stored_twice_is_written_once_from_the_finer_copy(tmp_path: Path) -> None:
    stored = write_gguf(tmp_path / "m.gguf", output="same")
    ours.convert(tmp_path / "m.gguf", tmp_path / "out")
    weights = load_weights(tmp_path / "out")
    assert "lm_head.weight" not in weights
    assert torch.equal(weights["model.embed_tokens.weight"], as_bfloat16(stored["output.weight"]))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_an_output_matrix_of_its_own_stays(tmp_path: Path) -> None:
    stored = write_gguf(tmp_path / "m.gguf", output="other")
    ours.convert(tmp_path / "m.gguf", tmp_path / "out")
    assert torch.equal(load_weights(tmp_path / "out")["lm_head.weight"], as_bfloat16(stored["output.weight"]))
    assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_llama_rows_return_to_the_order_of_rotary_halves(tmp_path: Path) -> None:
    stored = write_gguf(tmp_path / "m.gguf", architecture="llama", pre="smollm")
    ours.convert(tmp_path / "m.gguf", tmp_path / "out")
    weights = load_weights(tmp_path / "out")
    for kind, heads in (("q", HEADS), ("k", KV_HEADS)):
        written = weights[f"model.layers.1.self_attn.{kind}_proj.weight"]
        # what a conversion to GGUF does to Hugging Face's rows
        interleaved = written.reshape(heads, 2, HEAD_DIM // 2, HIDDEN).swapaxes(1, 2).reshape(written.shape)
        assert torch.equal(interleaved, as_bfloat16(stored[f"blk.1.attn_{kind}.weight"]))


def test_what_is_not_covered_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"architecture": "gemma"}, "architecture 'gemma'"),
        ({"pre": "llama-bpe"}, "tokenizer gpt2/llama-bpe"),
        ({"rope_scaling": True}, "rope scaling"),
    ]
    for n, (options, message) in enumerate(cases):
        write_gguf(tmp_path / f"{n}.gguf", **options)
        with pytest.raises(ConfigError, match=message):
            ours.convert(tmp_path / f"{n}.gguf", tmp_path / f"out{n}")
    with pytest.raises(ConfigError, match=r"GGUF tensor 'rope_freqs\.weight' is not covered"):
        ours.huggingface_name("rope_freqs.weight")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ConfigError, match="not a readable GGUF file"):
        ours.convert(tmp_path / "m.gguf", tmp_path / "out")
    write_gguf(tmp_path / "whole.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:-5000])
    with pytest.raises(ConfigError, match="not a readable GGUF file"):
        ours.convert(tmp_path / "cut.gguf", tmp_path / "out")


def test_the_real_smollm2_package() -> None:
    from safetensors import safe_open
    from transformers import AutoConfig, AutoTokenizer

    def no_hub(hub_id: str, progress: object) -> Path:
        raise ConfigError("only the package is tried here")

    sources = Sources(EMBEDDED, lambda hub_id: None, no_hub)
    try:
        folder = resolve("smollm2-135m", allow_fetch=True, sources=sources)
    except ConfigError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(str(error))
    assert sum(file.stat().st_size for file in folder.iterdir()) == EMBEDDED["smollm2-135m"].size_bytes
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.num_hidden_layers, config.tie_word_embeddings) == ("llama", 30, True)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert len(list(weights.keys())) == 272
        assert weights.get_slice("model.embed_tokens.weight").get_shape() == [config.vocab_size, config.hidden_size]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "def gcd(a: int, b: int) -> int:\n    return 12345 % 7  # Ünïcödé"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).endswith("hi<|im_end|>\n")
