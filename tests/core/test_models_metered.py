"""The cost of completions, and the budget that ends a run."""

from __future__ import annotations

import asyncio

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import BudgetError, ContextOverflowError, ModelError, RefusedPromptError
from agentopt_local.models.metered import Budget, Ledger, MeteredModel, Prices
from agentopt_local.models.pacing import Pacer
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run.rows import CostRow

ASK = ChatRequest(messages=(Message(role="user", content="hello"),))
USAGE = Usage(requests=1, prompt_tokens=1000, cached_tokens=400, completion_tokens=200)
PRICES = Prices(input=10.0, cached=5.0, output=30.0)


class Rows:
    """A CostLog in memory."""

    def __init__(self) -> None:
        self.rows: list[CostRow] = []

    def costs(self) -> list[CostRow]:
        return list(self.rows)

    def keep_cost(self, row: CostRow) -> None:
        self.rows.append(row)


def talker() -> ScriptedChatModel:
    return ScriptedChatModel(lambda _: ChatReply(message=Message(role="assistant", content="hi"), usage=USAGE))


def test_prices_are_per_million_tokens_and_cached_ones_have_their_own() -> None:
    assert PRICES.cost(USAGE) == pytest.approx((600 * 10 + 400 * 5 + 200 * 30) / 1e6)
    assert Prices(input=10.0).cost(USAGE) == pytest.approx(0.01)
    assert Prices().cost(USAGE) == 0.0


def test_every_request_is_counted_by_role_and_the_count_survives_the_process() -> None:
    log = Rows()
    ledger = Ledger(log, Budget())
    model = talker()
    for role in ("agent", "optimizer", "agent"):
        asyncio.run(MeteredModel(model, role, PRICES, ledger).complete(ASK))  # type: ignore[arg-type]
    for each in (ledger, Ledger(log, Budget())):
        assert each.usage == {"agent": USAGE + USAGE, "optimizer": USAGE}
        assert each.tokens == 3600
        assert each.cost["agent"] == pytest.approx(2 * PRICES.cost(USAGE))
        assert each.money == pytest.approx(3 * PRICES.cost(USAGE))


def test_a_refused_reply_is_paid_for() -> None:
    withheld = RefusedPromptError("withheld")
    withheld.usage = USAGE
    ledger = Ledger(Rows(), Budget())
    model = MeteredModel(ScriptedChatModel([withheld, ContextOverflowError("too long")]), "agent", PRICES, ledger)
    for kind in (RefusedPromptError, ContextOverflowError):
        with pytest.raises(kind):
            asyncio.run(model.complete(ASK))
    assert ledger.usage["agent"] == USAGE
    assert ledger.money == pytest.approx(PRICES.cost(USAGE))
    assert len(ledger.log.costs()) == 1, "a request that was refused unread has no row"


def test_an_observer_is_told_what_further_requests_used() -> None:
    log, told = Rows(), list[tuple[str, Usage]]()
    asyncio.run(MeteredModel(talker(), "agent", PRICES, Ledger(log, Budget())).complete(ASK))
    ledger = Ledger(log, Budget(), observe=lambda role, usage: told.append((role, usage)))
    asyncio.run(MeteredModel(talker(), "agent", PRICES, ledger).complete(ASK))
    assert told == [("agent", USAGE)]


def test_requests_under_way_are_counted_by_role() -> None:
    ledger = Ledger(Rows(), Budget())

    class Held:
        async def complete(self, request: ChatRequest) -> ChatReply:
            assert ledger.under_way == {"optimizer": 1}
            raise ModelError("no")

        async def aclose(self) -> None: ...

    with pytest.raises(ModelError):
        asyncio.run(MeteredModel(Held(), "optimizer", PRICES, ledger).complete(ASK))
    assert ledger.under_way["optimizer"] == 0


@pytest.mark.parametrize(
    ("budget", "requests", "said"),
    [
        (Budget(max_tokens_total=2400), 2, "2,400 tokens of budget.max_tokens_total = 2,400"),
        (Budget(max_tokens_total=2401), 3, "3,600 tokens of budget.max_tokens_total = 2,401"),
        (Budget(max_cost=0.01), 1, r"budget.max_cost = 0.01.*--budget.max_cost 0.02"),
        (Budget(max_cost=0.0141), 2, "0.0280 of budget.max_cost = 0.0141"),
    ],
)
def test_a_used_up_budget_refuses_the_next_request(budget: Budget, requests: int, said: str) -> None:
    log, model = Rows(), talker()
    metered = MeteredModel(model, "agent", PRICES, Ledger(log, budget))

    async def spend() -> None:
        for _ in range(10):
            await metered.complete(ASK)

    with pytest.raises(BudgetError, match=said):
        asyncio.run(spend())
    assert len(model.requests) == requests
    again = MeteredModel(model, "optimizer", PRICES, Ledger(log, budget))
    with pytest.raises(BudgetError):
        asyncio.run(again.complete(ASK))


def test_a_request_that_is_given_up_is_counted_as_lost() -> None:
    log = Rows()
    ledger = Ledger(log, Budget())
    metered = MeteredModel(ScriptedChatModel(["hi"], latency_s=30), "agent", PRICES, ledger)

    async def give_up() -> None:
        async with asyncio.timeout(0.05):
            await metered.complete(ASK)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert (ledger.lost, ledger.tokens, Ledger(log, Budget()).lost) == (1, 0, 1)


def starts(pacer: Pacer, n: int, *, closed_s: float = 0.0) -> list[float]:
    """When each of ``n`` requests that are there at once may start, in seconds."""

    async def one(began: float) -> float:
        await pacer.wait()
        return asyncio.get_running_loop().time() - began

    async def all_at_once() -> list[float]:
        began = asyncio.get_running_loop().time()
        if closed_s:
            pacer.close_for(closed_s)
        return sorted(await asyncio.gather(*(one(began) for _ in range(n))))

    return asyncio.run(all_at_once())


def test_requests_start_evenly_spaced() -> None:
    times = starts(Pacer(requests_per_minute=1200), 5)
    assert all(time >= 0.05 * index - 0.005 for index, time in enumerate(times))
    assert times[-1] < 1.0


def test_without_a_limit_nothing_waits() -> None:
    assert starts(Pacer(None), 50)[-1] < 0.2


def test_a_server_that_asked_for_time_gets_it_from_all() -> None:
    times = starts(Pacer(None), 5, closed_s=0.2)
    assert times[0] >= 0.2
    assert times[-1] < 1.0
