"""Any server that speaks OpenAI's chat-completions interface: OpenAI, vLLM, llama.cpp, Ollama and others.

Servers differ in how far a reply can be constrained. What a server cannot guarantee is checked here; a reply that
fails is asked for again with a note of what was wrong.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx

from agentopt_local.chat import ChatReply, ChatRequest, Usage
from agentopt_local.errors import ContextOverflowError, ModelError, RefusedPromptError
from agentopt_local.models.checking import fault
from agentopt_local.models.client import BadRequestError, CutError, JsonClient, SampledError
from agentopt_local.models.known import LIMITS, Known, Structured
from agentopt_local.models.refusals import begun, blames_template
from agentopt_local.models.server_dialect import ServerDialect
from agentopt_local.models.usage import is_counted, usage_of
from agentopt_local.models.wire import broken_off, ending, field_of_thought, from_response
from agentopt_local.tool_formats import HermesFormat, ToolFormat

log = logging.getLogger(__name__)


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
        self._warned = False
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
            except ModelError as error:
                spent = usage + (error.usage or Usage())
                error.usage = spent if spent.requests else None
                raise
            usage += reply.usage
            # A grammar that was not sent cannot be insisted on where a schema says nearly the same.
            loose = self.dialect.known.mode != "vllm"
            wrong = fault(request, reply.message, schema_suffices=loose) if reply.finish_reason == "stop" else None
            if wrong is None:
                break
            note = f"(Your last answer was not accepted. {wrong} Answer again.)"
        return reply.model_copy(update={"usage": usage})

    async def _sample(self, request: ChatRequest, sample: int, note: str) -> ChatReply:
        broken: list[Usage] = []
        known, roomy = self.dialect.known, True
        start = known
        try:
            # Each refusal, and each reply that is asked for again, changes what is sent, so this ends.
            for _ in range(20):
                body = self.dialect.body(request, known, sample=sample, note=note, roomy=roomy)
                try:
                    answer = await self._post(request, body, broken)
                except BadRequestError as error:
                    known = self._adapted(request, body, known, error)
                    continue
                except ContextOverflowError:
                    if not (roomy and self.dialect.has_room(request)):
                        raise
                    roomy = False  # the context has no room for a long thought, but perhaps for a short one
                    continue
                reply = self._reply(request, answer)
                known, again = self.dialect.learn(request, body, known, reply, field_of_thought(answer))
                self.dialect.keep(start, known)
                if not (again and roomy):
                    return reply.model_copy(update={"usage": sum(broken, reply.usage)})
                broken.append(reply.usage)
        except ModelError as error:
            error.usage = sum(broken, error.usage or Usage())
            raise
        raise ModelError(f"{self.client.shown_url} refuses every form of a request for {self.model}")

    async def _post(self, request: ChatRequest, body: dict[str, Any], broken: list[Usage]) -> Any:
        """The response to ``body``. ``broken`` gets what replies have cost that the server broke off."""

        def check(answer: Any) -> str | None:
            error = broken_off(answer)
            if error is not None and is_counted(answer):
                broken.append(usage_of(answer, request))
            return error

        try:
            return await self.client.post(self.client.address.of("/chat/completions"), body, check=check)
        except SampledError as error:
            return {"choices": [{"message": {"content": error.sampled}}]}
        except CutError:
            sent = max(body.get(field, 0) for field in LIMITS)
            usage = {"completion_tokens": sent, "completion_tokens_details": {"reasoning_tokens": sent}}
            return {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": usage}

    def _adapted(self, request: ChatRequest, body: dict[str, Any], known: Known, error: BadRequestError) -> Known:
        """What to try after a refusal. Raises it, as the prompt's fault or everyone's, if there is nothing."""
        changed = error.refusal and self.dialect.adapt(request, body, known, error.refusal)
        if changed:
            return changed
        if error.refusal and blames_template(error.refusal.said) and begun(request.messages):
            raise RefusedPromptError(str(error)) from None
        raise error

    def _reply(self, request: ChatRequest, answer: Any) -> ChatReply:
        where = f"{self.client.shown_url} for {self.model}"
        try:
            reply = from_response(request, answer)
        except ValueError as error:
            raise ModelError(f"{where}: {self.client.key.redact(str(error))}") from None
        if ending(answer["choices"][0]) == "withheld":
            reason = str(answer["choices"][0]["finish_reason"])[:40]
            refused = RefusedPromptError(f"{where}: a content filter withheld the reply (finish_reason {reason})")
            refused.usage = reply.usage
            raise refused
        if not is_counted(answer) and not self._warned:
            self._warned = True
            log.warning("%s does not count tokens: they are estimated here, rather too many", where)
        return reply

    async def _settle(self) -> None:
        """Find out once, for all concurrent requests, what the server can do."""
        if self._known:
            return
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_server())
        await asyncio.shield(self._asking)

    async def _ask_server(self) -> None:
        address, dialect = self.client.address, self.dialect
        vllm = dialect.known.vllm
        if not vllm:
            models = await self.client.look(address.of("/models"))
            vllm = "vllm" in [row.get("owned_by") for row in _rows(models)]
        mode = dialect.known.mode
        if mode == "auto":
            mode = "vllm" if vllm else "json_schema"
        if mode == "vllm" and dialect.tool_format is None:
            asked = {"model": self.model, "prompt": "<tool_call>", "add_special_tokens": False}
            answer = await self.client.look(address.outside_v1("/tokenize"), asked)
            count = answer.get("count") if isinstance(answer, dict) else None
            if self.client.reached:
                dialect.tool_format = HermesFormat(mark_tokens=count == 1)
        self._asking = None
        if self.client.reached:  # otherwise it is not there yet: ask again at the next request
            dialect.known = dialect.known.model_copy(update={"mode": mode, "vllm": vllm})
            self._known = True

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        await self.client.aclose()


def _rows(models: Any) -> list[dict[str, Any]]:
    rows = models.get("data") if isinstance(models, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
