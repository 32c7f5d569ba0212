"""One vLLM engine: chats in, chats out, token ids in between. Create it only in the engine's own process."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Usage
from agentopt_local.errors import ContextOverflowError, EngineDeadError, ModelError, ModelOverloadedError
from agentopt_local.tool_formats import COMPACT_JSON
from serving.engine_config import EngineConfig
from serving.facts import EngineCounters, EngineFacts
from serving.transcript import Transcripts
from serving.vllm_options import prepare
from serving.vllm_start import last_error, start

MIN_SHARED_TOKENS = 64
"""Shorter prefixes are not worth a request of their own to warm them."""
MAX_WARMED = 4096
"""Prefixes remembered as warmed."""


class Engine:
    """A vLLM ``AsyncLLM`` behind the ChatModel Protocol."""

    def __init__(self, model: Path, config: EngineConfig, *, cpu: bool, spans: bool = False) -> None:
        """Load ``model`` (a Hugging Face folder), which takes half a minute or more.

        ``spans``: whether its GPUs are on several nodes, in this actor's placement group. Raises ConfigError if vLLM
        refuses a setting, EngineDeadError if it does not start.
        """
        from transformers import AutoTokenizer

        self.config = config
        options, speed = prepare(model, config, cpu=cpu, spans=spans)
        self.counters: EngineCounters | None = EngineCounters() if cpu else None
        """What the engine has done so far. Counted only on a CPU, where steps are long."""
        self.llm = start(options, stat_loggers=[self._counter()] if cpu else None)
        tokenizer = AutoTokenizer.from_pretrained(str(model), trust_remote_code=config.trust_remote_code)
        self.transcripts = Transcripts(tokenizer)
        self.stop_ids = stop_token_ids(model, self.transcripts.tokenizer)
        cache = self.llm.vllm_config.cache_config
        self.facts = EngineFacts(
            dtype=str(self.llm.vllm_config.model_config.dtype).removeprefix("torch."),
            quantization=self.llm.vllm_config.model_config.quantization,
            speed=speed,
            step_tokens=options["max_num_batched_tokens"],
            # the rest was found by vLLM while it started
            max_model_len=self.llm.vllm_config.model_config.max_model_len,
            max_num_seqs=options["max_num_seqs"] * config.data_parallel_size,
            kv_cache_tokens=(cache.num_gpu_blocks or 0) * cache.block_size or None,
        )
        self._block = cache.block_size
        self._cache_works = False
        """Whether the prefix cache has ever hit: not every kind of model has one."""
        self._request_ids = itertools.count()
        self._warmed: OrderedDict[int, asyncio.Future[None]] = OrderedDict()

    def _counter(self) -> Any:
        from vllm.v1.metrics.loggers import StatLoggerBase

        engine = self

        class Counter(StatLoggerBase):  # type: ignore[misc] # vLLM is not typed
            """Adds each step of the engine to its counters."""

            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """Called by vLLM."""

            def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:
                """Called after each step."""
                step = getattr(scheduler_stats, "iteration_details", None)
                if step is not None:
                    counters = engine.counters or EngineCounters()
                    engine.counters = counters.after(step.num_ctx_tokens, step.num_generation_tokens)

            def log_engine_initialized(self) -> None:
                """Nothing to log."""

        return Counter

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request``. Raises ContextOverflowError if the prompt leaves no room for a reply."""
        from vllm.inputs import TokensPrompt

        ids = self.transcripts.prompt_ids(request.conversation, request.messages, request.tools)
        room = self.facts.max_model_len - len(ids)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens; the engine's max_model_len is {self.facts.max_model_len}"
            )
        known = self.transcripts.known_tokens(request.conversation, ids)
        await self._warm(request, ids)
        params = self._sampling_params(request, min(room, request.sampling.max_tokens))
        output = await self._generate(TokensPrompt(prompt_token_ids=ids), params)
        sampled = list(output.outputs[0].token_ids)
        text = self.transcripts.tokenizer.decode(sampled, skip_special_tokens=True)
        if request.constraint is not None and request.constraint.kind != "turn":
            message = Message(role="assistant", content=text)
        else:
            message = self.transcripts.tool_format.parse(text, request.tools)
        self.transcripts.remember(request.conversation, (*request.messages, message), request.tools, ids + sampled)
        cached = output.num_cached_tokens or 0
        self._cache_works = self._cache_works or cached > 0
        # Only whole blocks are cached, and the last sampled token has never been computed.
        computed = max(known - 1, 0) // self._block * self._block
        usage = Usage(
            requests=1,
            prompt_tokens=len(ids),
            cached_tokens=cached,
            evicted_tokens=max(0, computed - cached) if self._cache_works else 0,
            completion_tokens=len(sampled),
        )
        # "error": the grammar refused a token that its own mask had let through, such as the tag that closes a call.
        # Retrying would fail again, so what was written before counts as a truncated reply.
        cut = output.outputs[0].finish_reason in ("length", "error")
        return ChatReply(message=message, finish_reason="length" if cut else "stop", usage=usage)

    async def _warm(self, request: ChatRequest, ids: list[int]) -> None:
        """Put the prefix that many conversations share into the prefix cache, once.

        vLLM shares a prefix only after it has been computed: rollouts that start together would otherwise each compute
        their common system prompt.
        """
        prefix = self.transcripts.shared_ids(request, ids)
        if len(prefix) < MIN_SHARED_TOKENS:
            return
        key = hash(tuple(prefix))
        if key in self._warmed:
            self._warmed.move_to_end(key)
            await asyncio.shield(self._warmed[key])
            return
        done = self._warmed[key] = asyncio.get_running_loop().create_future()
        try:
            from vllm import SamplingParams
            from vllm.inputs import TokensPrompt

            await self._generate(TokensPrompt(prompt_token_ids=prefix), SamplingParams(max_tokens=1, detokenize=False))
        finally:
            done.set_result(None)
            while len(self._warmed) > MAX_WARMED:
                self._warmed.popitem(last=False)

    async def _generate(self, prompt: Any, params: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        last = None
        try:
            async for output in self.llm.generate(prompt, params, f"r{next(self._request_ids)}"):
                last = output
        except VllmDeadError as error:
            raise EngineDeadError(f"the vLLM engine has ended: {last_error() or error}") from None
        except ValueError as error:
            raise ModelError(f"vLLM refused the request: {error}") from None
        if last is None:
            raise ModelError("vLLM returned nothing for a request")
        if last.outputs[0].finish_reason == "abort":  # a partial turn must not pass for the model's answer
            raise ModelOverloadedError("vLLM broke a request off (abort)")
        return last

    def _sampling_params(self, request: ChatRequest, max_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=max_tokens,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            seed=request.sampling.seed,
            stop_token_ids=self.stop_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=self._structured_outputs(request),
        )

    def _structured_outputs(self, request: ChatRequest) -> Any:
        """The request's constraint as vLLM takes it; ``turn`` becomes a grammar in the model's own tool format."""
        from vllm.sampling_params import StructuredOutputsParams

        constraint = request.constraint
        if constraint is None:
            return None
        if constraint.kind == "turn":
            grammar = self.transcripts.tool_format.grammar(
                request.tools, constraint.value, constraint.max_thought_sentences
            )
            constraint = Constraint(kind="grammar", value=grammar)
        elif constraint.kind == "json_schema":  # fixed white space: small models would fill their turn with it
            schema = {"x-guidance": COMPACT_JSON, **json.loads(constraint.value)}
            constraint = Constraint(kind="json_schema", value=json.dumps(schema))
        key = {"json_schema": "json", "regex": "regex", "grammar": "grammar"}[constraint.kind]
        return StructuredOutputsParams(**{key: constraint.value})

    async def aclose(self) -> None:
        """End the engine core."""
        self.llm.shutdown()


def stop_token_ids(model: Path, tokenizer: Any) -> list[int]:
    """All ids that end a turn: the tokenizer's and those of generation_config.json."""
    ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    path = model / "generation_config.json"
    if path.is_file():
        more = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") or []
        ids += more if isinstance(more, list) else [more]
    return list(dict.fromkeys(ids))
