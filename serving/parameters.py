"""How many parameters a model has, from the files in its folder; no tensor is loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.weight_files import folder_weights

LONGEST_HEADER = 100_000_000
"""Bytes; the safetensors format allows no longer one."""
PACKED = {"U8": 8, "I8": 8, "I32": 32, "U32": 32, "I64": 64}
"""Bits of the types in which quantized weights are packed."""
NO_WEIGHTS = re.compile(r"(?:qzeros|zero_point|g_idx|scales?|absmax|quant_map|weight_shape)$|quant_state")
"""Tensors that only say how others are quantized."""


def count_parameters(folder: Path) -> int | None:
    """The parameters of the model in ``folder``, all experts included; None if its files do not say."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        bits = quantized_bits(config.get("quantization_config") or {})
        tensors: dict[str, tuple[str, list[int]]] = {}
        for file in folder_weights(folder):
            tensors |= read_header(file)
        return sum(elements(name, dtype, shape, bits) for name, (dtype, shape) in tensors.items()) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_header(file: Path) -> dict[str, tuple[str, list[int]]]:
    """The type and the shape of each tensor of a safetensors file. Raises ValueError if it has no such header."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if size > LONGEST_HEADER:
            raise ValueError(f"{file} is not a safetensors file")
        header = json.loads(opened.read(size))
    return {name: (each["dtype"], each["shape"]) for name, each in header.items() if name != "__metadata__"}


def elements(name: str, dtype: str, shape: list[int], bits: int | None) -> int:
    """The parameters in a tensor; ``bits`` of each, if the model is quantized."""
    if bits is not None and NO_WEIGHTS.search(name):
        return 0
    packed = PACKED[dtype] // bits if bits is not None and dtype in PACKED else 1
    return math.prod(shape) * max(1, packed)


def quantized_bits(quantization: Mapping[str, Any]) -> int | None:
    """Bits of a quantized weight, from ``quantization_config``; None if the model is not quantized."""
    if not quantization:
        return None
    found = re.search(r'"(?:w_bit|bits|num_bits)": ([1-8])\b', json.dumps(quantization))
    if found:
        return int(found[1])
    names = [str(quantization.get(key, "")) for key in ("quant_method", "quant_algo")]
    return 4 if quantization.get("load_in_4bit") or any("4" in each for each in names) else 8
