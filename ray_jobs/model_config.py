"""The settings of a model: hosted here, or behind an endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from agentopt_local.models.metered import Prices
from agentopt_local.record import Record


class ModelConfig(Record):
    """Who talks."""

    name: str = "qwen2.5-coder-1.5b"
    """An embedded model, a local folder, a Hugging Face id, or what an endpoint calls its model."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; None: host the model here with vLLM."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's key."""
    structured: Literal["auto", "json_schema", "vllm", "none"] = "auto"
    """How the endpoint constrains replies; ``auto`` finds out."""
    send_seed: bool = True
    """Whether the endpoint is sent seeds; vLLM's own server on a CPU may die of them."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Per request to an endpoint."""
    max_retries: int = Field(default=5, ge=0)
    """How often an endpoint is asked again after 429, 5xx, a time-out or a broken connection."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """Requests to an endpoint in flight at once; None: as many as ``concurrency``."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Requests to an endpoint that may start in a minute, evenly spaced; None: no limit."""
    prices: Prices = Prices()
    """What its tokens cost; free if left out."""

    @field_validator("base_url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        # Settings are written into the run folder.
        if url is not None and ("@" in url or "?" in url):
            raise PydanticCustomError("secret", "an address must hold no user, password or query")
        return url
