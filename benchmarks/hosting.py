"""Shared by the engine benchmarks: an engine that logs its requests, meters, and a stand-in without a model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest, Constraint, Message, Usage
from serving.cpu import cores
from serving.engine import Engine
from serving.engine_config import EngineConfig, HostedModel
from serving.sizing import cpu_sizes
from serving.vllm_options import engine_environment, prepare

CODE_ONLY = r"```python\n([^`]|`[^`]|``[^`])*\n```\n?"


class NotingEngine(Engine):
    """The real engine, which also writes the prompt's ids and the number of tokens of every answer to a file."""

    def __init__(self, model: Path, config: EngineConfig, notes: Path, *, cpu: bool) -> None:
        """``notes``: a JSONL file, one ``[prompt ids, generated tokens]`` per answer."""
        super().__init__(model, config, cpu=cpu)
        self.notes = notes.open("a", encoding="utf-8")

    async def _generate(self, prompt: Any, params: Any) -> Any:
        output = await super()._generate(prompt, params)
        if params.max_tokens > 1:  # not the one-token requests that warm shared prefixes
            row = [list(prompt["prompt_token_ids"]), len(output.outputs[0].token_ids)]
            self.notes.write(json.dumps(row) + "\n")
            self.notes.flush()
        return output


class PacedModel:
    """A stand-in for an engine: every token takes ``step_s`` regardless of the batch; at most ``max_seqs`` at once.

    It allows these benchmarks to run without a model. It replies with code to run, and then with an answer.
    """

    device = "scripted"

    def __init__(self, notes: Path, *, step_s: float = 0.0005, max_seqs: int = 32) -> None:
        self.slots = asyncio.Semaphore(max_seqs)
        self.step_s = step_s
        self.notes = notes.open("a", encoding="utf-8")

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Reply with code if only code is allowed, otherwise with an answer; 20 to 120 tokens."""
        tokens = 20 + zlib.crc32(f"{request.conversation}{len(request.messages)}".encode()) % 101
        prompt = sum(len(message.content.split()) for message in request.messages)
        async with self.slots:
            await asyncio.sleep(tokens * self.step_s)
        answers = request.constraint is None or "<answer>" in request.constraint.value
        content = "<answer>1</answer>" if answers else f"```python\nprint({tokens})\n```"
        self.notes.write(json.dumps([[0] * prompt, tokens]) + "\n")
        self.notes.flush()
        usage = Usage(requests=1, prompt_tokens=prompt, cached_tokens=prompt * 9 // 10, completion_tokens=tokens)
        return ChatReply(message=Message(role="assistant", content=content), usage=usage)

    async def aclose(self) -> None:
        """Close the notes."""
        self.notes.close()


@dataclass
class Meter:
    """A ChatModel around another that records when each answer came, how long it took, and its tokens."""

    model: Any
    rows: list[tuple[float, float, int, Usage]] = field(default_factory=list)
    """(time, seconds, assistant turns before it, usage)."""
    held: dict[str | None, int] = field(default_factory=dict)
    """Tokens of each conversation's latest request and reply."""
    known: int = 0
    """Prompt tokens that were part of the conversation's previous request or reply: the hits of a perfect cache."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Pass ``request`` on."""
        started = time.perf_counter()
        reply: ChatReply = await self.model.complete(request)
        turn = sum(message.role == "assistant" for message in request.messages)
        now = time.perf_counter()
        self.rows.append((now, now - started, turn, reply.usage))
        self.known += min(self.held.get(request.conversation, 0), reply.usage.prompt_tokens)
        self.held[request.conversation] = reply.usage.prompt_tokens + reply.usage.completion_tokens
        return reply

    async def aclose(self) -> None:
        """Whoever opened the inner model closes it."""

    def figures(self, started: float) -> dict[str, Any]:
        """Tokens per second, overall and in the body (without the first and last tenth of answers), and cache hits."""
        rows = sorted(self.rows, key=lambda row: row[0])
        tokens = sum(usage.completion_tokens for *_, usage in rows)
        seconds = rows[-1][0] - started
        low, high = rows[len(rows) // 10], rows[len(rows) * 9 // 10]
        body = [row for row in rows if low[0] < row[0] <= high[0]]
        body_s = max(high[0] - low[0], 1e-9)
        later = [usage for _, _, turn, usage in rows if turn > 0]
        prompts = sum(usage.prompt_tokens for usage in later)
        return {
            "requests": len(rows),
            "generated_tokens": tokens,
            "seconds": round(seconds, 2),
            "tokens_per_s": round(tokens / seconds, 2),
            "first_tenth_s": round(low[0] - started, 2),
            "last_tenth_s": round(rows[-1][0] - high[0], 2),
            "body_tokens_per_s": round(sum(usage.completion_tokens for *_, usage in body) / body_s, 2),
            "body_mean_in_flight": round(sum(row[1] for row in body) / body_s, 1),
            "mean_prompt_tokens": round(sum(usage.prompt_tokens for *_, usage in rows) / len(rows), 1),
            "mean_reply_tokens": round(tokens / len(rows), 1),
            "prefix_hits_from_turn_2": round(sum(u.cached_tokens for u in later) / prompts, 4) if prompts else None,
            "perfect_prefix_hits": round(self.known / prompts, 4) if prompts else None,
            "evicted_tokens": sum(u.evicted_tokens for u in later),
        }


@dataclass
class MoreTurns:
    """A ChatModel around another that makes an agent run code in every turn before turn ``turns``."""

    model: Any
    turns: int

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Pass ``request`` on, with answers forbidden in the early turns and required in the last."""
        done = sum(message.role == "assistant" for message in request.messages)
        if request.constraint is not None and request.constraint.kind == "turn" and done < self.turns - 1:
            request = request.model_copy(update={"constraint": Constraint(kind="turn", value=CODE_ONLY)})
        elif done >= self.turns - 1:
            answer = Constraint(kind="turn", value=r"<answer>[^<\n]+</answer>")
            request = request.model_copy(update={"constraint": answer})
        reply: ChatReply = await self.model.complete(request)
        return reply

    async def aclose(self) -> None:
        """Whoever opened the inner model closes it."""


class Barrier:
    """A ChatModel around another that runs turns in lock-step: it sends the requests of all active rollouts at once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.active = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Wait until every active rollout has a request, then pass ``request`` on."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._release()
        await turn
        reply: ChatReply = await self.model.complete(request)
        return reply

    def _release(self) -> None:
        if self._waiting and len(self._waiting) >= self.active:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.set_result(None)

    def around(self, agent: Any) -> Any:
        """``agent``, whose attempts count as active."""
        return BarrierAgent(self, agent)

    def leave(self) -> None:
        """A rollout has ended."""
        self.active -= 1
        self._release()

    async def aclose(self) -> None:
        """Whoever opened the inner model closes it."""


@dataclass
class BarrierAgent:
    """An agent whose attempts take part in a barrier."""

    barrier: Barrier
    agent: Any

    async def solve(self, *given: Any, **more: Any) -> Any:
        """One attempt."""
        self.barrier.active += 1
        try:
            return await self.agent.solve(*given, **more)
        finally:
            self.barrier.leave()


@asynccontextmanager
async def hosted(
    model: str, config: EngineConfig, notes: Path, *, scripted: bool
) -> AsyncIterator[tuple[ChatModel, str]]:
    """A fresh engine in a Ray actor, as in a run, and its device; or the stand-in."""
    if scripted:
        paced = PacedModel(notes, max_seqs=cpu_sizes(config, None).max_num_seqs)
        yield paced, paced.device
        await paced.aclose()
        return
    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.config import RayConfig
    from serving.model_store import resolve
    from serving.placement import reserve
    from serving.pool import host

    path = resolve(model, allow_fetch=False)
    connect(RayConfig())
    try:
        place = (await reserve({"engine": config}))["engine"]
        device = place.device
        cpu = device == "cpu"
        env = engine_environment(config, cpu=cpu, cores=cores())
        make = partial(NotingEngine, path, config, notes, cpu=cpu)
        info = HostedModel(model=model, device=device, replicas=config.replicas)
        pool = await host(make, config, info, place=place, env=env)
        try:
            yield pool, device
        finally:
            await pool.aclose()
    finally:
        disconnect()


def ceiling(model: str, config: EngineConfig, notes: Path, device: str) -> dict[str, Any]:
    """The same prompts and output lengths in one call of vLLM's offline ``generate``, in a fresh process."""
    if device == "scripted":
        lengths = [json.loads(line)[1] for line in notes.read_text().splitlines()]
        return asyncio.run(scripted_ceiling(config, lengths))
    env = engine_environment(config, cpu=device == "cpu", cores=cores())
    given = json.dumps({"model": model, "config": config.model_dump(), "notes": str(notes), "cpu": device == "cpu"})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hosting"],
        input=given, capture_output=True, text=True, check=False, env=os.environ | env,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the offline engine failed: {done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


async def scripted_ceiling(config: EngineConfig, lengths: list[int]) -> dict[str, Any]:
    """The stand-in's limit: all logged lengths at once."""
    slots = asyncio.Semaphore(cpu_sizes(config, None).max_num_seqs)

    async def one(tokens: int) -> None:
        async with slots:
            await asyncio.sleep(tokens * 0.0005)

    started = time.perf_counter()
    await asyncio.gather(*(one(each) for each in lengths))
    seconds = time.perf_counter() - started
    return {"requests": len(lengths), "generated_tokens": sum(lengths), "seconds": round(seconds, 2)}


def offline() -> None:
    """The ceiling's process: reads settings from standard input and prints figures as JSON on the last line."""
    given = json.loads(sys.stdin.read())
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    from serving.model_store import resolve

    config, model = EngineConfig.model_validate(given["config"]), resolve(given["model"], allow_fetch=False)
    options, _ = prepare(model, config, cpu=given["cpu"])
    rows = [json.loads(line) for line in Path(given["notes"]).read_text().splitlines()]
    llm = LLM(**options)
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids, _ in rows]
    params = [
        SamplingParams(temperature=0.0, max_tokens=n, min_tokens=n, ignore_eos=True, detokenize=False) for _, n in rows
    ]
    llm.generate([TokensPrompt(prompt_token_ids=[1, 2, 3])], SamplingParams(max_tokens=4), use_tqdm=False)
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(json.dumps({"requests": len(rows), "generated_tokens": tokens, "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    offline()
