"""Train LLM agents offline by learning their functions instead of the model's weights.

The Python API is here: ``import agentopt_local as ao``, then ``ao.train(...)``; ``docs/python.md`` shows all of it. The
names come from ``ray_jobs.api`` on first use, so that ``import agentopt_local`` alone loads nothing. That import is the
only one that points up from the core (``tests/core/test_layers.py`` allows no other); type checkers read
``__init__.pyi`` instead.
"""

from typing import Any

from agentopt_local.version import __version__

__all__ = [
    "AgentOptError",
    "Attempt",
    "BudgetError",
    "Callback",
    "Certificate",
    "ChatReply",
    "ChatRequest",
    "ConfigError",
    "Credit",
    "Endpoint",
    "Function",
    "FunctionSet",
    "Grade",
    "Message",
    "MetricRow",
    "ModelError",
    "NoiseFloor",
    "Problem",
    "Report",
    "Run",
    "RunDirError",
    "ScriptedChatModel",
    "Stage",
    "StepRow",
    "TrainedAgent",
    "Trajectory",
    "Usage",
    "__version__",
    "acertify",
    "acredit",
    "aevaluate",
    "aresume",
    "atrain",
    "certify",
    "credit",
    "evaluate",
    "load",
    "resume",
    "task",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ray_jobs import api  # the one arrow that points up; see above

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
