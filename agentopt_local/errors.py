"""Every error that this package raises on purpose.

::

    AgentOptError
    ├─ ConfigError             a setting, a file or an argument of the user's is wrong
    ├─ ModelError              a completion failed; ``retryable`` says whether asking again can help
    │  ├─ ModelTimeoutError · ModelOverloadedError · EngineDeadError
    │  └─ ContextOverflowError the prompt does not fit: ends the rollout, not the run
    ├─ BudgetError             the run's budget of tokens or money is used up; it can be resumed with a larger one
    ├─ FunctionError           a proposed function is not acceptable; its text goes back to the optimizer
    ├─ SandboxError            the machine failed to run code (code that fails is ``Execution(ok=False)``)
    └─ RunDirError             a run folder cannot be read, or cannot be resumed

Each takes one positional message, because keyword-only arguments of ``__init__`` do not survive the pickling
between Ray processes; further facts are attributes set after construction.
"""

from __future__ import annotations


class AgentOptError(Exception):
    """The base of all errors of this package. The message says what to do about it."""


class ConfigError(AgentOptError):
    """A setting, file or argument is wrong. The message names the file, the key, the value and the remedy."""


class ModelError(AgentOptError):
    """A model did not answer a request."""

    retryable: bool = False
    """Whether the same request may succeed later."""


class ModelTimeoutError(ModelError):
    """The model did not answer in time."""

    retryable = True


class ModelOverloadedError(ModelError):
    """The model's server asked to come back later."""

    retryable = True


class EngineDeadError(ModelError):
    """The engine process has ended; no request to it can succeed."""


class ContextOverflowError(ModelError):
    """The prompt is longer than the model's context. Ends the rollout with ``stop_reason="context"``."""


class BudgetError(AgentOptError):
    """The budget of tokens or money is used up. What was done is kept; the run can be resumed with a larger budget."""


class FunctionError(AgentOptError):
    """A proposed function or action is not acceptable. The text is written for the optimizer to act on."""


class SandboxError(AgentOptError):
    """The machine could not run code at all."""


class RunDirError(AgentOptError):
    """A run folder is missing, damaged, or belongs to other settings."""
