"""What completions cost, in tokens and money, and the budget that ends a run before it costs too much."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from pydantic import Field

from agentopt_local.chat import ChatModel, ChatReply, ChatRequest, Usage
from agentopt_local.errors import BudgetError, ModelError
from agentopt_local.record import Record
from agentopt_local.run.rows import CostRow, Role


class Prices(Record):
    """Money per million tokens, in a currency of the user's choice."""

    input: float = Field(default=0.0, ge=0, le=1e9)
    cached: float | None = Field(default=None, ge=0, le=1e9)
    """Price of prompt tokens that the server had cached; None: the same as ``input``."""
    output: float = Field(default=0.0, ge=0, le=1e9)

    def cost(self, usage: Usage) -> float:
        """What ``usage`` costs."""
        cached = self.input if self.cached is None else self.cached
        fresh = max(0, usage.prompt_tokens - usage.cached_tokens)
        return (fresh * self.input + usage.cached_tokens * cached + usage.completion_tokens * self.output) / 1e6


class Budget(Record):
    """When a run must stop, however far it has got. It can be resumed with a larger budget."""

    max_tokens_total: int | None = Field(default=None, ge=1)
    """Prompt and generated tokens of agent and optimizer together; None: no limit."""
    max_cost: float | None = Field(default=None, gt=0, le=1e15)
    """Money, in the currency of the prices; None: no limit."""


class CostLog(Protocol):
    """Where costs are written: a RunDir."""

    def costs(self) -> list[CostRow]:
        """All rows so far."""
        ...

    def keep_cost(self, row: CostRow) -> None:
        """Write down one request."""
        ...


class Ledger:
    """What a run has spent so far, over all of its processes."""

    def __init__(self, log: CostLog, budget: Budget, *, observe: Callable[[Role, Usage], None] | None = None) -> None:
        """Starts from the rows of ``log``. ``observe`` is called with the role and usage of each further request."""
        self.log = log
        self.budget = budget
        self.observe = observe or (lambda role, usage: None)
        self.usage: dict[Role, Usage] = {"agent": Usage(), "optimizer": Usage()}
        self.cost: dict[Role, float] = {"agent": 0.0, "optimizer": 0.0}
        self.lost = 0
        """Requests that were cancelled while the model answered; their cost is unknown."""
        self.under_way: Counter[Role] = Counter()
        """Requests that the models are answering."""
        for row in log.costs():
            self._count(row)

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens of both roles."""
        return sum(each.prompt_tokens + each.completion_tokens for each in self.usage.values())

    @property
    def money(self) -> float:
        """Cost of both roles."""
        return sum(self.cost.values())

    def check(self) -> None:
        """Raise BudgetError if the budget is used up."""
        tokens, cost = self.budget.max_tokens_total, self.budget.max_cost
        if tokens is not None and self.tokens >= tokens:
            raise BudgetError(
                f"the budget is used up: {self.tokens:,} tokens of budget.max_tokens_total = {tokens:,}. What was done "
                f"is kept; resume the run with more: --budget.max_tokens_total {2 * tokens}"
            )
        if cost is not None and self.money >= cost:
            raise BudgetError(
                f"the budget is used up: {self.money:.4f} of budget.max_cost = {cost:g}. What was done is kept; resume "
                f"the run with more: --budget.max_cost {2 * cost:g}"
            )

    def add(self, role: Role, usage: Usage, cost: float, *, lost: bool = False) -> None:
        """Count and write down one request."""
        row = CostRow(role=role, usage=usage, cost=cost, lost=lost)
        self._count(row)
        self.log.keep_cost(row)
        self.observe(role, usage)

    def _count(self, row: CostRow) -> None:
        self.usage[row.role] += row.usage
        self.cost[row.role] += row.cost
        self.lost += row.lost


class MeteredModel:
    """A ChatModel whose requests are counted, and refused once the budget is used up.

    Requests in flight at that moment still finish, so a budget may be exceeded by their cost.
    """

    def __init__(self, model: ChatModel, role: Role, prices: Prices, ledger: Ledger) -> None:
        """``model`` is not closed with this one: several roles may share it."""
        self.model = model
        self.role = role
        self.prices = prices
        self.ledger = ledger

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer ``request``. Raises BudgetError, and whatever the model raises."""
        self.ledger.check()
        self.ledger.under_way[self.role] += 1
        try:
            reply = await self.model.complete(request)
        except asyncio.CancelledError:
            self.ledger.add(self.role, Usage(), 0.0, lost=True)
            raise
        except ModelError as error:
            if error.usage is not None:
                self.ledger.add(self.role, error.usage, self.prices.cost(error.usage))
            raise
        finally:
            self.ledger.under_way[self.role] -= 1
        self.ledger.add(self.role, reply.usage, self.prices.cost(reply.usage))
        return reply

    async def aclose(self) -> None:
        """Do nothing: the model's owner closes it."""
