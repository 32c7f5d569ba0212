"""What vLLM's CPU engine gets from us: int8 products, compiled norms, quick top-p, seeds with prompts in chunks.

vLLM calls :func:`register` in each of its processes, through the entry point ``vllm.general_plugins`` of
``pyproject.toml``. An engine asks for the norms by name (``ir_op_priority``) and for int8 as its ``quantization``.
Only vLLM imports this module: it needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm import ir
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.platforms import current_platform

from serving.cpu import INT8_METHOD, KERNEL_VARIABLE

PROVIDER = "agentopt_cpu"
NUCLEUS = 1024
"""Tokens among which the nucleus of top-p is looked for before the whole vocabulary is sorted."""
ROWS = 384
"""Of one oneDNN product: with more its results outgrow the caches, and at 1,024 a row costs half as much again."""
Product = Callable[[Tensor, Tensor | None], Tensor]
"""``product(x, bias)``: ``x`` of shape (tokens, inputs) times a packed weight, in the dtype of ``x``."""


def register() -> None:
    """Offer all of it to vLLM. Does nothing off the CPU, in other builds, or a second time."""
    if not current_platform.is_cpu():
        return
    current_platform.import_kernels()
    if PROVIDER in ir.ops.rms_norm.impls or not hasattr(torch.ops._C, "fused_add_rms_norm"):
        return
    ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_rms_norm_fits)(rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=_fused_fits, inplace=True)(fused_add_rms_norm)
    SiluAndMul.register_oot(FusedSiluAndMul, name=SiluAndMul.__name__)
    register_quantization_config(INT8_METHOD)(Int8)
    _patch_sampling()


# ---------------------------------------------------------------- int8


class Int8(QuantizationConfig):  # type: ignore[misc] # vLLM is not typed
    """Weights and activations in 8 bits, made from the unquantized model as it loads; nothing is calibrated.

    A weight has a scale per output channel, an activation one per token. Embeddings are looked up as they are.
    """

    def get_name(self) -> str:
        """Its name among vLLM's methods."""
        return INT8_METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """What may come in and goes out."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """Of GPUs, which have no part in it."""
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        """The model's folder holds nothing for it."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Int8:
        """There are no settings."""
        return cls()

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """Linear layers and the head; None: a layer stays as it is."""
        if isinstance(layer, LinearBase):
            return Int8Linear()
        return Int8Head() if isinstance(layer, VocabParallelEmbedding) else None


class Int8Linear(UnquantizedLinearMethod):  # type: ignore[misc]
    """A linear layer whose weight is packed once it is loaded, and dropped."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Pack the weight."""
        if layer.weight.ndim != 2 or layer.weight.is_meta:
            super().process_weights_after_loading(layer)
            return
        layer.int8_product = packed(layer.weight.detach())
        empty = torch.empty(0, dtype=layer.weight.dtype)
        layer.weight = torch.nn.Parameter(empty, requires_grad=False)

    def apply(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x`` times the weight."""
        product: Product | None = getattr(layer, "int8_product", None)
        return super().apply(layer, x, bias) if product is None else product(x, bias)


class Int8Head(UnquantizedEmbeddingMethod):  # type: ignore[misc]
    """A table of embeddings, packed when it is first used as the head: most models tie both, others never use it so."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Nothing yet."""

    def apply(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Logits."""
        product: Product | None = getattr(layer, "int8_product", None)
        if product is None:
            product = layer.int8_product = packed(layer.weight.detach())
        return product(x, bias)


def packed(weight: Tensor, kernel: str | None = None) -> Product:
    """The product with ``weight``, (outputs, inputs), by ``kernel`` or the one that the environment names."""
    return KERNELS[kernel or os.environ[KERNEL_VARIABLE]](weight)


def _quantized(weight: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """``weight`` as integers from -largest to largest, and the scale of each output channel."""
    values = weight.float()  # the weight itself where it is float32: it must stay as it is
    scales = values.abs().amax(1).clamp_min_(1e-12).div_(largest)
    return (values / scales[:, None]).round_().clamp_(-largest, largest).to(torch.int8), scales


def pack_fbgemm(weight: Tensor) -> Product:
    """PyTorch's FBGEMM. Seven bits of weight: AVX2 sums pairs of products in 16 bits, which 8 times 8 bits overflow."""
    torch.backends.quantized.engine = "fbgemm"
    values, scales = _quantized(weight, 63)
    zeros = torch.zeros(len(scales), dtype=torch.long)
    told = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
    matrix = torch.ops.quantized.linear_prepack(told, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.float().reshape(-1, x.shape[-1])
        largest = rows.abs().amax(-1, keepdim=True).clamp_min_(1e-10)
        out = multiply(rows / largest, 1 / 127, 128, matrix).mul_(largest)
        if bias is not None:
            out += bias
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)

    return product


def pack_onednn(weight: Tensor) -> Product:
    """oneDNN through vLLM, whole 8 bits: for VNNI, AMX and ARM's int8 products, which sum in 32 bits.

    On AVX2 alone it is slower than FBGEMM, and large values overflow its sums.
    """
    from vllm import _custom_ops as ops

    values, scales = _quantized(weight, 127)
    dtype = weight.dtype
    handler = ops.create_onednn_scaled_mm(values.t(), scales[None], dtype, True, False, 32)

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        out = torch.empty(len(rows), len(scales), dtype=dtype)
        for each, into in zip(rows.split(ROWS), out.split(ROWS), strict=True):
            whole, of_tokens, zeros = ops.onednn_scaled_int8_quant(each)
            ops.onednn_scaled_mm(handler, whole, into, of_tokens, zeros, None, bias)
        return out.reshape(*x.shape[:-1], -1)

    return product


KERNELS: dict[str, Callable[[Tensor], Product]] = {"fbgemm": pack_fbgemm, "onednn": pack_onednn}


# ---------------------------------------------------------------- sampling


def _patch_sampling() -> None:
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    sort = topk_topp_sampler.apply_top_k_top_p_pytorch
    topk_topp_sampler.apply_top_k_top_p_pytorch = lambda logits, k, p, allow_cpu_sync=False: (
        sort(logits, k, p, allow_cpu_sync) if k is not None or p is None else top_p(logits, p, sort)
    )
    sample = CPUModelRunner.sample_tokens

    def sample_tokens(runner: Any, grammar_output: Any) -> Any:
        """vLLM samples after every chunk of a prompt, throws the token away, and turns a GPU's generator back; a CPU's
        cannot be turned back, so it does not take part."""
        generators = runner.input_batch.generators
        unread = np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])[0]
        held = {int(index): generators.pop(int(index)) for index in unread if int(index) in generators}
        try:
            return sample(runner, grammar_output)
        finally:
            generators.update(held)

    CPUModelRunner.sample_tokens = sample_tokens


def top_p(logits: Tensor, p: Tensor, sort: Callable[..., Tensor]) -> Tensor:
    """``logits``, (sequences, vocabulary), with -inf outside the nucleus of each; changed in place.

    The same as vLLM's, which sorts the whole vocabulary for every sequence as soon as one asks for top-p.
    """
    rows = (p < 1).nonzero().flatten()
    if not len(rows):
        return logits
    asked = logits[rows]
    largest = asked.topk(min(NUCLEUS, asked.shape[1]), dim=-1).values
    chances = (largest - asked.logsumexp(-1, keepdim=True)).exp()
    before = chances.cumsum(-1) - chances
    inside = (before < p[rows, None]).sum(-1).clamp_min_(1)
    wide = (inside == largest.shape[1]) & (largest.shape[1] < asked.shape[1])
    least = largest.gather(1, inside[:, None] - 1)
    asked.masked_fill_(asked < least, -torch.inf)
    if wide.any():
        asked[wide] = sort(logits[rows[wide]], None, p[rows[wide]], True)
    logits[rows] = asked
    return logits


# ---------------------------------------------------------------- norms and activations


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    """The norm of ``x``'s last dimension, as a new tensor."""
    out = torch.empty_like(x)
    torch.ops._C.rms_norm(out, x, weight, epsilon)
    return out


def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The norm of ``x + x_residual``, and that sum; both take the place of their arguments."""
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


def _fits(x: Tensor, weight: Tensor | None, variance_size: int | None) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()


def _rms_norm_fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return _fits(x, weight, variance_size)


def _fused_fits(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _fits(x, weight, variance_size) and x_residual.is_contiguous()


class FusedSiluAndMul(SiluAndMul):  # type: ignore[misc]
    """``silu(x[..., :d]) * x[..., d:]`` in one pass, where vLLM makes two on a CPU."""

    def forward_cpu(self, x: Tensor) -> Tensor:
        """A new tensor, half as wide as ``x``."""
        out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        torch.ops._C.silu_and_mul(out, x)
        return out
