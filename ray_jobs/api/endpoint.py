"""A model behind an OpenAI-compatible endpoint, as ``ao.train`` takes it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from agentopt_local.errors import ConfigError
from agentopt_local.models.secrets import address_fault
from agentopt_local.spelling import did_you_mean
from ray_jobs.model_config import ModelConfig


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, for ``model=`` and ``optimizer_model=``."""

    def __init__(self, url: str, name: str, *, api_key_env: str = "OPENAI_API_KEY", **settings: Any) -> None:
        """Describe the model called ``name`` at ``url``; no request is sent yet.

        ``url``: the address with its version, such as ``http://127.0.0.1:8000/v1``, without any key in it.
        ``api_key_env``: the environment variable that holds the key; the key itself is never written down.
        ``settings``: any other key of ``[model]``: ``structured`` (``auto``, ``json_schema``, ``vllm``, ``none``),
        ``send_seed``, ``timeout_s`` (seconds), ``max_retries``, ``max_concurrency`` (requests at once),
        ``requests_per_minute``, ``prices`` (``{"input": ..., "cached": ..., "output": ...}`` per million tokens).

        Raises ConfigError if a setting or value is wrong.

        ::

            ao.train(task, model=ao.Endpoint("https://api.example.com/v1", "large-model", requests_per_minute=60))
        """
        self.settings: dict[str, Any] = {"name": name, "base_url": url, "api_key_env": api_key_env, **settings}
        """The keys of ``[model]`` and their values."""
        for key in settings:
            if key not in ModelConfig.model_fields:
                hint = did_you_mean(key, ModelConfig.model_fields)
                known = ", ".join(ModelConfig.model_fields)
                raise ConfigError(f"ao.Endpoint: {key} is not a setting{hint}; the settings are: {known}")
        if (fault := address_fault(url)) is not None:
            raise ConfigError(f"ao.Endpoint: url: {fault}; the key belongs into the environment variable api_key_env")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"ao.Endpoint: url = {url!r} is not an HTTP(S) URL, such as http://127.0.0.1:8000/v1")
        try:
            ModelConfig.model_validate(self.settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"ao.Endpoint: {where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None

    def __repr__(self) -> str:
        return f"Endpoint({self.settings['base_url']!r}, {self.settings['name']!r})"
