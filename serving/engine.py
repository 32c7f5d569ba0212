"""One vLLM engine: chats in, chats out, token ids in between. Create it only in the engine's own process."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import OrderedDict
from datetime import date
from pathlib import Path
from typing import Any

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Usage
from agentopt_local.errors import ConfigError, ContextOverflowError, EngineDeadError, ModelError, ModelOverloadedError
from agentopt_local.tool_formats import guided
from serving.engine_config import EngineConfig
from serving.facts import EngineCounters, EngineFacts
from serving.transcript import Prompt, Transcripts
from serving.vllm_options import prepare
from serving.vllm_start import last_error, start

MIN_SHARED_TOKENS = 64
"""Shorter prefixes are not worth a request of their own to warm them."""
MAX_WARMED = 4096
"""Prefixes remembered as warmed."""


class Engine:
    """A vLLM ``AsyncLLM`` behind the ChatModel Protocol."""

    def __init__(
        self,
        model: Path,
        config: EngineConfig,
        *,
        cpu: bool,
        spans: bool = False,
        sleeps: bool = False,
        chat_template: str | None = None,
        day: date | None = None,
    ) -> None:
        """Load ``model`` (a Hugging Face folder), which takes half a minute or more.

        ``spans``: whether its GPUs are on several nodes, in this actor's placement group. ``sleeps``: whether it will
        be put to sleep. ``chat_template``: Jinja to use in place of the model's own. ``day``: the current date to
        templates that show it, today if None. Raises ConfigError if vLLM refuses a setting or the template cannot be
        used, EngineDeadError if vLLM does not start.
        """
        self.config = config
        # first of all: a template that cannot be used costs seconds here, and minutes after loading
        self.transcripts = transcripts_of(model, chat_template, day, trust_remote_code=config.trust_remote_code)
        self._options, speed = prepare(model, config, cpu=cpu, spans=spans, sleeps=sleeps)
        self.counters: EngineCounters | None = EngineCounters() if cpu else None
        """What the engine has done so far. Counted only on a CPU, where steps are long."""
        self._load()
        cache = self.llm.vllm_config.cache_config
        self.facts = EngineFacts(
            dtype=str(self.llm.vllm_config.model_config.dtype).removeprefix("torch."),
            quantization=self.llm.vllm_config.model_config.quantization,
            speed=speed,
            step_tokens=self._options["max_num_batched_tokens"],
            # the rest was found by vLLM while it started
            max_model_len=self.llm.vllm_config.model_config.max_model_len,
            max_num_seqs=self._options["max_num_seqs"] * config.data_parallel_size,
            kv_cache_tokens=(cache.num_gpu_blocks or 0) * cache.block_size or None,
            calls=self.transcripts.family.calls,
            thinks=self.transcripts.family.thinks,
            day=self.transcripts.family.template.day,
        )
        self._block = cache.block_size
        self._cache_works = False
        """Whether the prefix cache has ever hit: not every kind of model has one."""
        self._request_ids = itertools.count()
        self._warmed: OrderedDict[int, asyncio.Future[None]] = OrderedDict()
        self._cold: set[str | None] = set()
        """Conversations that the prefix cache has lost to sleep."""

    def _load(self) -> None:
        self.llm = start(self._options, stat_loggers=None if self.counters is None else [self._counter()])

    async def sleep(self) -> None:
        """Give the memory back: a GPU's weights move to the host's memory, a CPU engine ends. Conversations go on."""
        if self.llm is None:
            return
        if self.counters is None:
            await self.llm.sleep(level=1)
        else:  # vLLM has no sleep mode on a CPU
            await asyncio.to_thread(self.llm.shutdown)
            self.llm = None
        self._warmed.clear()
        self._cold = set(self.transcripts.conversations)

    async def wake(self) -> None:
        """Take the memory again. Raises EngineDeadError if vLLM does not start."""
        if self.llm is None:
            await asyncio.to_thread(self._load)
        elif self.counters is None:
            await self.llm.wake_up()

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

    async def count_tokens(self, request: ChatRequest) -> int:
        """Tokens of the prompt of ``request``. Raises as :meth:`complete` does if the chat template refuses it."""
        return len(self.transcripts.prompt(request, self.facts.max_model_len).ids)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request``. Raises ContextOverflowError if the prompt leaves no room for a reply."""
        from vllm.inputs import TokensPrompt

        prompt = self.transcripts.prompt(request, self.facts.max_model_len)
        ids = prompt.ids
        room = self.facts.max_model_len - len(ids)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens; the engine's max_model_len is {self.facts.max_model_len}"
            )
        cold = request.conversation in self._cold
        self._cold.discard(request.conversation)
        known = 0 if cold else self.transcripts.known_tokens(request.conversation, ids)
        await self._warm(request, ids)
        wanted = request.sampling.max_tokens + prompt.opening.max_tokens
        params = self._sampling_params(request, prompt, min(room, wanted))
        output = await self._generate(TokensPrompt(prompt_token_ids=ids), params)
        sampled = list(output.outputs[0].token_ids)
        message, thought_tokens = self.transcripts.read(request, prompt, sampled)
        self.transcripts.remember(request, prompt, message, sampled)
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
            thought_tokens=thought_tokens,
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

    def _sampling_params(self, request: ChatRequest, prompt: Prompt, max_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=max_tokens,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            seed=request.sampling.seed,
            stop_token_ids=self.transcripts.stop_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=self._structured_outputs(request, prompt),
        )

    def _structured_outputs(self, request: ChatRequest, prompt: Prompt) -> Any:
        """The request's constraint as vLLM takes it."""
        from vllm.sampling_params import StructuredOutputsParams

        constraint = request.constraint
        if constraint is not None and constraint.kind == "json_schema":
            # fixed white space: small models would fill their turn with it
            schema = guided(json.loads(constraint.value))
            request = request.model_copy(
                update={"constraint": Constraint(kind="json_schema", value=json.dumps(schema))}
            )
        constraint = self.transcripts.constraint(request, prompt.opening)
        if constraint is None:
            return None
        key = {"json_schema": "json", "regex": "regex", "grammar": "grammar"}[constraint.kind]
        return StructuredOutputsParams(**{key: constraint.value})

    async def aclose(self) -> None:
        """End the engine core."""
        if self.llm is not None:
            self.llm.shutdown()


def transcripts_of(
    model: Path, chat_template: str | None = None, day: date | None = None, *, trust_remote_code: bool = False
) -> Transcripts:
    """The tokenizer and chat template of ``model``, tried out. ``day``: as in :class:`Engine`.

    Raises ConfigError if they cannot be used.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:  # mistral_format: transformers prefers Mistral's own tokenizer where both are in the folder
        tokenizer = AutoTokenizer.from_pretrained(str(model), trust_remote_code=trust_remote_code, mistral_format=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"the tokenizer of {model} cannot be loaded: {reason}; fetch the model again") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):  # llguidance reads no other
        raise ConfigError(
            f"{model} has a tokenizer of a kind with which replies cannot be constrained ({type(tokenizer).__name__}); "
            "choose a copy of the model that has a tokenizer.json"
        )
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    return Transcripts(tokenizer, name=model.name, stop_ids=stop_token_ids(model), day=day)


def stop_token_ids(model: Path) -> list[int]:
    """The ids that end a turn according to generation_config.json and config.json."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = model / name
        more = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        ids += more if isinstance(more, list) else [] if more is None else [more]
    return list(dict.fromkeys(ids))
