"""A model that follows a script: for tests, examples and dry runs, in place of mocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from agentopt_local.chat import ChatReply, ChatRequest, Usage
from agentopt_local.errors import ModelError
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

    def __init__(self, script: Script, *, latency_s: float = 0.0, strict: bool = False) -> None:
        """``latency_s``: seconds that each completion takes. ``strict``: a reply that breaks the request's
        constraint raises ModelError, as a constrained engine could not have sampled it."""
        self.script = script
        self.latency_s = latency_s
        self.strict = strict
        self.requests: list[ChatRequest] = []
        """All requests so far, in the order of their arrival."""
        self.usage = Usage()
        """Sum over all replies. Here a token is a word."""
        self.closed = False
        self._lines: Iterator[ScriptLine] | None = None if callable(script) else iter(script)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The script's answer, cut at ``max_tokens`` words. Raises ModelError when the script has ended."""
        if self.closed:
            raise ModelError("the scripted model is closed")
        self.requests.append(request)
        line = self._line(request)
        if self.latency_s > 0:
            await asyncio.sleep(self.latency_s)
        if isinstance(line, Exception):
            raise line
        reply = line if isinstance(line, ChatReply) else self._reply(request, line)
        if self.strict and reply.finish_reason == "stop" and (wrong := fault(request, reply.message)):
            raise ModelError(f"the script breaks the request's constraint: {wrong}")
        self.usage += reply.usage
        return reply

    def _line(self, request: ChatRequest) -> ScriptLine:
        if callable(self.script):
            return self.script(request)
        assert self._lines is not None
        for line in self._lines:
            return line
        raise ModelError(f"the script has {len(self.script)} replies, and this is request {len(self.requests)}")

    @staticmethod
    def _reply(request: ChatRequest, text: str) -> ChatReply:
        words = text.split()
        cut = len(words) > request.sampling.max_tokens
        if cut:
            words = words[: request.sampling.max_tokens]
            text = " ".join(words)
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
