"""A model that follows a script: for tests, examples and dry runs, in place of mocks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence

from agentopt_local.chat import ChatReply, ChatRequest, Usage
from agentopt_local.errors import ContextOverflowError, ModelError
from agentopt_local.models.checking import fault
from agentopt_local.tool_calls import parse_reply

ScriptLine = str | ChatReply | Exception
Script = Callable[[ChatRequest], ScriptLine] | Sequence[ScriptLine]


class ScriptedChatModel:
    """A ChatModel without a model.

    A script is either a function of the request, called once per request, or a sequence of replies that are given in
    the order of the requests. A reply is text, from which calls are parsed; a finished ``ChatReply``; or an exception,
    which is raised.
    """

    def __init__(
        self, script: Script, *, latency_s: float = 0.0, strict: bool = False, context_tokens: int | None = None
    ) -> None:
        """``latency_s``: seconds that each completion takes. ``strict``: a reply that breaks the request's
        constraint raises ModelError, as a constrained engine could not have sampled it. ``context_tokens``: words of
        prompt and reply together; as with an engine, replies are cut there, and longer prompts are refused."""
        self.script = script
        self.latency_s = latency_s
        self.strict = strict
        self.context_tokens = context_tokens
        self.requests: list[ChatRequest] = []
        """All requests so far, in the order of their arrival."""
        self.usage = Usage()
        """Sum over all replies. Here a token is a word."""
        self.closed = False
        self._lines: Iterator[ScriptLine] | None = None if callable(script) else iter(script)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The script's answer, cut at ``max_tokens`` words and at the end of the context.

        Raises ModelError when the script has ended, ContextOverflowError if the prompt leaves no room for a reply.
        """
        if self.closed:
            raise ModelError("the scripted model is closed")
        self.requests.append(request)
        most = request.sampling.max_tokens
        if self.context_tokens is not None:
            most = min(most, self.context_tokens - await self.count_tokens(request))
            if most < 1:
                raise ContextOverflowError(f"the prompt leaves no room in a context of {self.context_tokens} words")
        line = self._line(request)
        if self.latency_s > 0:
            await asyncio.sleep(self.latency_s)
        if isinstance(line, Exception):
            raise line
        reply = line if isinstance(line, ChatReply) else self._reply(request, line, most)
        if self.strict and reply.finish_reason == "stop" and (wrong := fault(request, reply.message)):
            raise ModelError(f"the script breaks the request's constraint: {wrong}")
        self.usage += reply.usage
        return reply

    async def count_tokens(self, request: ChatRequest) -> int:
        """Words of the prompt."""
        return sum(len(message.content.split()) for message in request.messages)

    def _line(self, request: ChatRequest) -> ScriptLine:
        if callable(self.script):
            return self.script(request)
        assert self._lines is not None
        for line in self._lines:
            return line
        raise ModelError(f"the script has {len(self.script)} replies, and this is request {len(self.requests)}")

    @staticmethod
    def _reply(request: ChatRequest, text: str, most: int) -> ChatReply:
        words = text.split()
        cut = len(words) > most
        if cut:  # as it is written, up to the last word that counts
            text = "".join(re.findall(r"\s*\S+", text)[:most])
            words = words[:most]
        usage = Usage(
            requests=1,
            prompt_tokens=sum(len(message.content.split()) for message in request.messages),
            completion_tokens=len(words),
        )
        return ChatReply(
            message=parse_reply(text, request.tools), finish_reason="length" if cut else "stop", usage=usage
        )

    async def aclose(self) -> None:
        """Refuse further requests. Safe to call twice."""
        self.closed = True
