"""Any server that speaks OpenAI's chat-completions interface: OpenAI, vLLM, llama.cpp, Ollama and others.

Servers differ in how far a reply can be constrained. What a server cannot guarantee is checked here; a reply that
fails is asked for again with a note of what was wrong.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from agentopt_local.chat import ChatReply, ChatRequest, Usage
from agentopt_local.errors import ContextOverflowError, ModelError, PromptError, RefusedPromptError
from agentopt_local.models.checking import fault
from agentopt_local.models.client import BadRequestError, JsonClient
from agentopt_local.models.refusals import begun, blames_content, blames_template
from agentopt_local.models.server_dialect import ServerDialect, Structured
from agentopt_local.models.wire import field_of_thought, from_response, usage_of, withheld
from agentopt_local.tool_formats import HermesFormat, ToolFormat


class OpenAIChatModel:
    """A ChatModel behind an OpenAI-compatible endpoint. Belongs to one event loop."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 600,
        max_retries: int = 5,
        max_concurrency: int = 64,
        requests_per_minute: float | None = None,
        structured: Structured = "auto",
        max_resamples: int = 3,
        send_seed: bool = True,
        tool_format: ToolFormat | None = None,
        backoff_s: float = 0.5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``base_url``: with ``/v1`` where the server has it. ``api_key_env``: the environment variable that holds
        the key; the key is kept nowhere else. ``max_concurrency``: requests in flight at once;
        ``requests_per_minute``: how many may start, evenly spaced.

        ``structured``: how a constraint is passed on. ``json_schema``: schemas as ``response_format``; ``vllm``: all
        kinds as ``structured_outputs`` (vLLM must run with ``--structured-outputs-config '{"backend": "guidance"}'``);
        ``none``: not at all; ``auto``: vllm if the server says it is vLLM, else json_schema, else none.
        ``max_resamples``: how often a reply that breaks its constraint is asked for again; 0 = never.
        ``send_seed``: False for servers that cannot handle seeds (vLLM on a CPU crashes).
        ``tool_format``: how the model writes calls under ``vllm``; Hermes by default.
        Raises ConfigError if ``base_url`` is not a URL.
        """
        self.model = model
        self.max_resamples = max_resamples
        self.dialect = ServerDialect(model, structured, send_seed=send_seed, tool_format=tool_format)
        self.client = JsonClient(
            base_url,
            model,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
            requests_per_minute=requests_per_minute,
            backoff_s=backoff_s,
            transport=transport,
        )
        self._known = structured == "vllm" and tool_format is not None
        self._asking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"OpenAIChatModel({self.client.shown_url!r}, {self.model!r}, structured={self.dialect.structured!r})"

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request``. A reply that still breaks its constraint after ``max_resamples`` is returned as it is.

        ``usage`` sums over all samples. Raises ContextOverflowError or RefusedPromptError if this prompt is at fault,
        with the usage of all samples; else ModelTimeoutError, ModelOverloadedError or ModelError. See
        :class:`~agentopt_local.models.client.JsonClient`.
        """
        await self._settle()
        usage, note = Usage(), ""
        for sample in range(self.max_resamples + 1):
            try:
                reply = await self._sample(request, sample, note)
            except PromptError as error:
                spent = usage + (error.usage or Usage())
                error.usage = spent if spent.requests else None
                raise
            usage += reply.usage
            # A grammar that was not sent cannot be insisted on where a schema says nearly the same.
            loose = self.dialect.mode != "vllm"
            wrong = fault(request, reply.message, schema_suffices=loose) if reply.finish_reason == "stop" else None
            if wrong is None:
                break
            note = f"(Your last answer was not accepted. {wrong} Answer again.)"
        return reply.model_copy(update={"usage": usage})

    async def _sample(self, request: ChatRequest, sample: int, note: str) -> ChatReply:
        spent, roomy = Usage(), True
        # Each refusal, and each reply that is asked for again, changes what is sent, so this ends.
        for _ in range(20):
            body = self.dialect.body(request, sample=sample, note=note, roomy=roomy)
            try:
                answer = await self.client.post(f"{self.client.url}/chat/completions", body)
                reply = self._reply(request, answer)
            except BadRequestError as error:
                if blames_template(str(error)) and begun(request.messages):
                    raise RefusedPromptError(str(error)) from None
                if not self.dialect.adapt(body, str(error)):
                    raise
                continue
            except PromptError as error:
                if isinstance(error, ContextOverflowError) and roomy and self.dialect.has_room(request):
                    roomy = False  # the context has no room for a long thought, but perhaps for a short one
                    continue
                error.usage = spent + (error.usage or Usage())
                raise
            spent += reply.usage
            if not (self.dialect.learn(request, body, reply, field_of_thought(answer)) and roomy):
                return reply.model_copy(update={"usage": spent})
        raise ModelError(f"{self.client.shown_url} refuses every form of a request for {self.model}")

    def _reply(self, request: ChatRequest, answer: Any) -> ChatReply:
        where = f"{self.client.shown_url} for {self.model}"
        if withheld(answer):
            refused = RefusedPromptError(f"{where}: a content filter withheld the reply (finish_reason content_filter)")
            refused.usage = usage_of(answer)
            raise refused
        try:
            return from_response(request, answer)
        except ValueError as error:
            kind = RefusedPromptError if blames_content(str(error)) else ModelError
            raise kind(f"{where}: {error}") from None

    async def _settle(self) -> None:
        """Find out once, for all concurrent requests, what the server can do."""
        if self._known:
            return
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_server())
        await asyncio.shield(self._asking)

    async def _ask_server(self) -> None:
        root, url, dialect = self.client.root_url, self.client.url, self.dialect
        vllm = dialect.vllm
        if not vllm:
            models = await self.client.get(f"{url}/models")
            vllm = "vllm" in [row.get("owned_by") for row in _rows(models)]
        mode = dialect.mode
        if mode == "auto":
            mode = "vllm" if vllm else "json_schema"
        if mode == "vllm" and dialect.tool_format is None:
            asked = {"model": self.model, "prompt": "<tool_call>", "add_special_tokens": False}
            try:
                answer = await self.client.post(f"{root}/tokenize", asked)
            except ModelError:
                answer = None
            count = answer.get("count") if isinstance(answer, dict) else None
            if self.client.reached:
                dialect.tool_format = HermesFormat(mark_tokens=count == 1)
        self._asking = None
        if self.client.reached:  # otherwise it is not there yet: ask again at the next request
            dialect.mode, dialect.vllm, self._known = mode, vllm, True

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        await self.client.aclose()


def _rows(models: Any) -> list[dict[str, Any]]:
    rows = models.get("data") if isinstance(models, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
