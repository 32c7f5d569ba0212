"""What this machine's processor computes fast, and what an engine on it is therefore given.

A bfloat16 product that the processor lacks runs in a reference loop, ten times slower than what it has. So ``auto``
chooses by the processor's features, not by a measurement: two runs on one machine must compute alike.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import MutableMapping
from pathlib import Path

from agentopt_local.errors import ConfigError
from serving.config import EngineConfig
from serving.facts import Arithmetic, Kernel

INT8_METHOD = "agentopt_int8"
"""What vLLM calls our int8 (``serving/cpu_kernels.py``)."""
KERNEL_VARIABLE = "AGENTOPT_INT8_KERNEL"
ISA_VARIABLE = "AGENTOPT_CPU_ISA"
KNOWN = {
    "avx2": "AVX2", "avx_vnni": "AVX-VNNI", "avx512f": "AVX512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16",
    "amx_int8": "AMX", "asimd": "NEON", "bf16": "BF16", "i8mm": "I8MM",
}  # fmt: skip
"""Features that decide, as /proc/cpuinfo writes them, and their names."""


def features(isa: str = "auto") -> frozenset[str]:
    """Which of KNOWN this machine's processor has; ``isa = "avx2"`` leaves out what came after AVX2."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    words = {
        word
        for line in text.splitlines()
        if line.partition(":")[0].strip().lower() in ("flags", "features")
        for word in line.partition(":")[2].split()
    }
    found = words & KNOWN.keys()
    return frozenset(found & {"avx2"} if isa == "avx2" else found)


def plugged_in() -> bool:
    """Whether vLLM finds our plugin: not on a cluster that only got this package's source."""
    return bool(importlib.metadata.entry_points(group="vllm.general_plugins", name="agentopt_cpu"))


def describe(found: frozenset[str]) -> str:
    """``AVX2, AVX512, VNNI``."""
    return ", ".join(dict.fromkeys(name for key, name in KNOWN.items() if key in found)) or "no vector extensions known"


def choose(config: EngineConfig, found: frozenset[str], *, quantized: bool = False) -> Arithmetic:
    """The arithmetic of an engine with ``config`` on a processor with the features ``found``.

    ``quantized``: the model's own files are quantized; vLLM then runs them in its own way. Raises ConfigError where the
    processor is too old for vLLM's CPU build.
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    has = describe(found)
    if x86 and "avx2" not in found:
        raise ConfigError(
            "this processor has no AVX2, which vLLM's CPU build needs; host the model on a GPU or on another machine, "
            "or use an endpoint (--model.base_url)"
        )
    sums_in_32_bits = bool(found & {"avx512_vnni", "amx_int8", "i8mm"})
    fast = {
        "bfloat16": bool(found & {"avx512_bf16", "amx_int8", "bf16"}),
        "float32": True,
        "float16": False,
    }
    if quantized:
        dtype = "bfloat16" if config.dtype == "auto" else config.dtype
        return Arithmetic(dtype=dtype, reason="the model's files are quantized, and vLLM runs them as they are")
    if not plugged_in():
        if config.quantization == "int8":
            raise ConfigError(
                "engine.quantization = 'int8' needs this package installed where the engine runs: vLLM finds the int8 "
                "products by its entry point (pip install -e .)"
            )
    elif config.quantization == "int8" or (config.quantization == "auto" and config.dtype == "auto" and x86):
        kernel: Kernel = "onednn" if sums_in_32_bits else "fbgemm"
        if os.environ.get(KERNEL_VARIABLE) in ("onednn", "fbgemm"):  # a benchmark tries the other one
            kernel = "fbgemm" if os.environ[KERNEL_VARIABLE] == "fbgemm" else "onednn"
        asked = "asked for" if config.quantization == "int8" else f"the fastest on {has}"
        dtype = "bfloat16" if config.dtype == "auto" else config.dtype
        return Arithmetic(dtype=dtype, quantization="int8", kernel=kernel, reason=asked)
    if config.dtype != "auto":
        slow = not fast.get(config.dtype, True)
        why = f"asked for; this processor ({has}) has no product of it and runs a loop" if slow else "asked for"
        return Arithmetic(dtype=config.dtype, reason=why, slow=slow)
    dtype = "bfloat16" if fast["bfloat16"] else "float32"
    return Arithmetic(dtype=dtype, reason=f"the fastest exact product on {has}")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(config: EngineConfig, *, cores: int) -> dict[str, str]:
    """Environment variables that a CPU engine's process needs from its start on: they are read at import."""
    env = {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.kv_cache_gib))),
        # "auto" pins every engine to the first cores, where several starve each other
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # our sampling belongs to the first, vLLM's own choice without Triton
        "OMP_NUM_THREADS": str(config.cpu_threads or max(1, cores // config.replicas)),
    }
    if (library := intel_openmp()) is not None:
        # GNU's threads spin at every barrier: beside one busy process two of them are many times slower than one
        env |= {"LD_PRELOAD": library, "KMP_BLOCKTIME": "1"}
    else:
        env["OMP_WAIT_POLICY"] = "PASSIVE"
    if config.cpu_isa == "avx2":
        env |= hiding()
    return env


def intel_openmp() -> str | None:
    """The path of Intel's OpenMP, which vLLM's CPU build brings; None where it is not installed."""
    try:
        files = importlib.metadata.files("intel-openmp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())).resolve() for file in files if file.name == "libiomp5.so")
    return next((str(path) for path in found if path.exists()), None)


def hiding() -> dict[str, str]:
    """Environment in which a newer processor passes for one with AVX2 alone: each library looks in its own way."""
    return {
        ISA_VARIABLE: "avx2",  # torch's own answers, by hide()
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }


def hide(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let torch deny what ``ISA_VARIABLE`` hides.

    vLLM calls it while it looks for its platform (``vllm.platform_plugins``), before it chooses its kernels by what
    torch tells.
    """
    if environ.get(ISA_VARIABLE) != "avx2":
        return
    import torch

    for name in ("avx512", "avx512_bf16", "avx512_vnni", "vnni", "amx_tile", "amx_fp16"):
        if hasattr(torch.cpu, asked := f"_is_{name}_supported"):
            setattr(torch.cpu, asked, lambda: False)
