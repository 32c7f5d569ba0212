"""Drafts' functions tried on the training problems of their kind that their authors were not shown.

Three shown problems cannot tell a right function from one that fits these three. So the model writes arguments for
others in a fresh context, without their answers, and the function is called on all of them at once. That costs a small
part of a rollout. No answer reaches an author, so these problems still judge the edit when it is rolled out.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from agentopt_local.actions import AddFunction, ReviseFunction
from agentopt_local.call_trials import CallVerifier
from agentopt_local.chat import Usage
from agentopt_local.concurrency import together
from agentopt_local.drafts import Draft
from agentopt_local.errors import PromptError
from agentopt_local.failed_ideas import form_of
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.seeds import derive
from agentopt_local.trials import NotTriedError
from agentopt_local.update import GOOD

BATCH = 8
"""Problems whose arguments one request asks for: small models mix up more."""


class Pool:
    """The problems for the drafts of one edit."""

    def __init__(
        self, problems: Sequence[Problem], n: int, seed: int, make: Callable[[Sequence[Problem], int], CallVerifier]
    ) -> None:
        """At most ``n`` of ``problems``, drawn by ``seed``. ``make``: tries functions on some of them, with a seed."""
        drawn = sorted(random.Random(seed).sample(range(len(problems)), min(n, len(problems))))
        self.problems = [problems[index] for index in drawn]
        self.make = make
        self.seed = seed
        self.made: list[CallVerifier] = []
        self._right: dict[str, int] = {}
        """By the code, without names: equal functions are tried once."""
        self._asked: dict[str, list[CallVerifier]] = {}
        """By the parameters: their arguments are asked for once, and again only if a function does badly with them."""
        self._busy: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def screen(self, drafts: Sequence[Draft]) -> None:
        """Note in the edits of ``drafts`` how many problems of the pool their functions answer."""
        if self.problems:
            await together(self._screen(each) for each in drafts)

    async def _screen(self, draft: Draft) -> None:
        verified = draft.verified
        if verified is None or verified.screened is not None or not verified.trials:
            return
        if isinstance(verified.action, AddFunction | ReviseFunction):
            function, form = verified.action.function, form_of(verified.action.function.source, by_name=False)
            parameters = json.dumps(function.parameters)
            async with self._busy[parameters]:
                if form not in self._right:
                    functions = verified.action.apply(draft.context.functions)
                    self._right[form] = await self._matches(function, functions, parameters)
            found = {"screened": self._right[form], "pool": len(self.problems)}
            draft.verified = verified.model_copy(update=found)

    async def _matches(self, function: Function, functions: FunctionSet, parameters: str) -> int:
        """Problems that ``function`` answers, with arguments that were asked for another one or with its own."""
        known, most = parameters in self._asked, 0
        for own in (False, True) if known else (True,):
            if own:
                self._asked[parameters] = [self._made(at) for at in range(0, len(self.problems), BATCH)]
            found = await together(self._answered(each, function, functions) for each in self._asked[parameters])
            most = max(most, sum(found))
            if most >= GOOD * len(self.problems):
                break
        return most

    def _made(self, start: int) -> CallVerifier:
        self.made.append(self.make(self.problems[start : start + BATCH], derive(self.seed, "pool", len(self.made))))
        return self.made[-1]

    @property
    def usage(self) -> Usage:
        """Tokens of all requests for arguments."""
        return sum((each.arguments.talk.usage for each in self.made), Usage())

    @staticmethod
    async def _answered(verifier: CallVerifier, function: Function, functions: FunctionSet) -> int:
        try:
            return (await verifier.trials(function, functions)).matches
        except (NotTriedError, PromptError):  # without arguments nothing speaks for the function
            return 0
