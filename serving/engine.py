"""One vLLM engine: chats in, chats out, token ids in between. Import it only where an engine shall run."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

from agentopt_local.chat import ChatReply, ChatRequest, Constraint, Message, Usage
from agentopt_local.errors import ContextOverflowError, EngineDeadError, ModelError, ModelOverloadedError
from agentopt_local.tool_formats import COMPACT_JSON
from serving.calibration import measure
from serving.config import EngineConfig
from serving.cpu import INT8_METHOD, KERNEL_VARIABLE, plugged_in
from serving.cpu import environment as cpu_environment
from serving.facts import EngineFacts, Pulse, Speed
from serving.transcript import Transcripts

log = logging.getLogger(__name__)
MIN_SHARED_TOKENS = 64
"""Shorter prefixes are not worth a request of their own."""
MAX_WARMED = 4096
"""Prefixes remembered as computed."""
STEP_S = 4.0
"""How long a CPU engine may read prompts before it generates the next tokens and tells what it has done."""
DAY_S = 86_400
LOG_BYTES = 64 << 10
"""Read from the end of a log for the error that it closes with."""
RAISED = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception|Timeout\w*): \S.*)$")


def compiled_norms() -> dict[str, list[str]]:
    """``ir_op_priority`` of a CPU engine: the norms of ``serving/cpu_kernels.py``, if vLLM finds them."""
    if not plugged_in():
        return {}
    return {"rms_norm": ["agentopt_cpu"], "fused_add_rms_norm": ["agentopt_cpu"]}


def engine_environment(config: EngineConfig, *, cpu: bool, cores: int) -> dict[str, str]:
    """Environment variables that an engine process needs from its start on (they are read at import)."""
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the weights are local by now: no request may leave the machine
        # Whether an engine hangs is found out by its steps (stall_timeout_s); a slow step is no reason to end it.
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(DAY_S),
    }
    return env | cpu_environment(config, cores=cores) if cpu else env


def engine_options(model: Path, config: EngineConfig, *, speed: Speed | None = None) -> dict[str, Any]:
    """vLLM's arguments for ``model``, the same for its async and its offline engine.

    ``speed``: of this processor, where the engine runs on it; None: on a GPU.
    """
    options: dict[str, Any] = {
        "model": str(model),
        "dtype": config.dtype,
        "seed": config.seed,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "tensor_parallel_size": config.tensor_parallel_size,
        # a second Ray placement group inside an actor would wait for ever
        "distributed_executor_backend": "mp" if config.tensor_parallel_size > 1 else None,
        "enforce_eager": speed is not None if config.enforce_eager is None else config.enforce_eager,
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
    }
    if speed is None:
        return options | {"gpu_memory_utilization": config.gpu_memory_utilization}
    options |= {
        "dtype": speed.arithmetic.dtype,
        "quantization": INT8_METHOD if speed.arithmetic.quantization else None,
        "max_num_batched_tokens": step_tokens(config, speed),
        "block_size": 32,  # the default, 128, caches too little of short prompts
        "ir_op_priority": compiled_norms(),
        "enable_logging_iteration_details": True,  # how many tokens each step has read; a CPU's steps are long
    }
    if config.tensor_parallel_size == 1:
        # The model beside the scheduler: vLLM's "mp" would spin on a core for as long as a step takes.
        options["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return options


def prepare(model: Path, config: EngineConfig, *, cpu: bool) -> tuple[dict[str, Any], Speed | None]:
    """vLLM's arguments, and the speed on which a CPU engine's depend; vLLM's processes must start after this."""
    speed = measure(model, config) if cpu else None
    if speed is not None and speed.arithmetic.kernel is not None:
        os.environ[KERNEL_VARIABLE] = speed.arithmetic.kernel
    return engine_options(model, config, speed=speed), speed


def step_tokens(config: EngineConfig, speed: Speed) -> int:
    """Prompt and generated tokens of one step: as many as are read in STEP_S, and one for every sequence."""
    readable = int(speed.prompt * STEP_S) // 32 * 32
    return max(min(config.max_num_batched_tokens, readable), config.max_num_seqs, 64)


class Engine:
    """A vLLM ``AsyncLLM`` behind the ChatModel Protocol."""

    def __init__(self, model: Path, config: EngineConfig, *, cpu: bool) -> None:
        """Load ``model`` (a Hugging Face folder). Takes half a minute and more. Raises EngineDeadError."""
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self.config = config
        options, speed = prepare(model, config, cpu=cpu)
        self.pulse: Pulse | None = Pulse() if cpu else None
        """What the engine has done so far; its steps are counted on a CPU alone, where they are long."""
        try:
            self.llm = AsyncLLM.from_engine_args(
                AsyncEngineArgs(**options, disable_log_stats=True),
                usage_context=UsageContext.LLM_CLASS,
                stat_loggers=[self._counter()] if cpu else None,
            )
        except RuntimeError as error:  # it only says that another process has failed
            raise EngineDeadError(f"vLLM could not start: {last_error() or error}") from None
        self.transcripts = Transcripts(AutoTokenizer.from_pretrained(str(model)))
        self.stop_ids = stop_token_ids(model, self.transcripts.tokenizer)
        cache = self.llm.vllm_config.cache_config
        self.facts = EngineFacts(
            dtype=str(self.llm.vllm_config.model_config.dtype).removeprefix("torch."),
            quantization=self.llm.vllm_config.model_config.quantization,
            speed=speed,
            step_tokens=options["max_num_batched_tokens"],
            # as vLLM found when it started
            kv_cache_tokens=(cache.num_gpu_blocks or 0) * cache.block_size or None,
        )
        self._block = cache.block_size
        self._caches = False
        """Whether the prefix cache has ever hit: not every kind of model has one."""
        self._numbers = itertools.count()
        self._warmed: OrderedDict[int, asyncio.Future[None]] = OrderedDict()

    def _counter(self) -> Any:
        from vllm.v1.metrics.loggers import StatLoggerBase

        engine = self

        class Counter(StatLoggerBase):  # type: ignore[misc] # vLLM is not typed
            """Adds every step of the engine to its pulse."""

            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """What vLLM's factories are given."""

            def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:
                """After a step."""
                step = getattr(scheduler_stats, "iteration_details", None)
                if step is not None:
                    engine.pulse = (engine.pulse or Pulse()).after(step.num_ctx_tokens, step.num_generation_tokens)

            def log_engine_initialized(self) -> None:
                """Nothing to tell."""

        return Counter

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
            raise EngineDeadError(f"the vLLM engine has ended: {last_error() or error}") from None
        except ValueError as error:
            raise ModelError(f"vLLM refused the request: {error}") from None
        if last is None:
            raise ModelError("vLLM returned nothing for a request")
        if last.outputs[0].finish_reason == "abort":  # half a turn must not pass for the model's answer
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


def last_error(log: Path = Path("/proc/self/fd/2")) -> str | None:
    """The latest error in this process's log, which vLLM's processes share: what ended them, in their own words.

    None where standard error is no file, or holds none.
    """
    try:
        if not log.is_file():
            return None
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    found = [match[1] for line in lines if (match := RAISED.search(line))]
    plain = [each for each in found if "EngineDeadError" not in each.partition(":")[0]]
    return plain[-1] if plain else None
