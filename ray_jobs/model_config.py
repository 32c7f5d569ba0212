"""The settings of one model, hosted on this cluster or behind an endpoint."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agentopt_local.chat import Thinking
from agentopt_local.errors import ConfigError
from agentopt_local.models.metered import Prices
from agentopt_local.models.secrets import address_fault, variable_fault
from agentopt_local.plain_files import MAX_SOURCE, own_path, read_plain
from agentopt_local.record import Record
from agentopt_local.run.rows import Role
from agentopt_local.setting_types import Seconds

AGENT_THOUGHT, OPTIMIZER_THOUGHT = 2048, 4096
"""Longest thought of each role in tokens, unless the settings say otherwise."""


Size = Literal["small", "medium", "large", "api"]
"""Of a model, in the settings that suit it (model_size.py)."""


class ModelConfig(Record):
    """A model and how to reach it."""

    name: str = "qwen2.5-coder-1.5b"
    """An embedded model, a local folder, a Hugging Face id, or the name of an endpoint's model."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; None hosts the model here with vLLM."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's API key."""
    chat_template: str | None = None
    """A file with a chat template (Jinja) for a hosted model, to use in place of its own.
    A run keeps its text."""
    size: Literal["auto", "small", "medium", "large", "api"] = "auto"
    """Whose settings suit it: ``small`` (below 3 billion parameters), ``medium``, ``large`` (from 15), or ``api``.
    ``auto``: by its files or its name. Decides what is not set of ``agent`` and, for the optimizer's, ``optimizer``."""
    thinking: Literal["auto", "off", "on", "low", "medium", "high"] | NonNegativeInt = "auto"
    """Whether the model thinks before it replies: ``off``, ``on``, an effort, or how many tokens a thought may take.
    ``auto``: the optimizer thinks if it can; the agent, which calls functions instead, as little as it can."""
    structured: Literal["auto", "json_schema", "vllm", "none"] = "auto"
    """How the endpoint constrains replies; ``auto`` detects it."""
    send_seed: bool = True
    """Whether to send seeds to the endpoint; vLLM's own server may crash on them when it runs on a CPU."""
    timeout_s: Seconds = 600.0
    """Time limit of one request to an endpoint, in seconds."""
    max_retries: int = Field(default=5, ge=0, le=1000)
    """Retries of a request after a 429, a 5xx, a time-out or a broken connection."""
    max_concurrency: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many requests to an endpoint may be in flight at once; None means ``concurrency``."""
    requests_per_minute: float | None = Field(default=None, ge=0.01, le=1e9)
    """How many requests to an endpoint may start per minute, evenly spaced; None means no limit."""
    prices: Prices = Prices()
    """The prices of its tokens; 0 by default."""

    def thinking_as(self, role: Role) -> Thinking:
        """How the model thinks in a role."""
        most = AGENT_THOUGHT if role == "agent" else OPTIMIZER_THOUGHT
        if isinstance(self.thinking, int):
            return Thinking(effort="on" if self.thinking else "off", max_tokens=self.thinking)
        if self.thinking == "auto":
            return Thinking(effort="least" if role == "agent" else "on", max_tokens=most)
        return Thinking(effort=self.thinking, max_tokens=0 if self.thinking == "off" else most)

    def same_model(self, other: ModelConfig) -> bool:
        """Whether both mean the same model in the same place, however it thinks and whatever it costs."""
        free = {"thinking", "prices", "size"}
        return self.model_dump(exclude=free) == other.model_dump(exclude=free)

    def with_template(self, table: str) -> ModelConfig:
        """The settings with the text of ``chat_template``. Raises ConfigError if the file cannot be read."""
        if self.chat_template is None or "{" in self.chat_template:
            return self
        try:
            path = own_path(self.chat_template, f"{table}.chat_template")
            text = read_plain(path, MAX_SOURCE, follow=True).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(
                f"{table}.chat_template = {self.chat_template!r} cannot be read ({why}); give the path of a file "
                "with a chat template"
            ) from None
        return self.model_copy(update={"chat_template": text})

    @field_validator("thinking", mode="before")
    @classmethod
    def _switch(cls, thinking: object) -> object:
        return {True: "on", False: "off"}[thinking] if isinstance(thinking, bool) else thinking

    @model_validator(mode="after")
    def _template_is_ours(self) -> Self:
        if self.chat_template is not None and self.base_url is not None:
            raise PydanticCustomError("together", "chat_template is for hosted models; a server has its own")
        return self

    # Settings are written to the run folder, so they must hold no secret, and errors about them repeat none.
    @field_validator("base_url", mode="before")
    @classmethod
    def _no_secret(cls, url: object) -> object:
        if url is not None and (fault := address_fault(url)):
            raise PydanticCustomError("secret", fault)
        return url

    @field_validator("api_key_env", mode="before")
    @classmethod
    def _names_a_variable(cls, name: object) -> object:
        if fault := variable_fault(name):
            raise PydanticCustomError("secret", fault)
        return name
