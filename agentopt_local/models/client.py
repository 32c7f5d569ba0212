"""JSON over HTTP with retries: what every request to an OpenAI-compatible server needs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httpx

from agentopt_local.errors import (
    ConfigError,
    ContextOverflowError,
    ModelError,
    ModelOverloadedError,
    ModelTimeoutError,
    RefusedPromptError,
    outcome,
)
from agentopt_local.models.http_body import ACCEPTED, MAX_BYTES, BodyError, read_body
from agentopt_local.models.pacing import Pacer
from agentopt_local.models.refusals import Kind, kind_of
from agentopt_local.models.secrets import EXAMPLE, Key, looks_random, masked
from agentopt_local.models.server_error import SHOWN, Refusal, read_refusal

log = logging.getLogger(__name__)

_MAX_WAIT_S = 60.0
_MAX_RETRY_AFTER_S = 900.0
"""A longer wait is not sat out: the run can be resumed later."""
_LOOK_S = 10.0
_SURROUNDINGS = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
"""The environment variables that httpx reads."""


class BadRequestError(ModelError):
    """The server refused the form of a request. The caller may rephrase it."""

    refusal: Refusal | None = None
    """What it said."""


class SampledError(ModelError):
    """The server rejects what the model wrote, which is the model's fault and no error of the machine."""

    sampled: str = ""
    """What the model wrote, as far as the server shows it."""


class CutError(ModelError):
    """The reply was cut at the limit of tokens before there was anything to show, as when all of it was thought."""


_ERRORS: dict[Kind, type[ModelError]] = {
    "context": ContextOverflowError,
    "content": RefusedPromptError,
    "request": BadRequestError,
    "sampled": SampledError,
    "cut": CutError,
    "timeout": ModelTimeoutError,
    "overloaded": ModelOverloadedError,
}
Check = Callable[[Any], str | None]
"""The JSON of the error in an answer with status 200; None if it holds none."""


class Address:
    """Where a server is. A query, such as Azure's ``api-version``, stays behind every path."""

    def __init__(self, base_url: str) -> None:
        """Raises ConfigError if ``base_url`` is not an HTTP(S) URL."""
        text = base_url.strip()
        shown = "***" if looks_random(text) and "/" not in text else masked(text)
        url, fault = outcome(lambda: httpx.URL(text))
        if url is None:
            raise ConfigError(f"model.base_url: {shown!r}: {masked(str(fault))}; expected something like {EXAMPLE}")
        if url.scheme not in ("http", "https") or not _is_host(url.host) or (url.port or 1) > 65535:
            raise ConfigError(f"model.base_url: {shown!r} is not an HTTP(S) URL such as {EXAMPLE}")
        self.host = url.host
        self.secrets = tuple(filter(None, (unquote(url.password or ""), url.password)))
        self.user = (url.username, url.password or "") if url.username or url.password else None
        path, _, query = url.copy_with(username=None, password=None, fragment=None).raw_path.decode().partition("?")
        self._origin = str(url.copy_with(username=None, password=None, fragment=None, raw_path=b"/")).rstrip("/")
        self._path = path.rstrip("/").removesuffix("/chat/completions")
        self._query = f"?{query}" if query else ""
        self.shown = self._origin + self._path

    def of(self, path: str) -> str:
        """The URL of ``path``, which starts with a slash."""
        return f"{self._origin}{self._path}{path}{self._query}"

    def outside_v1(self, path: str) -> str:
        """The URL of ``path`` beside ``/v1``."""
        return f"{self._origin}{self._path.removesuffix('/v1')}{path}{self._query}"


def _is_host(host: str) -> bool:
    return (
        0 < len(host) <= 253
        and not re.search(r"[\s%]", host)
        and all(0 < len(label) <= 63 for label in host.rstrip(".").split("."))
    )


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
        self.address = Address(base_url)
        self.shown_url = self.address.shown
        self.model = model
        self.key = Key(api_key_env, also=self.address.secrets)
        self.key.headers()  # a key that cannot be sent is reported before anything starts
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

    async def post(self, url: str, body: dict[str, Any], *, check: Check = lambda answer: None) -> Any:
        """The parsed JSON of the answer. ``check`` finds errors in answers with status 200.

        Retries what may pass (408, 409, 429, 5xx, time-outs, broken connections and broken JSON) with exponential
        backoff and jitter, or after the wait that the server asks for, which holds back all other requests too. Raises
        ModelTimeoutError, ModelOverloadedError, ContextOverflowError or RefusedPromptError (this prompt is at fault),
        BadRequestError, SampledError, CutError, ModelError, or ConfigError if no request can be sent from here.
        """
        client, slots = self._open()
        async with slots:
            for attempt in range(self.max_retries + 1):
                await self.pacer.wait()
                error, wait_s = await self._attempt(client, url, body, check)
                if not isinstance(error, ModelError):
                    return error
                if not error.retryable or attempt == self.max_retries:
                    raise error
                if not wait_s:  # none given, or "Retry-After: 0", which names no time either
                    wait_s = min(_MAX_WAIT_S, self.backoff_s * 2 ** min(attempt, 20)) * random.uniform(0.5, 1.0)
                    log.warning("%s; asking again in %.1f s", error, wait_s)
                    await asyncio.sleep(wait_s)
                elif wait_s > _MAX_RETRY_AFTER_S:
                    raise type(error)(f"{error}; it asks to wait {wait_s:.0f} s: resume the run then")
                else:
                    log.warning("%s; it asks to wait %.1f s", error, wait_s)
                    self.pacer.close_for(wait_s)  # for all requests: the others would only be refused too
        raise AssertionError("unreachable")

    async def look(self, url: str, body: dict[str, Any] | None = None) -> Any:
        """The parsed JSON that is answered to GET, or to POST of ``body``, or None for any other answer.

        For finding out what a server is: no retries, and not for long.
        """
        client, _ = self._open()
        try:
            async with asyncio.timeout(min(_LOOK_S, self.timeout_s)):
                status, text, _ = await self._exchange(client, url, body)
            return json.loads(text) if 200 <= status < 300 else None
        except (httpx.HTTPError, httpx.InvalidURL, BodyError, TimeoutError, ValueError, RecursionError):
            return None

    async def _exchange(
        self, client: httpx.AsyncClient, url: str, body: dict[str, Any] | None
    ) -> tuple[int, str, httpx.Headers]:
        """The status, the body (the beginning of one that is too long, if it is an error) and the headers."""
        headers = {**self.key.headers(), "Accept-Encoding": ACCEPTED}
        async with client.stream("GET" if body is None else "POST", url, json=body, headers=headers) as response:
            self.reached = True
            content, whole = await read_body(response)
            if not whole and response.is_success:
                raise BodyError(f"the answer is longer than {MAX_BYTES >> 20} MiB")
        return response.status_code, content.decode("utf-8-sig", "replace"), response.headers

    async def _attempt(
        self, client: httpx.AsyncClient, url: str, body: dict[str, Any], check: Check
    ) -> tuple[Any, float | None]:
        """The answer's JSON or a ModelError, and the seconds that the server asks to wait."""
        try:
            async with asyncio.timeout(self.timeout_s):  # httpx limits the wait for each piece, not the total
                status, text, headers = await self._exchange(client, url, body)
        except (httpx.TimeoutException, TimeoutError):
            return ModelTimeoutError(f"{self.shown_url} did not answer for {self.model} in {self.timeout_s:g} s"), None
        except (httpx.HTTPError, httpx.InvalidURL, BodyError) as error:
            said = str(error) if isinstance(error, BodyError) else f"{type(error).__name__}: {error}"
            return self._broken(said, refused=isinstance(error, httpx.ConnectError)), None
        if not 200 <= status < 300:
            return self._refused(read_refusal(status, text, headers, self.key.redact), headers)
        try:
            answer = json.loads(self.key.redact_reply(text))
            error_text = check(answer)
        except (ValueError, RecursionError):
            return self._broken(f"the answer is not JSON: {' '.join(text[:2000].split())[:80]!r}"), None
        if error_text is None:
            return answer, None
        return self._refused(read_refusal(200, error_text, headers, self.key.redact), headers)

    def _broken(self, what: str, *, refused: bool = False) -> ModelError:
        what = self.key.redact(what)
        if refused and not self.reached:
            return ModelError(f"nothing answers at {self.shown_url} ({what}); start the server, or set model.base_url")
        error = ModelError(f"the connection to {self.shown_url} for {self.model} broke: {what}")
        error.retryable = True
        return error

    def _refused(self, refusal: Refusal, headers: httpx.Headers) -> tuple[ModelError, float | None]:
        kind = kind_of(refusal)
        said = f"{refusal.shown}{self._advice(kind, headers)}"
        if kind == "key":
            state = "is not accepted" if self.key.value else "is not set"
            said = f"the key in the environment variable {self.key.variable} {state}: {refusal.shown}"
        error = _ERRORS.get(kind, ModelError)(f"{self.shown_url} answered {refusal.status} for {self.model}: {said}")
        if isinstance(error, BadRequestError):
            error.refusal = refusal
        if isinstance(error, SampledError):
            error.sampled = refusal.sampled or ""
        return error, refusal.wait_s

    def _advice(self, kind: Kind, headers: httpx.Headers) -> str:
        """What to do about an error that every request will have."""
        variable, place = self.key.variable, self.key.redact(headers.get("Location", "nowhere"))
        return {
            "other": f"; the key in the environment variable {variable} is {'set' if self.key.value else 'not set'}",
            "quota": f"; the account behind the key in {variable} has nothing left: resume the run when it has",
            "missing": "; check model.base_url (it usually ends in /v1), the model's name, and that the key in "
            f"{variable} may use it",
            "moved": f"; set model.base_url to where it points: {place[:200]!r}",
        }.get(kind, "")

    def _open(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        if self._client is None or self._slots is None:
            client, fault = outcome(self._new_client)
            if client is None:
                raise ConfigError(f"no connection to {self.shown_url} can be made from here: {self._why(fault)}")
            self._slots = asyncio.Semaphore(self.max_concurrency)
            self._client = client
        return self._client, self._slots

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=self.transport,
            auth=self.address.user,
            # A request holds a slot while it waits, so the pool itself never makes one wait.
            timeout=httpx.Timeout(self.timeout_s, connect=min(30.0, self.timeout_s), pool=None),
            limits=httpx.Limits(max_connections=self.max_concurrency + 1),
            trust_env=self.address.host not in ("localhost", "127.0.0.1", "::1"),  # no proxy to loopback
        )

    def _why(self, fault: Exception | None) -> str:
        """Why httpx makes no client, with the settings of the machine that it read."""
        names = [name for name in _SURROUNDINGS for name in (name, name.lower()) if os.environ.get(name)]
        values = ", ".join(f"{name}={masked(os.environ[name])[:200]}" for name in names)
        remedy = f"; it follows these environment variables: {values}" if values else ""
        return self.key.redact(" ".join(f"{type(fault).__name__}: {fault}".split())[:SHOWN]) + remedy

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice; a later request opens new ones."""
        client, self._client, self._slots = self._client, None, None
        if client is not None:
            await client.aclose()
