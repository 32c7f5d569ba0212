"""What this machine's processor computes fast, and the settings and environment that an engine on it gets.

Without AVX512-BF16 or AMX, a bfloat16 product runs in a reference loop, ten times slower than int8. So ``auto`` means
int8 on x86. Which library computes it depends on how the processor sums products: FBGEMM with 7-bit weights where sums
have 16 bits (on AVX2, products of two 8-bit numbers overflow them, also in oneDNN), oneDNN with 8-bit weights where
VNNI or AMX sums in 32 bits. The choice follows the processor's features, not a measurement: two runs on the same
machine must compute alike. Accuracy hardly differs: of 600 training problems the untrained agent solves 214 in
bfloat16, 216 with 7-bit weights and 211 with 8-bit weights (``benchmarks/arithmetic.py``).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import MutableMapping
from pathlib import Path

from agentopt_local.errors import ConfigError
from serving.engine_config import CPU_QUANTIZATION, EngineConfig
from serving.facts import Arithmetic, Kernel

INT8_METHOD = "agentopt_int8"
"""vLLM's name for our int8 method (``serving/cpu_kernels.py``)."""
KERNEL_VARIABLE = "AGENTOPT_INT8_KERNEL"
ISA_VARIABLE = "AGENTOPT_CPU_ISA"
KNOWN = {
    "avx2": "AVX2", "avx_vnni": "AVX-VNNI", "avx512f": "AVX512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16",
    "amx_int8": "AMX", "asimd": "NEON", "bf16": "BF16", "i8mm": "I8MM",
}  # fmt: skip
"""Processor features that matter, as /proc/cpuinfo spells them, and their usual names."""


def features(isa: str = "auto") -> frozenset[str]:
    """Which of ``KNOWN`` this machine's processor has; ``isa = "avx2"`` leaves out what came after AVX2."""
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
    """Whether vLLM finds our plugin. It does not on a cluster that was only sent this package's source."""
    return bool(importlib.metadata.entry_points(group="vllm.general_plugins", name="agentopt_cpu"))


def describe(found: frozenset[str]) -> str:
    """``AVX2, AVX512, VNNI``."""
    return ", ".join(dict.fromkeys(name for key, name in KNOWN.items() if key in found)) or "no vector extensions known"


def choose(config: EngineConfig, found: frozenset[str], *, quantized: bool = False) -> Arithmetic:
    """The arithmetic of an engine with ``config`` on a processor with the features ``found``.

    ``quantized``: the model's own files are quantized, and vLLM runs them its own way. Raises ConfigError if the
    processor is too old for vLLM's CPU build.
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    name = describe(found)
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
    if quantized or config.quantization not in CPU_QUANTIZATION:
        dtype = "bfloat16" if config.dtype == "auto" else config.dtype
        own = "the model's files are quantized, and vLLM runs them as they are"
        return Arithmetic(dtype=dtype, reason=own if quantized else f"vLLM's {config.quantization} was asked for")
    if not plugged_in():
        if config.quantization == "int8":
            raise ConfigError(
                "engine.quantization = 'int8' needs this package installed where the engine runs: vLLM finds the int8 "
                "products by its entry point (pip install -e .)"
            )
    elif config.quantization == "int8" or (config.quantization == "auto" and config.dtype == "auto" and x86):
        kernel: Kernel = "onednn" if sums_in_32_bits else "fbgemm"
        if os.environ.get(KERNEL_VARIABLE) in ("onednn", "fbgemm"):  # a benchmark tries the other kernel
            kernel = "fbgemm" if os.environ[KERNEL_VARIABLE] == "fbgemm" else "onednn"
        reason = "asked for" if config.quantization == "int8" else f"the fastest on {name}"
        dtype = "bfloat16" if config.dtype == "auto" else config.dtype
        return Arithmetic(dtype=dtype, quantization="int8", kernel=kernel, reason=reason)
    if config.dtype != "auto":
        slow = not fast.get(config.dtype, True)
        reason = f"asked for; this processor ({name}) lacks the instructions and runs a loop" if slow else "asked for"
        return Arithmetic(dtype=config.dtype, reason=reason, slow=slow)
    dtype = "bfloat16" if fast["bfloat16"] else "float32"
    return Arithmetic(dtype=dtype, reason=f"the fastest exact product on {name}")


def cores() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(config: EngineConfig, *, cores: int) -> dict[str, str]:
    """Environment variables that a CPU engine's process needs from its start, because they are read at import."""
    env = {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.kv_cache_gib))),
        # "auto" pins every engine to the first cores, where several engines starve each other
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # our sampling patches the first, which vLLM itself uses without Triton
        "OMP_NUM_THREADS": str(config.cpu_threads or max(1, cores // config.replicas)),
    }
    if (library := intel_openmp()) is not None:
        # GNU's threads spin at each barrier: with a busy process beside two of them they are up to 25 times slower.
        # Intel's sleep after KMP_BLOCKTIME milliseconds.
        env |= {"LD_PRELOAD": library, "KMP_BLOCKTIME": "1"}
    else:
        env["OMP_WAIT_POLICY"] = "PASSIVE"
    if config.cpu_isa == "avx2":
        env |= avx2_environment()
    return env


def intel_openmp() -> str | None:
    """The path of Intel's OpenMP, which comes with vLLM's CPU build; None if it is not installed."""
    try:
        files = importlib.metadata.files("intel-openmp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())).resolve() for file in files if file.name == "libiomp5.so")
    return next((str(path) for path in found if path.exists()), None)


def avx2_environment() -> dict[str, str]:
    """Environment in which a newer processor passes for one that has only AVX2 (``engine.cpu_isa``).

    Each library detects features its own way, so each has its own variable.
    """
    return {
        ISA_VARIABLE: "avx2",  # torch itself, through hide()
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }


def hide(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make torch deny the features that ``ISA_VARIABLE`` hides.

    vLLM calls this while it looks for its platform (``vllm.platform_plugins``), before it chooses kernels by what torch
    reports.
    """
    if environ.get(ISA_VARIABLE) != "avx2":
        return
    import torch

    for name in ("avx512", "avx512_bf16", "avx512_vnni", "vnni", "amx_tile", "amx_fp16"):
        if hasattr(torch.cpu, test := f"_is_{name}_supported"):
            setattr(torch.cpu, test, lambda: False)
