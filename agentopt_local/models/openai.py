"""Any server that speaks OpenAI's chat-completions interface: OpenAI, vLLM, llama.cpp, Ollama and others.

Servers differ in how far a reply can be constrained. What a server cannot guarantee is checked here; a reply that
fails is asked for again with a note of what was wrong.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import httpx

from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import ModelError, PromptError, RefusedPromptError
from agentopt_local.models.checking import fault
from agentopt_local.models.client import BadRequestError, JsonClient
from agentopt_local.models.refusals import begun, blames_content, blames_template
from agentopt_local.models.wire import from_response, to_messages, to_response_format, to_tools, usage_of, withheld
from agentopt_local.tool_formats import COMPACT_JSON, HermesFormat, ToolFormat

Structured = Literal["auto", "json_schema", "vllm", "none"]


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
        self.structured = structured
        self.max_resamples = max_resamples
        self.send_seed = send_seed
        self.tool_format = tool_format
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
        self._mode: Structured = structured
        self._strict = True
        self._limit_field = "max_tokens"
        self._refused: set[str] = set()
        """Optional fields that this server does not accept."""
        self._asking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"OpenAIChatModel({self.client.shown_url!r}, {self.model!r}, structured={self.structured!r})"

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
            loose = self._mode != "vllm"
            wrong = fault(request, reply.message, schema_suffices=loose) if reply.finish_reason == "stop" else None
            if wrong is None:
                break
            note = f"(Your last answer was not accepted. {wrong} Answer again.)"
        return reply.model_copy(update={"usage": usage})

    async def _sample(self, request: ChatRequest, sample: int, note: str) -> ChatReply:
        # A server may refuse fields one after the other; each refusal changes what is sent, so this ends.
        for _ in range(8):
            body = self._body(request, sample, note)
            try:
                answer = await self.client.post(f"{self.client.url}/chat/completions", body)
            except BadRequestError as error:
                if blames_template(str(error)) and begun(request.messages):
                    raise RefusedPromptError(str(error)) from None
                if not self._adapt(body, str(error)):
                    raise
                continue
            return self._reply(request, answer)
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

    def _body(self, request: ChatRequest, sample: int, note: str) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": to_messages(_with_note(request.messages, note)),
            self._limit_field: sampling.max_tokens,
            # A greedy model would repeat its mistake.
            "temperature": max(sampling.temperature, 0.7) if sample else sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.seed is not None and self.send_seed:
            body["seed"] = sampling.seed + sample
        if request.tools:
            body["tools"] = to_tools(request.tools)
            # vLLM refuses "auto" without a tool parser. With "none" it still shows the tools to the template, and the
            # calls come as text, which is parsed here in whatever format they are written.
            body["tool_choice"] = "none" if self._mode == "vllm" else "auto"
        body |= self._constraint_fields(request)
        return {key: value for key, value in body.items() if key not in self._refused}

    def _constraint_fields(self, request: ChatRequest) -> dict[str, Any]:
        constraint = request.constraint
        if constraint is None or self._mode in ("none", "auto"):
            return {}
        if self._mode == "json_schema":
            schema = constraint.value if constraint.kind == "json_schema" else constraint.json_schema
            return {} if schema is None else {"response_format": to_response_format(schema, strict=self._strict)}
        kind, value = constraint.kind, constraint.value
        if kind == "turn":
            format_ = self.tool_format or HermesFormat()
            kind, value = "grammar", format_.grammar(request.tools, value)
        if kind == "json_schema":
            wanted = json.loads(value)
            if isinstance(wanted, dict):
                wanted = {"x-guidance": COMPACT_JSON, **wanted}
            return {"structured_outputs": {"json": wanted}}
        return {"structured_outputs": {kind: value}}

    def _adapt(self, body: dict[str, Any], refusal: str) -> bool:
        """Stop sending the field that was refused; False if no field can be blamed."""
        words = refusal.lower()
        if "max_tokens" in body and "max_completion_tokens" in words:
            self._limit_field = "max_completion_tokens"
        elif (
            "response_format" in body and body["response_format"]["json_schema"]["strict"] and "invalid schema" in words
        ):
            self._strict = False
        elif "response_format" in body and ("response_format" in words or "json_schema" in words):
            if self.structured != "auto":
                return False
            self._mode = "none"
        elif "structured_outputs" in body and "structured_outputs" in words:
            if self.structured != "auto":
                return False
            self._mode = "json_schema"
        elif "tool_choice" in body and ("tool_choice" in words or "tool choice" in words):
            self._refused.add("tool_choice")
        else:
            # Reasoning models accept no temperature, top_p or seed.
            named = {field for field in ("temperature", "top_p", "seed") if field in body and field in words}
            self._refused |= named
            return bool(named)
        return True

    async def _settle(self) -> None:
        """Find out once, for all concurrent requests, what the server can do."""
        if self._mode != "auto" and (self._mode != "vllm" or self.tool_format is not None):
            return
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_server())
        await asyncio.shield(self._asking)

    async def _ask_server(self) -> None:
        root, url = self.client.root_url, self.client.url
        mode = self._mode
        if mode == "auto":
            models = await self.client.get(f"{url}/models")
            owners = [row.get("owned_by") for row in _rows(models)]
            mode = "vllm" if "vllm" in owners else "json_schema"
        if mode == "vllm" and self.tool_format is None:
            asked = {"model": self.model, "prompt": "<tool_call>", "add_special_tokens": False}
            try:
                answer = await self.client.post(f"{root}/tokenize", asked)
            except ModelError:
                answer = None
            count = answer.get("count") if isinstance(answer, dict) else None
            if self.client.reached:
                self.tool_format = HermesFormat(mark_tokens=count == 1)
        if self.client.reached:
            self._mode = mode
        else:
            self._asking = None  # not there yet: ask again at the next request

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        await self.client.aclose()


def _rows(models: Any) -> list[dict[str, Any]]:
    rows = models.get("data") if isinstance(models, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _with_note(messages: tuple[Message, ...], note: str) -> tuple[Message, ...]:
    if not note:
        return messages
    last = messages[-1]
    if last.role in ("user", "tool"):
        # Some chat templates refuse two user turns in a row.
        return (*messages[:-1], last.model_copy(update={"content": f"{last.content}\n\n{note}"}))
    return (*messages, Message(role="user", content=note))
