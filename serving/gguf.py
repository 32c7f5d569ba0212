"""Converts a GGUF file to a Hugging Face folder, because vLLM no longer loads GGUF itself.

transformers reads GGUF, but its tokenizer then lacks most added tokens (tool calls) and has the wrong end token, and
it refuses to save a dequantized model. So tokenizer and configuration are rebuilt here from the file's metadata.
Weights are dequantized to float32, rounded to bfloat16 and written in place, a block of rows at a time: peak memory is
the mapped file plus some megabytes per thread. Supports ``qwen2`` and ``llama`` without rope scaling, with the
byte-level BPE tokenizers in ``PRE_TOKENIZERS``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentopt_local.errors import ConfigError

BLOCK_ELEMENTS = 1 << 18  # weights per block: its temporaries fit in the CPU's cache, which doubles the speed
TIED_CORRELATION = 0.97  # two quantizations of one matrix correlate above 0.99, different matrices near 0
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # GGUF's token types

ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}
OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

BYTE_LEVEL: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
QWEN_SPLIT = QWEN_WORDS + r"|\s*[\r\n]+|\s+(?!\S)|\s+"


class PreTokenizer(NamedTuple):
    """What a model's original tokenizer does before byte-level BPE; GGUF only names it."""

    steps: list[dict[str, Any]]
    normalizer: dict[str, Any] | None = None
    names_unused_bos: bool = True  # the configuration names a bos token although none is added


PRE_TOKENIZERS = {  # keyed by tokenizer.ggml.pre
    "qwen2": PreTokenizer(
        [{"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False}, BYTE_LEVEL],
        normalizer={"type": "NFC"},
        names_unused_bos=False,
    ),
    "smollm": PreTokenizer([{"type": "Digits", "individual_digits": True}, BYTE_LEVEL | {"use_regex": True}]),
}


class Metadata(dict[str, Any]):
    """The key-value part of a GGUF file."""

    def __missing__(self, key: str) -> Any:
        raise ConfigError(f"the GGUF file has no {key}")

    @property
    def architecture(self) -> str:
        return str(self["general.architecture"])

    def model(self, key: str) -> Any:
        """The value of a key that is prefixed with the architecture."""
        return self[f"{self.architecture}.{key}"]

    def token_id(self, role: str) -> int | None:
        return self.get(f"tokenizer.ggml.{role}_token_id")


def convert(gguf: Path, out: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the folder ``out`` (which must not exist) from the file ``gguf``.

    ``progress`` receives the bytes of weights written so far and in total. Raises ConfigError for a damaged file or an
    unsupported kind of model, OSError if the disk is full.
    """
    try:
        from gguf import GGUFReader

        reader = GGUFReader(gguf)
        metadata = Metadata((key, value.contents()) for key, value in reader.fields.items())
    except ImportError as error:
        raise ConfigError("the package gguf is missing: pip install 'agentopt-local[cpu]' (or [gpu])") from error
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ConfigError(f"{gguf} is not a readable GGUF file: {error}") from error
    if metadata.architecture not in ARCHITECTURES:
        raise ConfigError(f"{gguf}: architecture {metadata.architecture!r} is not one of {sorted(ARCHITECTURES)}")
    if metadata.get(f"{metadata.architecture}.rope.scaling.type", "none") != "none":
        raise ConfigError(f"{gguf}: rope scaling is not supported")
    tensors, tied = plan_tensors(reader.tensors, metadata)
    out.mkdir(parents=True)
    write_tokenizer(metadata, out)
    write_config(metadata, tensors, tied, out)
    write_weights(tensors, out / "model.safetensors", progress or (lambda done, total: None))


class Tensor(NamedTuple):
    """One tensor on its way from GGUF to safetensors."""

    name: str  # Hugging Face's
    data: npt.NDArray[Any]  # rows of floats or of quantized bytes; 1- or 2-dimensional
    quantization: Any  # a gguf.GGMLQuantizationType
    shape: tuple[int, ...]  # in elements, in Hugging Face's order of dimensions
    rows: npt.NDArray[np.intp] | None  # the order in which to write the rows; None: as stored

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """(first element, rows) of each block of at most about ``BLOCK_ELEMENTS`` elements."""
        width = self.shape[-1] if len(self.shape) > 1 else 1
        step = max(1, BLOCK_ELEMENTS // width)
        for row in range(0, self.shape[0], step):
            yield row * width, slice(row, row + step)

    def bfloat16(self, block: slice) -> bytes:
        """The rows ``block``, dequantized and rounded to nearest even."""
        from gguf.quants import dequantize

        data = self.data[block if self.rows is None else self.rows[block]]
        # gguf loops over groups of 16 rows; one long row gives the same numbers with fewer Python calls
        floats = np.ascontiguousarray(dequantize(data.reshape(1, -1), self.quantization), dtype=np.float32)
        bits = floats.view(np.uint32)
        rounding = bits >> 16
        rounding &= 1
        rounding += 0x7FFF
        rounding += bits
        rounding >>= 16
        return rounding.astype(np.uint16).tobytes()


def huggingface_name(name: str) -> str:
    """The Hugging Face name of the GGUF tensor ``name``. Raises ConfigError if it is not supported."""
    if name in OUTER_TENSORS:
        return OUTER_TENSORS[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in LAYER_TENSORS:
        raise ConfigError(f"GGUF tensor {name!r} is not covered")
    return f"model.layers.{match[1]}.{LAYER_TENSORS[match[2]]}.{match[3]}"


def rotary_order(n_rows: int, n_heads: int) -> npt.NDArray[np.intp]:
    """The order of query and key rows: GGUF interleaves llama's rotary pairs, Hugging Face stores halves."""
    pairs: npt.NDArray[np.intp] = np.arange(n_rows).reshape(n_heads, n_rows // n_heads // 2, 2)
    return pairs.swapaxes(1, 2).ravel()


def plan_tensors(stored: list[Any], metadata: Metadata) -> tuple[list[Tensor], bool]:
    """The tensors to write, sorted by name, and whether input and output embeddings are one matrix."""
    heads = {"attn_q": metadata.model("attention.head_count"), "attn_k": metadata.model("attention.head_count_kv")}
    by_name = {tensor.name: tensor for tensor in stored}
    embedding, output = by_name.get("token_embd.weight"), by_name.get("output.weight")
    if embedding is None:
        raise ConfigError("the GGUF file has no token_embd.weight")
    tied = output is None or is_same_matrix(embedding, output)
    if tied and output is not None:  # a tied matrix may be stored twice at two precisions: keep the finer one
        by_name["token_embd.weight"] = output if output.n_bytes > embedding.n_bytes else embedding
        del by_name["output.weight"]
    tensors = []
    for name, tensor in by_name.items():
        shape = tuple(int(n) for n in reversed(tensor.shape))
        kind = name.split(".")[2] if name.startswith("blk.") else ""
        rows = rotary_order(shape[0], heads[kind]) if metadata.architecture == "llama" and kind in heads else None
        tensors.append(Tensor(huggingface_name(name), tensor.data, tensor.tensor_type, shape, rows))
    return sorted(tensors, key=lambda tensor: tensor.name), tied


def is_same_matrix(a: Any, b: Any) -> bool:
    """Whether two stored tensors are quantizations of one matrix, judged by their first 1,024 rows."""
    from gguf.quants import dequantize

    x, y = (dequantize(t.data[:1024], t.tensor_type).ravel() for t in (a, b))
    return list(a.shape) == list(b.shape) and float(np.corrcoef(x, y)[0, 1]) >= TIED_CORRELATION


def write_weights(tensors: list[Tensor], path: Path, progress: Callable[[int, int], None]) -> None:
    """Write a safetensors file: the header's length (8 bytes), the header (JSON), then the tensors, concatenated."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    size = 0
    for tensor in tensors:
        start, size = size, size + 2 * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, size]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    prefix = len(text).to_bytes(8, "little") + text

    with path.open("wb") as file:
        file.write(prefix)
        file.truncate(len(prefix) + size)  # also flushes the prefix

        def write_block(job: tuple[Tensor, int, slice]) -> int:
            tensor, first, block = job
            view = memoryview(tensor.bfloat16(block))
            at, n_bytes = len(prefix) + header[tensor.name]["data_offsets"][0] + 2 * first, len(view)
            while view:  # a nearly full disk accepts a part, then raises
                n = os.pwrite(file.fileno(), view, at)
                view, at = view[n:], at + n
            return n_bytes

        done = 0
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        try:
            for n in pool.map(write_block, ((tensor, *block) for tensor in tensors for block in tensor.blocks())):
                done += n
                progress(done, size)
        finally:
            pool.shutdown(cancel_futures=True)  # otherwise an interrupt would wait for all blocks


def write_tokenizer(metadata: Metadata, out: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    kind, name = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or name not in PRE_TOKENIZERS:
        raise ConfigError(f"tokenizer {kind}/{name} is not one of gpt2/{sorted(PRE_TOKENIZERS)}")
    pre = PRE_TOKENIZERS[name]
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added: dict[int, dict[str, Any]] = {
        i: {"content": token} | plain | {"special": types[i] == CONTROL}
        for i, token in enumerate(tokens)
        if types[i] in (CONTROL, USER_DEFINED)
    }
    # as in the originals, added tokens after the end of the vocabulary proper are listed only as added tokens
    last = max((i for i, kind in enumerate(types) if kind == NORMAL), default=-1)
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] == NORMAL or (i in added and i < last)}
    switches = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i} | entry for i, entry in added.items()],
        "normalizer": pre.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre.steps},
        "post_processor": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": metadata["tokenizer.ggml.merges"]} | switches,
    }
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    if template := metadata.get("tokenizer.chat_template"):
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")

    named = {role: metadata.token_id(role) for role in ("bos", "eos", "padding", "unknown")}
    token = {role: None if i is None else tokens[i] for role, i in named.items()}
    names_bos = metadata.get("tokenizer.ggml.add_bos_token", True) or pre.names_unused_bos
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata.model("context_length"),
        "bos_token": token["bos"] if names_bos else None,
        "eos_token": token["eos"],
        "pad_token": token["padding"],
        "unk_token": token["unknown"],
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": added,
    }
    write_json(out / "tokenizer_config.json", config)


def write_config(metadata: Metadata, tensors: list[Tensor], tied: bool, out: Path) -> None:
    """Write config.json and generation_config.json."""
    (vocabulary_size,) = (t.shape[0] for t in tensors if t.name == "model.embed_tokens.weight")
    ids = {f"{role[:3]}_token_id": metadata.token_id(role) for role in ("bos", "eos", "padding")}
    config = {
        "architectures": [ARCHITECTURES[metadata.architecture]],
        "model_type": metadata.architecture,
        "transformers_version": "5.0.0",  # whose key names are used here; without it the tokenizer's loader warns
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": metadata.model("embedding_length"),
        "intermediate_size": metadata.model("feed_forward_length"),
        "num_hidden_layers": metadata.model("block_count"),
        "num_attention_heads": metadata.model("attention.head_count"),
        "num_key_value_heads": metadata.model("attention.head_count_kv"),
        "max_position_embeddings": metadata.model("context_length"),
        # float32 in GGUF: its shortest decimal form is the number in the original's configuration
        "rms_norm_eps": float(str(np.float32(metadata.model("attention.layer_norm_rms_epsilon")))),
        "rope_parameters": {"rope_type": "default", "rope_theta": metadata.model("rope.freq_base")},
        "tie_word_embeddings": tied,
        "vocab_size": vocabulary_size,
    }
    write_json(out / "config.json", config | ids)
    tokens = metadata["tokenizer.ggml.tokens"]
    ends = ["<|endoftext|>"] if metadata.architecture == "qwen2" and "<|endoftext|>" in tokens else []  # as originally
    write_json(out / "generation_config.json", ids | {"eos_token_id": [ids["eos_token_id"], *map(tokens.index, ends)]})


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
