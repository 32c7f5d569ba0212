"""Every error that this package raises on purpose.

::

    AgentOptError
    ├─ ConfigError             a setting, a file or an argument from the user is wrong
    ├─ ModelError              a completion failed; ``retryable`` says whether asking again can help
    │  ├─ ModelTimeoutError · ModelOverloadedError · EngineDeadError
    │  └─ PromptError          this one prompt is at fault: ends the attempt, not the run
    │     └─ ContextOverflowError · RefusedPromptError
    ├─ BudgetError             the run's budget of tokens or money is used up; resume it with a larger one
    ├─ FunctionError           a proposed function is not acceptable; the text goes back to the optimizer
    ├─ SandboxError            the machine failed to run code (code that fails is ``Execution(ok=False)``)
    └─ RunDirError             a run folder cannot be read, or cannot be resumed

Each takes one positional message, because keyword-only arguments of ``__init__`` do not survive the pickling
between Ray processes. Further facts are attributes set after construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from agentopt_local.chat import Usage

T = TypeVar("T")


def outcome(call: Callable[[], T]) -> tuple[T, None] | tuple[None, Exception]:
    """What ``call`` returns or raises, for foreign code that may raise anything: a user's grader, a hub's client."""
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - the caller turns it into an error of this package
        return None, error


class AgentOptError(Exception):
    """The base of all errors of this package. The message says what to do about it."""


class ConfigError(AgentOptError):
    """A setting, file or argument is wrong. The message names the file, the key, the value and the remedy."""


class ModelError(AgentOptError):
    """A model did not answer a request."""

    retryable: bool = False
    """Whether the same request may succeed later."""

    usage: Usage | None = None
    """What the request cost although it failed; None if nothing is known of a cost."""


class ModelTimeoutError(ModelError):
    """The model did not answer in time."""

    retryable = True


class ModelOverloadedError(ModelError):
    """The model's server asked the client to come back later."""

    retryable = True


class EngineDeadError(ModelError):
    """The engine process has ended; no request to it can succeed."""


class PromptError(ModelError):
    """The prompt of this one request is at fault: it would fail again, and other prompts need not.

    An agent's loop turns it into an attempt with a stop reason. Whatever is wrong for every request (a bad key, an
    unknown model, an unsupported field) must be another ModelError, because a run cannot learn from it.
    """


class ContextOverflowError(PromptError):
    """The prompt is longer than the model's context. Ends the attempt with ``stop_reason="context"``."""


class RefusedPromptError(PromptError):
    """The model or its server refuses this prompt for good: a content filter, or a chat template that cannot render
    the conversation. Ends the attempt with ``stop_reason="refused"``."""


class BudgetError(AgentOptError):
    """The budget of tokens or money is used up. Finished work is kept; the run can be resumed with a larger budget."""


class FunctionError(AgentOptError):
    """A proposed function or action is not acceptable. The text is written for the optimizer to act on."""


class SandboxError(AgentOptError):
    """The machine could not run code at all."""


class RunDirError(AgentOptError):
    """A run folder is missing, damaged, or belongs to other settings."""
