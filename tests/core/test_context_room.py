"""X3: prompts fit the model's context, and replies that were cut off are called cut."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import ContextOverflowError
from agentopt_local.evidence import Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.problem import Problem
from agentopt_local.room import Room, estimate_text
from agentopt_local.update import ActionCounts, OptimizerConfig, Update, grown
from tests.tools.drafting import (
    ADD_SHOUT,
    SHOUT,
    WRONG,
    Author,
    Bench,
    Shouting,
    attempt,
    bench,
    header,
    last,
    of_phase,
    phase,
    say,
    word_arguments,
)

__all__ = ["bench"]
LONG = SHOUT.replace("return word", "letters = list(word)\n    word = ''.join(letters)\n    return word")
TOO_LONG = SHOUT + "    # and so on" * 300
SMALL = {"max_source_tokens": 64, "max_header_tokens": 16, "max_arguments_tokens": 30}


def wordy(n: int, words: int, *, kind: str = "shout") -> list[Evidence]:
    """Failed problems, each with a question of about so many words."""
    filler = " ".join(["quux"] * words)
    return [
        attempt(Problem(id=f"{kind}{i}", question=f"Shout: word{i} {filler}", answer=f"WORD{i}", kind=kind))
        for i in range(n)
    ]


def cut_reply(text: str, written: int) -> ChatReply:
    usage = Usage(requests=1, completion_tokens=written)
    return ChatReply(message=Message(role="assistant", content=text), finish_reason="length", usage=usage)


# What fits


@pytest.mark.parametrize("context", [720, 800, 900, 1100, 1500, 4000])
def test_x3_evidence_shrinks_until_the_prompt_fits(bench: Bench, context: int) -> None:
    problems = wordy(3, 300)
    settings: dict[str, Any] = {**SMALL, "evidence_tokens": 3000, "max_retries": 1}
    update, requests = bench.propose(Author(), attempts=problems, context_tokens=context, **settings)
    assert update.functions == FunctionSet.of(SHOUT)
    for request in requests:
        assert sum(len(each.content.split()) for each in request.messages) + 16 <= context
    shown = [each for each in problems if each.problem.answer in last(requests[0])]
    assert shown, "the expected answers stay, whatever else is cut"
    assert sorted(update.shown[0]) == [each.problem.id for each in shown]


def test_x3_fewer_problems_are_shown_rather_than_illegible_ones(bench: Bench) -> None:
    problems = wordy(8, 60)
    settings: dict[str, Any] = {**SMALL, "evidence_tokens": 1200, "n_evidence": 8, "max_retries": 0}
    update, requests = bench.propose(Author(), attempts=problems, context_tokens=800, **settings)
    shown = [each.problem.id for each in problems if f"{each.problem.question.split()[1]} " in last(requests[0])]
    assert 0 < len(shown) < 8
    assert sorted(update.shown[0]) == sorted(shown), "only those count as seen by the author"
    assert update.matches == (f"{len(shown)}/{len(shown)}",)


def test_x3_drafts_that_never_fitted_are_counted(bench: Bench) -> None:
    update, requests = bench.propose(Author(), context_tokens=200, n_samples=4)
    assert (update.actions, requests) == ((), [])
    assert update.counts == ActionCounts(unfit=4)
    (outcome,) = update.outcomes
    assert (outcome.end, outcome.drafts, outcome.kind) == ("unfit", 4, "shout")


def test_x3_a_long_kind_no_longer_goes_without_drafts_beside_a_short_one(bench: Bench) -> None:
    problems = [*wordy(2, 900, kind="long"), *wordy(2, 3, kind="short")]
    names = iter(["shout", "shout_b"])
    author = Author(lambda _: header(name=next(names)), lambda request: SHOUT.replace("shout", named(request), 1))
    update, _ = bench.propose(
        author, attempts=problems, context_tokens=900, max_actions=2, evidence_tokens=4000, **SMALL
    )
    assert {each.kind: each.end for each in update.outcomes} == {"long": "applied", "short": "applied"}


def named(request: ChatRequest) -> str:
    assert request.constraint is not None
    return request.constraint.value.partition('"def ')[2].partition("(")[0]


def test_x3_a_context_that_is_not_known_is_learned_from_refusals(bench: Bench) -> None:
    class Endpoint(Author):
        """A server that refuses long prompts, and says nothing of its context before."""

        def __call__(self, request: ChatRequest) -> Any:
            words = sum(len(each.content.split()) for each in request.messages)
            if words + request.sampling.max_tokens > 1000:
                return ContextOverflowError("too long")
            return super().__call__(request)

    settings: dict[str, Any] = {**SMALL, "evidence_tokens": 6000, "max_retries": 0}
    update, requests = bench.propose(Endpoint(), attempts=wordy(3, 900), n_samples=2, **settings)
    assert update.functions == FunctionSet.of(SHOUT)
    assert 2 <= len(of_phase(requests, "header")) <= 16


def test_x3_feedback_is_shortened_before_the_source_is_cut(bench: Bench) -> None:
    wrong = WRONG.replace("return word.title()", "return 'no ' * 60 + word")
    update, requests = bench.propose(Author(sources=[wrong, SHOUT]), max_retries=1, context_tokens=900, **SMALL)
    assert update.functions == FunctionSet.of(SHOUT)
    roomy = bench.propose(Author(sources=[wrong, SHOUT]), max_retries=1, **SMALL)[1]
    tight, free = (of_phase(each, "repair")[0] for each in (requests, roomy))
    assert len(last(tight)) <= len(last(free))
    assert tight.sampling.max_tokens == free.sampling.max_tokens


# What was cut off


def test_x3_a_source_that_was_cut_is_never_called_a_syntax_error(bench: Bench) -> None:
    broken = "```python\n" + LONG[:100]
    replies = iter([cut_reply(broken, 64), say(SHOUT)])
    update, requests = bench.propose(sources_from(replies), max_retries=0, **SMALL)
    assert update.functions == FunctionSet.of(SHOUT), "it is sampled anew, without counting as a repair"
    first, second = of_phase(requests, "source", "repair")
    assert "cut off after 64 tokens" in last(second)
    assert "syntax error" not in last(second)
    assert LONG[:100] not in "".join(each.content for each in second.messages)
    assert second.sampling.max_tokens == 96 > first.sampling.max_tokens, "and with more room"
    assert update.counts.cut == 1


def plain(author: Author) -> Any:
    """Replies as text, which the scripted model cuts off at the limit of tokens."""

    def script(request: ChatRequest) -> str:
        reply = author(request)
        return reply.message.content if isinstance(reply, ChatReply) else str(reply)

    return script


def sources_from(replies: Any) -> Any:
    author = Author()
    return lambda request: next(replies) if phase(request) in ("source", "repair") else author(request)


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{SHOUT}```\nThis function takes a word and then it goes on and on about",
        f"Sure!\n```\n{SHOUT}```\n",
        f"```python\n{SHOUT}```\n```python\nprint(shout('a",
    ],
)
def test_what_is_whole_in_a_cut_reply_is_used(bench: Bench, text: str) -> None:
    update, requests = bench.propose(sources_from(iter([cut_reply(text, 64)])), max_retries=0, **SMALL)
    assert update.functions == FunctionSet.of(SHOUT)
    assert len(of_phase(requests, "source")) == 1


def test_x3_the_limit_grows_within_bounds_and_it_is_recorded(bench: Bench) -> None:
    author = Author(sources=[TOO_LONG])
    update, requests = bench.propose(plain(author), max_retries=6, n_samples=1, **SMALL)
    limits = [each.sampling.max_tokens for each in of_phase(requests, "source", "repair")]
    assert limits[0] == 64
    assert limits == sorted(limits)
    assert max(limits) == 3 * 64
    assert len(limits) == 9
    (outcome,) = update.outcomes
    assert (outcome.end, outcome.counts.cut) == ("cut", 9)
    assert update.source_tokens == 96, "the next drafts begin with more"
    assert Update.model_validate_json(update.model_dump_json()) == update


def test_x3_one_long_source_does_not_raise_the_limit_of_all(bench: Bench) -> None:
    update, _ = bench.propose(sources_from(iter([cut_reply("```python\ndef", 64), say(SHOUT)])), **SMALL)
    assert update.source_tokens is None


def test_limits_grow_by_half_up_to_threefold() -> None:
    assert [grown(64, 64), grown(96, 64), grown(190, 64), grown(192, 64), grown(500, 64)] == [96, 144, 192, 192, 500]


def test_x3_a_header_and_arguments_that_were_cut_are_asked_for_with_more_room(bench: Bench) -> None:
    author = Author()
    headers = iter([cut_reply('{"action": "add_func', 16), say(ADD_SHOUT)])
    arguments = iter([cut_reply('{"problem_1": {"word": "su', 90), None])

    def script(request: ChatRequest) -> Any:
        kind = phase(request)
        if kind == "header" or "cut off" in last(request):
            return next(headers)
        return (next(arguments) or say(word_arguments(request))) if kind == "arguments" else author(request)

    update, requests = bench.propose(script, max_retries=1, **SMALL)
    assert update.functions == FunctionSet.of(SHOUT)
    assert [each.sampling.max_tokens for each in of_phase(requests, "arguments")] == [90, 135]
    assert "That is not a legal action" not in "".join(last(each) for each in requests)
    assert update.counts.cut == 2


def test_arguments_that_never_end_are_blamed_on_their_length(bench: Bench) -> None:
    author = Author()

    def script(request: ChatRequest) -> Any:
        if phase(request) == "arguments":
            return cut_reply('{"problem_1": {"word": "su', request.sampling.max_tokens)
        return author(request)

    _, requests = bench.propose(script, max_retries=1, **SMALL)
    assert "arguments for its trials were cut off" in last(of_phase(requests, "repair")[0])
    assert len(of_phase(requests, "arguments")) <= 2 * 5


# Counting


@pytest.mark.parametrize(
    ("text", "least"),
    [("a" * 300, 80), ("7" * 300, 300), ("def f(x):\n    return x\n" * 20, 160), ("漢字" * 100, 200), ("🙂" * 50, 100)],
)
def test_estimates_are_on_the_safe_side(text: str, least: int) -> None:
    assert estimate_text(text) >= least


@pytest.mark.parametrize("text", ["\ud800", "", "\x00" * 1000])
def test_any_text_can_be_estimated(text: str) -> None:
    assert estimate_text(text) >= 0


def asked(words: int, most: int = 10) -> ChatRequest:
    request = ChatRequest(messages=(Message(role="user", content="word " * words),))
    return request.model_copy(update={"sampling": request.sampling.model_copy(update={"max_tokens": most})})


def test_a_model_with_a_tokenizer_counts(bench: Bench) -> None:
    room = Room(ScriptedChatModel([], context_tokens=100))
    assert bench.run(room.left(asked(90), enough=50)) == 10
    assert bench.run(room.left(asked(120))) == -20
    with pytest.raises(ContextOverflowError, match="of the context of 100"):
        room.check(-20)


def test_replies_correct_an_estimate(bench: Bench) -> None:
    class Plain:
        context_tokens = 2000

    room = Room(Plain())  # type: ignore[arg-type]
    before = bench.run(room.left(asked(500), enough=1400))
    reply = ChatReply(message=Message(role="assistant"), usage=Usage(requests=1, prompt_tokens=505))
    room.heard(asked(500), reply)
    after = bench.run(room.left(asked(500), enough=1400))
    assert before is not None
    assert after is not None
    assert before < after <= 2000 - 505
    room.heard(asked(1), ChatReply(message=Message(role="assistant"), usage=Usage(requests=1, prompt_tokens=90)))
    assert bench.run(room.left(asked(500), enough=1400)) == after, "short prompts say more about the chat template"


def test_several_refusals_at_once_shrink_the_context_once(bench: Bench) -> None:
    room = Room(ScriptedChatModel([]))
    assert room.limit is None
    for _ in range(8):
        bench.run(room.refused(asked(500)))
    once = room.limit
    assert once is not None
    assert 0.8 * 510 < once < 510
    bench.run(room.refused(asked(400)))
    assert room.limit is not None
    assert room.limit < once


def test_x3_what_the_context_has_ended_does_not_raise_the_limit(bench: Bench) -> None:
    short = iter([cut_reply("```python\ndef", 20), cut_reply("```python\ndef", 20), say(SHOUT)])
    update, requests = bench.propose(sources_from(short), max_retries=0, **SMALL)
    assert update.functions == FunctionSet.of(SHOUT)
    assert {each.sampling.max_tokens for each in of_phase(requests, "source", "repair")} == {64}
    assert "cut off after 20 tokens" in last(of_phase(requests, "source")[1])


def test_x3_a_server_that_counts_no_tokens_is_given_more_room_too(bench: Bench) -> None:
    replies = iter([cut_reply("```python\ndef", 0), say(SHOUT)])
    update, requests = bench.propose(sources_from(replies), max_retries=0, **SMALL)
    assert update.functions == FunctionSet.of(SHOUT)
    assert [each.sampling.max_tokens for each in of_phase(requests, "source")] == [64, 96]
    assert "Your last reply was cut off, before it was complete" in last(of_phase(requests, "source")[1])


def test_x3_a_grown_limit_is_kept_after_a_resume(bench: Bench) -> None:
    author = Author(sources=[TOO_LONG])
    update, _ = bench.propose(plain(author), max_retries=3, **SMALL)
    optimizer = Optimizer(ScriptedChatModel([]), Shouting(), bench.sandbox, OptimizerConfig(max_source_tokens=64))
    optimizer.continue_from([update, Update(functions=FunctionSet())])
    assert optimizer.editor.source_tokens == update.source_tokens == 96
