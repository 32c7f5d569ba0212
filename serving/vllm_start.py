"""Starting vLLM in an engine's process, and why it has not started or has ended."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError, EngineDeadError, outcome

LOG_BYTES = 64 << 10
"""How much of the end of a log is searched for errors."""
MAX_REASON = 300
"""Characters of what vLLM says against a setting."""
RAISED = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception|Timeout\w*): \S.*)$")


def start(options: dict[str, Any], stat_loggers: list[Any] | None) -> Any:
    """An ``AsyncLLM``. Raises ConfigError if vLLM refuses the options, EngineDeadError if it does not start."""
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.executor import Executor

    def settle() -> Any:
        return AsyncEngineArgs(**options, disable_log_stats=True).create_engine_config(UsageContext.LLM_CLASS)

    config, error = outcome(settle)
    if error is not None:
        raise ConfigError(f"vLLM refuses the engine's settings: {one_line(error)}{not_installed(error)}")
    try:
        return AsyncLLM(
            vllm_config=config,
            executor_class=Executor.get_class(config),
            log_stats=False,
            usage_context=UsageContext.LLM_CLASS,
            stat_loggers=stat_loggers,
        )
    except RuntimeError as failed:  # vLLM only says that another process failed; the log says why
        raise EngineDeadError(f"vLLM could not start: {last_error() or failed}") from None


def one_line(error: Exception) -> str:
    """What is wrong, without the frame that pydantic puts around it."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and "validation error" not in line and "errors.pydantic.dev" not in line]
    text = " ".join(told) or type(error).__name__
    text = re.sub(r"\s*\[type=.*?, input_value=.*", "", text).removeprefix("Value error, ")
    return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "..."


def not_installed(error: Exception) -> str:
    """What to install for a model whose code vLLM could not import; empty if that is not known."""
    if "failed to be inspected" not in str(error) or importlib.util.find_spec("torchvision") is not None:
        return ""
    return " Its code for pictures imports torchvision, which is not installed: install the build for this torch."


def last_error(log: Path = Path("/proc/self/fd/2")) -> str | None:
    """The last error in this process's log, which vLLM's processes write to as well: it says why they ended.

    None if standard error is not a file, or the file holds no error.
    """
    try:
        if not log.is_file():
            return None
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    found = [match[1] for line in lines if (match := RAISED.search(line))]
    plain = [each for each in found if "EngineDeadError" not in each.partition(":")[0]]
    return plain[-1] if plain else None
