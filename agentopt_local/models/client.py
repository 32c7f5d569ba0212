"""JSON over HTTP with retries: what every request to an OpenAI-compatible server needs."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import random
import time
from typing import Any

import httpx

from agentopt_local.errors import ConfigError, ModelError, ModelOverloadedError, ModelTimeoutError
from agentopt_local.models.pacing import Pacer
from agentopt_local.models.refusals import blames_template, prompt_error

log = logging.getLogger(__name__)

_MAX_WAIT_S = 60.0
_MAX_RETRY_AFTER_S = 900.0
"""A longer wait is not sat out: the run can be resumed later."""


class BadRequestError(ModelError):
    """The server refused a request as malformed or unsupported (400, 422). The caller may rephrase it."""


class JsonClient:
    """Posts JSON to one server, for one model. Belongs to one event loop."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str,
        timeout_s: float,
        max_retries: int,
        max_concurrency: int,
        requests_per_minute: float | None,
        backoff_s: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        try:
            url = httpx.URL(base_url.rstrip("/"))
        except httpx.InvalidURL as error:
            raise ConfigError(f"model.base_url: {error}; expected something like http://localhost:8000/v1") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"model.base_url: {base_url!r} is not an HTTP(S) URL such as http://localhost:8000/v1")
        self.url = str(url)
        self.shown_url = str(url.copy_with(username=None, password=None, query=None))
        self.model = model
        self.api_key_env = api_key_env
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.max_concurrency = max_concurrency
        self.backoff_s = backoff_s
        self.pacer = Pacer(requests_per_minute)
        self.transport = transport
        self.reached = False
        # Both are made at the first request, so that a model can be built outside the loop and pickled before use.
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None

    @property
    def root_url(self) -> str:
        """The server's address without ``/v1``."""
        return self.url.removesuffix("/v1")

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        """The parsed JSON of the answer.

        Retries 408, 409, 429, 5xx, time-outs, broken connections and broken JSON with exponential backoff and
        jitter, or after the server's ``Retry-After``, which holds back all other requests too. Raises
        ModelTimeoutError, ModelOverloadedError, ContextOverflowError or RefusedPromptError (this prompt is at fault),
        BadRequestError, or ModelError.
        """
        client, slots = self._open()
        async with slots:
            for attempt in range(self.max_retries + 1):
                await self.pacer.wait()
                error, wait_s = await self._attempt(client, url, body)
                if not isinstance(error, ModelError):
                    return error
                if not error.retryable or attempt == self.max_retries:
                    raise error
                if not wait_s:  # none given, or "Retry-After: 0", which names no time either
                    wait_s = min(_MAX_WAIT_S, self.backoff_s * 2**attempt) * random.uniform(0.5, 1.0)
                    log.warning("%s; asking again in %.1f s", error, wait_s)
                    await asyncio.sleep(wait_s)
                elif wait_s > _MAX_RETRY_AFTER_S:
                    raise error
                else:
                    log.warning("%s; it asks to wait %.1f s", error, wait_s)
                    self.pacer.close_for(wait_s)  # for all requests: the others would only be refused too
        raise AssertionError("unreachable")

    async def get(self, url: str) -> Any:
        """The parsed JSON of ``url``, or None for any other answer. For finding out what a server is; no retries."""
        client, _ = self._open()
        try:
            async with asyncio.timeout(min(10.0, self.timeout_s)):
                response = await client.get(url, headers=self._headers())
            self.reached = True
            return response.json() if response.is_success else None
        except (httpx.HTTPError, TimeoutError, ValueError):
            return None

    async def _attempt(self, client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> tuple[Any, float | None]:
        """The answer's JSON or a ModelError, and the seconds that the server asks to wait."""
        try:
            async with asyncio.timeout(self.timeout_s):  # httpx limits the wait for each piece, not the total
                response = await client.post(url, json=body, headers=self._headers())
            self.reached = True
        except (httpx.TimeoutException, TimeoutError):
            return ModelTimeoutError(f"{self.shown_url} did not answer for {self.model} in {self.timeout_s:g} s"), None
        except httpx.HTTPError as error:
            return self._broken(f"{type(error).__name__}: {error}", refused=isinstance(error, httpx.ConnectError)), None
        if not response.is_success:
            return self._status_error(response), _retry_after_s(response)
        try:
            return response.json(), None
        except (ValueError, RecursionError):
            return self._broken("the answer is not JSON"), None

    def _broken(self, what: str, *, refused: bool = False) -> ModelError:
        if refused and not self.reached:
            return ModelError(
                f"nothing answers at {self.shown_url} ({self._redact(what)}); start the server, or set model.base_url"
            )
        error = ModelError(f"the connection to {self.shown_url} for {self.model} broke: {self._redact(what)}")
        error.retryable = True
        return error

    def _status_error(self, response: httpx.Response) -> ModelError:
        status = response.status_code
        said, category = _error_text(response)
        text = self._redact(said)
        where = f"{self.shown_url} answered {status} for {self.model}"
        if at_fault := prompt_error(status, f"{text} | {category}"):
            return at_fault(f"{where}: {text}")
        if status in (401, 403):
            state = "is not accepted" if os.environ.get(self.api_key_env) else "is not set"
            return ModelError(f"{where}: the key in the environment variable {self.api_key_env} {state}")
        if status == 404:
            return ModelError(
                f"{where}: {text}; check model.base_url (it usually ends in /v1), the model's name, "
                f"and that the key in {self.api_key_env} may use it"
            )
        kind: type[ModelError] = ModelError
        if status in (408, 504):
            kind = ModelTimeoutError
        elif status in (400, 422) or (status == 500 and blames_template(text)):  # llama.cpp answers 500 for a template
            kind = BadRequestError
        elif (status == 429 and "insufficient_quota" not in text) or status == 409 or status >= 500:
            kind = ModelOverloadedError
        return kind(f"{where}: {text}")

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.api_key_env, "").strip()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _redact(self, text: str) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        return text.replace(key, "***") if key else text

    def _open(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        if self._client is None or self._slots is None:
            self._slots = asyncio.Semaphore(self.max_concurrency)
            self._client = httpx.AsyncClient(
                transport=self.transport,
                # A request holds a slot while it waits, so the pool itself never makes one wait.
                timeout=httpx.Timeout(self.timeout_s, connect=min(30.0, self.timeout_s), pool=None),
                limits=httpx.Limits(max_connections=self.max_concurrency + 1),
                trust_env=httpx.URL(self.url).host not in ("localhost", "127.0.0.1", "::1"),  # no proxy to loopback
            )
        return self._client, self._slots

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice; a later request opens new ones."""
        client, self._client, self._slots = self._client, None, None
        if client is not None:
            await client.aclose()


def _error_text(response: httpx.Response) -> tuple[str, str]:
    """The server's own words, with its error code and parameter, at most 500 characters; and its type of error."""
    category = ""
    try:
        error = response.json()
        error = error.get("error", error)
        category = str(error.get("type") or "")
        words = [str(error[key]) for key in ("message", "detail", "code", "param") if error.get(key)]
        text = " | ".join(words) or json.dumps(error)
    except (ValueError, AttributeError, TypeError, RecursionError):
        text = response.text
    return " ".join(text.split())[:500], category


def _retry_after_s(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
