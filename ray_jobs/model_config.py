"""The settings of one model, hosted on this cluster or behind an endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from agentopt_local.models.metered import Prices
from agentopt_local.record import Record


class ModelConfig(Record):
    """A model and how to reach it."""

    name: str = "qwen2.5-coder-1.5b"
    """An embedded model, a local folder, a Hugging Face id, or the name of an endpoint's model."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; None hosts the model here with vLLM."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's API key."""
    structured: Literal["auto", "json_schema", "vllm", "none"] = "auto"
    """How the endpoint constrains replies; ``auto`` detects it."""
    send_seed: bool = True
    """Whether to send seeds to the endpoint; vLLM's own server may crash on them when it runs on a CPU."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Time limit of one request to an endpoint, in seconds."""
    max_retries: int = Field(default=5, ge=0)
    """Retries of a request after a 429, a 5xx, a time-out or a broken connection."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """How many requests to an endpoint may be in flight at once; None means ``concurrency``."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """How many requests to an endpoint may start per minute, evenly spaced; None means no limit."""
    prices: Prices = Prices()
    """The prices of its tokens; 0 by default."""

    @field_validator("base_url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        # Settings are written to the run folder, so they must not contain secrets.
        if url is not None and ("@" in url or "?" in url):
            raise PydanticCustomError("secret", "an address must hold no user, password or query")
        return url
