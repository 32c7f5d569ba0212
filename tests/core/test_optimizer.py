"""The optimizer: what it is shown, what it may do, the feedback it gets, and the counts."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from agentopt_local.actions import AddFunction
from agentopt_local.chat import ChatReply, ChatRequest, Message
from agentopt_local.errors import ContextOverflowError, EngineDeadError, RefusedPromptError
from agentopt_local.evidence import CHARS_PER_TOKEN, Evidence
from agentopt_local.functions import FunctionSet
from agentopt_local.groups import focus_groups, pick
from agentopt_local.incoming import Incoming
from agentopt_local.models.checking import fault
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.optimizer import Optimizer
from agentopt_local.problem import Problem
from agentopt_local.showing import failures_text, functions_text, transcript_text, transcripts_text
from agentopt_local.train_state import FailedUpdate
from agentopt_local.trajectory import Step, ToolRun
from agentopt_local.update import ActionCounts, OptimizerConfig, Update
from tests.tools.drafting import (
    ADD_SHOUT,
    CRASH,
    FAILED,
    FORBIDDEN,
    GREET,
    MISNAMED,
    NEARLY,
    SHOUT,
    TERMINATE,
    VARIADIC,
    WORDS,
    WRONG,
    Author,
    Bench,
    Say,
    Shouting,
    attempt,
    bench,
    header,
    index_of,
    last,
    of_phase,
    phase,
    say,
    word_arguments,
    word_problem,
)  # fmt: skip

__all__ = ["bench"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SHOUT.replace("word.upper()", "word" + ".strip()" * 170 + ".upper()"), "nested more than 100 levels deep"),
        (SHOUT.replace("word.upper()", "word.upper() or 0x" + "f" * 4000), "a number has too many digits"),
        (SHOUT.replace("capitals", "\\ud800"), "half of a surrogate pair"),
    ],
)
def test_a_source_that_would_end_the_run_later_is_a_rejected_draft(bench: Bench, source: str, reason: str) -> None:
    proposal, requests = bench.propose(Author(sources=[source, SHOUT]))
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert reason in last(of_phase(requests, "repair")[0])


@pytest.mark.parametrize("value", ["NaN", "[" * 300 + "]" * 300, '"\\ud800"', "9" * 5000, "[" * 100_000])
def test_example_arguments_that_could_not_be_kept_are_refused(bench: Bench, value: str) -> None:
    words = [f'"problem_{i + 1}": {{"word": {value}}}' for i in range(3)]
    answers = iter(["{" + ", ".join(words) + "}"])
    author = Author(arguments=lambda request: next(answers, None) or word_arguments(request))
    proposal, requests = bench.propose(author)
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert "the example arguments were not JSON" in last(of_phase(requests, "repair")[0])


def test_a_call_of_a_tool_named_python_is_shown_like_any_other() -> None:
    """A model may call ``python`` as if it were a function; such a call has no code."""
    for arguments in ({"x": 1}, {"code": 3}, {}):
        run = ToolRun(name="python", arguments=arguments, ok=False, result="Error: there is no function 'python'")
        one = attempt(WORDS[0])
        step = Step(message=Message(role="assistant"), executed=(run,))
        shown = transcript_text(
            1, one.model_copy(update={"trajectory": one.trajectory.model_copy(update={"steps": (step,)})}), 900
        )
        assert "there is no function 'python'" in shown


# The four actions


def test_a_function_is_added(bench: Bench) -> None:
    proposal, _ = bench.propose(Author(), strict=True)
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert proposal.summaries() == ("add_function shout",)
    assert proposal.matches == ("3/3",)
    action = proposal.actions[0]
    assert isinstance(action, AddFunction)
    assert {each["word"] for each in action.examples} == {"sun", "moon", "stars"}


def test_a_function_is_revised_in_its_place(bench: Bench) -> None:
    functions = FunctionSet.of(WRONG, GREET)
    attempts = [attempt(problem, called="shout", result="Sun") for problem in WORDS]
    author = Author([header("revise_function")])
    proposal, _ = bench.propose(author, functions=functions, attempts=attempts, strict=True)
    assert proposal.functions == FunctionSet.of(SHOUT, GREET)
    assert proposal.summaries() == ("revise_function shout",)


def test_a_function_is_removed_without_a_word_about_its_source(bench: Bench) -> None:
    author = Author([header("remove_function")])
    proposal, requests = bench.propose(author, functions=FunctionSet.of(WRONG, GREET), strict=True)
    assert proposal.functions == FunctionSet.of(GREET)
    assert len(requests) == 1
    assert proposal.counts == ActionCounts(sampled=1, legal=1, verified=1, applied=1)


def test_terminate_leaves_the_set_and_ends_the_step(bench: Bench) -> None:
    attempts = [attempt(word_problem(word, kind)) for word, kind in (("a", "one"), ("b", "two"), ("c", "three"))]
    author = Author([TERMINATE])
    proposal, requests = bench.propose(author, attempts=attempts, max_actions=3, concurrent=False, strict=True)
    assert (proposal.functions, proposal.actions) == (FunctionSet(), ())
    assert len(requests) == 1, "there were two more kinds of failures and two more actions to take"
    assert proposal.counts == ActionCounts(sampled=1, legal=1, verified=1)


def test_terminate_ends_the_step_after_other_edits(bench: Bench) -> None:
    headers: Say = lambda request: TERMINATE if "`shout(" in last(request) else header()  # noqa: E731
    proposal, _ = bench.propose(Author(headers, [NEARLY]), max_actions=5, max_retries=0)
    assert proposal.summaries() == ("add_function shout",)


def test_concurrent_edits_end_with_the_wave_in_which_one_terminates(bench: Bench) -> None:
    attempts = [attempt(word_problem(word, kind)) for kind in ("one", "two") for word in ("ab", "abcdef")]
    seen: list[str] = []

    def headers(request: ChatRequest) -> str:
        seen.append(last(request))
        return TERMINATE if len(seen) == 1 else header(name=f"shout_{len(seen)}")

    source: Say = lambda request: NEARLY.replace("def shout", f"def {named(request)}")  # noqa: E731
    proposal, _ = bench.propose(Author(headers, source), attempts=attempts, max_actions=6, max_retries=0)
    assert len(seen) == 2, "one wave of two edits"
    assert len(proposal.actions) <= 1


def named(request: ChatRequest) -> str:
    """The name that a source must have."""
    found = re.search(r'"def (\w+)\(', request.constraint.value if request.constraint else "")
    assert found
    return found[1]


@pytest.mark.parametrize("concurrent", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_there_are_never_more_than_max_actions(bench: Bench, concurrent: bool, limit: int) -> None:
    attempts = [attempt(word_problem(word, kind)) for kind in ("one", "two", "three") for word in ("ab", "abcdef")]
    count = 0

    def headers(_: ChatRequest) -> str:
        nonlocal count
        count += 1
        return header(name=f"shout_{count}")

    source: Say = lambda request: NEARLY.replace("def shout", f"def {named(request)}")  # noqa: E731
    proposal, requests = bench.propose(
        Author(headers, source), attempts=attempts, max_actions=limit, concurrent=concurrent, max_retries=0
    )
    assert len(proposal.actions) == limit, "each edit answers only half, so there always is more to do"
    assert len(of_phase(requests, "header")) == limit
    assert len(proposal.functions) == limit
    assert proposal.counts.applied == limit


def test_several_calls_in_one_reply_are_one_action_at_most(bench: Bench) -> None:
    """The reference implementation let five parallel tool calls through as one action."""
    calls = tuple({"name": f"shout_{i}"} for i in range(5))
    reply = "\n".join(json.dumps({"action": "add_function", **each}) for each in calls)
    proposal, _ = bench.propose(Author([reply, header()]), max_actions=3)
    assert proposal.summaries() == ("add_function shout",)
    assert proposal.counts.sampled == 2
    assert proposal.counts.legal == 1


def test_nothing_failed_so_nothing_is_asked(bench: Bench) -> None:
    attempts = [attempt(problem, answer=problem.answer) for problem in WORDS]
    proposal, requests = bench.propose(Author(), attempts=attempts)
    assert (proposal.functions, requests) == (FunctionSet(), [])


def test_one_edit_sees_the_result_of_the_one_before(bench: Bench) -> None:
    attempts = [attempt(word_problem("ab", "one")), attempt(word_problem("cd", "two"))]
    count = 0

    def headers(_: ChatRequest) -> str:
        nonlocal count
        count += 1
        return header(name=f"shout_{count}")

    source: Say = lambda request: SHOUT.replace("def shout", f"def {named(request)}")  # noqa: E731
    proposal, requests = bench.propose(
        Author(headers, source), attempts=attempts, max_actions=2, concurrent=False, strict=True
    )
    first, second = of_phase(requests, "header")
    assert "def shout_1" not in last(first)
    assert "def shout_1" in last(second)
    assert proposal.functions.names == ("shout_1", "shout_2")


def test_without_progressive_updates_a_whole_new_set_is_written_at_once(bench: Bench) -> None:
    functions = FunctionSet.of(GREET)
    names = iter(["shout", "shout_b", "shout_c"])

    def headers(request: ChatRequest) -> str:
        assert "`greet(" in last(request), "the present set is shown"
        assert "`shout(" not in last(request), "none knows of the others"
        return header(name=next(names))

    source: Say = lambda request: SHOUT.replace("def shout", f"def {named(request)}")  # noqa: E731
    author = Author(headers, source)
    proposal, requests = bench.propose(author, functions=functions, progressive=False, max_actions=3, strict=True)
    assert proposal.functions.names == ("shout", "shout_b", "shout_c"), "the old set is replaced"
    assert len(of_phase(requests, "header")) == 3
    proposal, _ = bench.propose(Author([TERMINATE]), functions=functions, progressive=False)
    assert proposal.functions == functions


def test_functions_of_one_text_are_asked_for_and_others_refused(bench: Bench) -> None:
    model = ScriptedChatModel(Author(sources=[SHOUT.replace("word: str", "word: str, n: int"), SHOUT]))
    config = OptimizerConfig(n_samples=1, max_actions=1)
    optimizer = Optimizer(model, Shouting(), bench.sandbox, config, one_text=True)
    proposal = bench.run(optimizer.propose(FunctionSet(), Incoming(FAILED), (), seed=1))
    assert proposal.functions == FunctionSet.of(SHOUT)
    asked = of_phase(model.requests, "source", "repair")
    assert "exactly one parameter, a str" in asked[0].messages[0].content
    assert "must take exactly one parameter, a str; it is shout(word: str, n: int)" in last(asked[1])
    assert asked[0].constraint is not None
    wrong = ChatReply(message=Message(role="assistant", content=SHOUT.replace("word: str", "word: int")))
    assert fault(asked[0], wrong.message)
    assert fault(asked[0], Message(role="assistant", content=SHOUT)) is None


def test_sources_alone_can_go_without_a_grammar(bench: Bench) -> None:
    _, requests = bench.propose(Author(), constrain_source=False)
    constrained = {phase(request): request.constraint is not None for request in requests}
    assert constrained == {"header": True, "source": False, "arguments": True}


def test_a_name_taken_by_a_concurrent_edit_is_dropped(bench: Bench) -> None:
    attempts = [attempt(word_problem("ab", "one")), attempt(word_problem("cd", "two"))]
    proposal, requests = bench.propose(Author(), attempts=attempts, max_actions=2)
    assert len(of_phase(requests, "header")) == 2
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert (len(proposal.actions), len(proposal.matches)) == (1, 1)
    assert (proposal.counts.verified, proposal.counts.applied) == (2, 1)


# What goes back with its error


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (FORBIDDEN, "importing os is not allowed; allowed are: bisect, "),
        (VARIADIC, "*word has no JSON schema; use a list or dict parameter instead"),
        (MISNAMED, "must be called 'shout', not 'yell'"),
        (SHOUT.replace("word: str", "word"), "parameter 'word' needs a type"),
        (SHOUT.replace("return word", "return (word"), "syntax error in line 3"),
        (SHOUT.replace('    """Return word in capitals."""\n', ""), "docstring"),
        ("I would rather not.", "syntax error"),
        ("", "it has: nothing"),
        (SHOUT + "\nprint(shout('x'))\n", "exactly one top-level function"),
    ],
)
def test_a_source_that_is_refused_goes_back_with_the_reason(bench: Bench, source: str, said: str) -> None:
    proposal, requests = bench.propose(Author(sources=[source, SHOUT]), max_retries=1)
    repairs = of_phase(requests, "repair")
    assert len(repairs) == 1
    assert said in last(repairs[0])
    assert repairs[0].messages[-2].content == source, "the model sees what it wrote"
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert proposal.counts == ActionCounts(sampled=2, legal=2, verified=1, applied=1)


@pytest.mark.parametrize("annotation", ["dict = {[1]: 2}", "Literal[b'x']", "list = [{1}]", "float = 1e999"])
def test_no_source_can_end_the_run(bench: Bench, annotation: str) -> None:
    bad = SHOUT.replace("word: str", f"word: str, more: {annotation}")
    proposal, requests = bench.propose(Author(sources=[bad, SHOUT]), max_retries=1, constrain=False)
    assert len(of_phase(requests, "repair")) == 1
    assert proposal.functions == FunctionSet.of(SHOUT)


def test_a_wrong_result_goes_back_with_what_was_returned_and_expected(bench: Bench) -> None:
    proposal, requests = bench.propose(Author(sources=[WRONG, SHOUT]), max_retries=1)
    feedback = last(of_phase(requests, "repair")[0])
    for word in ("sun", "moon", "stars"):
        assert f"shout(word='{word}') returned: {word.title()}\n  but expected was: {word.upper()}" in feedback
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert proposal.matches == ("3/3",)


def test_right_and_wrong_results_are_told_apart(bench: Bench) -> None:
    _, requests = bench.propose(Author(sources=[NEARLY, SHOUT]), max_retries=1)
    feedback = last(of_phase(requests, "repair")[0])
    assert "shout(word='sun') returned: SUN\n  which is right" in feedback
    assert "shout(word='moon') returned: moon\n  but expected was: MOON" in feedback


def test_a_crash_in_the_trial_goes_back_and_is_never_applied(bench: Bench) -> None:
    proposal, requests = bench.propose(Author(sources=[CRASH, SHOUT]), max_retries=1)
    assert "IndexError" in last(of_phase(requests, "repair")[0])
    assert proposal.functions == FunctionSet.of(SHOUT)
    proposal, _ = bench.propose(Author(sources=[CRASH]), max_retries=1)
    assert (proposal.functions, proposal.actions) == (FunctionSet(), ())
    assert proposal.counts == ActionCounts(sampled=4, legal=4, repeated=3)


def test_a_function_that_hangs_is_refused(bench: Bench) -> None:
    hang = SHOUT.replace("return word.upper()", "while True: pass")
    proposal, requests = bench.propose(Author(sources=[hang, SHOUT]), attempts=FAILED[:1], max_retries=1, timeout_s=0.5)
    assert "shout(word='sun') failed:" in last(of_phase(requests, "repair")[0])
    assert proposal.functions == FunctionSet.of(SHOUT)


def test_a_near_miss_is_kept_if_no_repair_gets_further(bench: Bench) -> None:
    proposal, _ = bench.propose(Author(sources=[NEARLY, WRONG, CRASH]), max_retries=2)
    assert proposal.functions == FunctionSet.of(NEARLY)
    assert proposal.matches == ("1/3",)


def test_retries_are_bounded(bench: Bench) -> None:
    tries = iter(WRONG.replace("title()", f"title() + '{number}'") for number in range(9))
    proposal, requests = bench.propose(Author(sources=lambda _: next(tries)), max_retries=3)
    assert len(of_phase(requests, "source", "repair")) == 4
    assert proposal.counts.sampled == 4
    proposal, requests = bench.propose(Author(sources=[WRONG]), max_retries=3)
    assert len(of_phase(requests, "source", "repair")) == 4 + 2, "two that repeat a failed one do not count"
    assert (proposal.counts.sampled, proposal.counts.repeated) == (6, 5)


def test_a_conversation_of_repairs_holds_only_the_latest_source(bench: Bench) -> None:
    _, requests = bench.propose(Author(sources=[CRASH, WRONG, SHOUT]), max_retries=2)
    second = of_phase(requests, "repair")[1]
    texts = [message.content for message in second.messages]
    assert WRONG in texts
    assert CRASH not in texts


def test_an_illegal_header_goes_back_with_what_exists(bench: Bench) -> None:
    author = Author([header("revise_function", "yell"), "Let us add shout", header()])
    proposal, requests = bench.propose(author, functions=FunctionSet.of(GREET), max_retries=2, constrain=False)
    headers = of_phase(requests, "header")
    assert "there is no function 'yell'; there are: greet" in last(headers[1])
    assert "reply with one JSON object" in last(headers[2])
    assert proposal.functions == FunctionSet.of(GREET, SHOUT)
    assert proposal.counts == ActionCounts(sampled=3, legal=1, verified=1, applied=1)


def test_a_new_function_cannot_shadow_an_old_one(bench: Bench) -> None:
    author = Author([header("add_function", "greet")])
    proposal, _ = bench.propose(author, functions=FunctionSet.of(GREET), max_retries=1, constrain=False)
    assert proposal.functions == FunctionSet.of(GREET)
    assert proposal.counts == ActionCounts(sampled=2)


def test_example_arguments_that_do_not_fit_go_back(bench: Bench) -> None:
    given = iter(['{"problem_1": {"word": 3}}', "none", '{"problem_1": {"word": "sun"}}'])
    author = Author(arguments=lambda _: next(given))
    proposal, requests = bench.propose(author, attempts=FAILED[:1], max_retries=2)
    first, second = of_phase(requests, "repair")
    assert "the example arguments do not fit shout(word: str) -> str" in last(first)
    assert "the example arguments were not JSON" in last(second)
    assert proposal.matches == ("1/1",)


def test_a_source_in_a_fence_is_taken_out(bench: Bench) -> None:
    proposal, _ = bench.propose(Author(sources=[f"Here it is:\n```python\n{SHOUT}```"]), constrain=False)
    assert proposal.functions == FunctionSet.of(SHOUT)


def test_trials_run_with_the_whole_edited_set(bench: Bench) -> None:
    uses_other = SHOUT.replace("return word.upper()", "return greet(word)[6:].upper()")
    proposal, _ = bench.propose(Author(sources=[uses_other]), functions=FunctionSet.of(GREET))
    assert proposal.functions == FunctionSet.of(GREET, uses_other)


# Sampling


def test_the_best_of_n_samples_is_applied(bench: Bench) -> None:
    sources = [WRONG, CRASH, NEARLY, WRONG]
    author = Author(sources=lambda request: sources[index_of(request)])
    proposal, requests = bench.propose(author, n_samples=4, max_retries=0)
    assert len({request.conversation for request in requests if phase(request) != "arguments"}) == 4
    assert proposal.functions == FunctionSet.of(NEARLY)
    assert proposal.matches == ("1/3",)
    assert proposal.counts == ActionCounts(sampled=4, legal=4, verified=3, applied=1)


def test_drafts_with_the_same_parameters_share_their_arguments(bench: Bench) -> None:
    other = NEARLY.replace("word: str", "text: str").replace("word", "text")
    sources = [WRONG, NEARLY, other, WRONG]

    def given(request: ChatRequest) -> str:
        return word_arguments(request).replace('"word"', '"text"' if "text: str" in last(request) else '"word"')

    author = Author(sources=lambda request: sources[index_of(request)], arguments=given)
    proposal, requests = bench.propose(author, n_samples=4, max_retries=0)
    assert proposal.matches == ("1/3",)
    asked = [last(each) for each in of_phase(requests, "arguments")]
    assert sorted("(text: str)" in each for each in asked) == [False, True]


def test_all_samples_of_an_edit_are_under_way_at_once(bench: Bench) -> None:
    waiting, most = 0, 0

    class Slow:
        async def complete(self, request: ChatRequest) -> ChatReply:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            await asyncio.sleep(0.05)
            waiting -= 1
            return say(TERMINATE)

        async def aclose(self) -> None:
            pass

    optimizer = Optimizer(Slow(), Shouting(), bench.sandbox, OptimizerConfig(n_samples=5, max_actions=1))
    bench.run(optimizer.propose(FunctionSet(), Incoming(FAILED), (), seed=1))
    assert most == 5


def test_a_sample_that_answers_everything_ends_the_others(bench: Bench) -> None:
    class OneIsFast:
        def __init__(self) -> None:
            self.author, self.ended = Author(), 0

        async def complete(self, request: ChatRequest) -> ChatReply:
            if index_of(request) != 2:
                await asyncio.sleep(60)
                self.ended += 1
            reply = self.author(request)
            return reply if isinstance(reply, ChatReply) else say(reply)

        async def aclose(self) -> None:
            pass

    model = OneIsFast()
    config = OptimizerConfig(n_samples=4, max_actions=1, n_screen=0, n_alternatives=0)
    optimizer = Optimizer(model, Shouting(), bench.sandbox, config)
    proposal = bench.run(asyncio.wait_for(optimizer.propose(FunctionSet(), Incoming(FAILED), (), seed=1), timeout=30))
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert model.ended == 0


def test_seeds_are_fresh_in_every_request(bench: Bench) -> None:
    """The reference implementation repeated the same request, and a cache answered it."""
    seeds: list[int | None] = []
    attempts = [attempt(word_problem(word, kind)) for kind in ("one", "two") for word in ("ab", "abcdef")]
    for seed in (1, 2):
        _, requests = bench.propose(
            Author(sources=[WRONG]), attempts=attempts, seed=seed, n_samples=3, max_actions=4, max_retries=2
        )
        seeds += [request.sampling.seed for request in requests]
    assert None not in seeds
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("seed", [0, 42, 20_240_607, 2**31 - 1])
def test_seeds_fit_into_63_bits(bench: Bench, seed: int) -> None:
    """``seed`` is a run's; the trainer hands the optimizer ``seed * 10_000 + step``. Engines refuse wider ones."""
    _, requests = bench.propose(Author(), seed=seed * 10_000 + 1, attempts=FAILED[:1])
    assert [request for request in requests if not 0 <= (request.sampling.seed or 0) < 2**63] == []


def test_actions_are_constrained_as_configured(bench: Bench) -> None:
    _, requests = bench.propose(Author(), functions=FunctionSet.of(GREET))
    kinds = {phase(request): request.constraint.kind if request.constraint else None for request in requests}
    assert kinds == {"header": "grammar", "source": "grammar", "arguments": "json_schema"}
    assert "greet" in (requests[0].constraint.value if requests[0].constraint else "")
    _, requests = bench.propose(Author(), constrain=False)
    assert {phase(request) for request in requests if request.constraint is None} == {"header", "source"}


def test_a_conversation_keeps_its_session_and_only_grows(bench: Bench) -> None:
    _, requests = bench.propose(Author())
    assert [phase(request) for request in requests] == ["header", "source", "arguments"]
    header, source, _ = requests
    assert header.conversation == source.conversation
    assert source.messages[: len(header.messages)] == header.messages


def test_arguments_are_asked_for_without_the_expected_answers(bench: Bench) -> None:
    """Whoever writes the arguments must not see what a right function returns; the problems open the prompt, so that
    all drafts of an edit share its beginning."""
    _, requests = bench.propose(Author(), n_samples=3)
    [request] = of_phase(requests, "arguments")
    (message,) = request.messages
    assert message.content.startswith("problem_1: Shout: ")
    assert not any(each.problem.answer in message.content for each in FAILED)
    assert request.conversation not in {each.conversation for each in of_phase(requests, "source")}


# Errors of the machine


def test_a_full_context_keeps_what_was_verified(bench: Bench) -> None:
    class Overflows(Author):
        def __call__(self, request: ChatRequest) -> Any:
            return ContextOverflowError("full") if phase(request) == "repair" else super().__call__(request)

    proposal, _ = bench.propose(Overflows(sources=[NEARLY]), max_retries=2)
    assert proposal.functions == FunctionSet.of(NEARLY)


def test_a_refused_prompt_ends_its_draft_and_not_the_run(bench: Bench) -> None:
    proposal, requests = bench.propose(lambda _: RefusedPromptError("flagged as unsafe"))
    assert (proposal.functions, proposal.actions) == (FunctionSet(), ())
    assert requests


def test_a_dead_engine_is_raised_as_itself_and_ends_the_other_samples(bench: Bench) -> None:
    class Dies:
        def __init__(self) -> None:
            self.requests = 0

        async def complete(self, request: ChatRequest) -> ChatReply:
            self.requests += 1
            number = self.requests
            await asyncio.sleep(0.02)
            if number == 1:
                raise EngineDeadError("gone")
            await asyncio.sleep(0.2)
            return say(header())

        async def aclose(self) -> None:
            pass

    model = Dies()
    optimizer = Optimizer(model, Shouting(), bench.sandbox, OptimizerConfig(n_samples=4, max_actions=1))

    async def scenario() -> int:
        with pytest.raises(EngineDeadError, match="gone"):
            await optimizer.propose(FunctionSet(), Incoming(FAILED), (), seed=1)
        at_the_end = model.requests
        await asyncio.sleep(0.5)
        return model.requests - at_the_end

    assert bench.run(scenario()) == 0


def test_a_dead_engine_ends_the_concurrent_edits(bench: Bench) -> None:
    class DiesInOneEdit:
        def __init__(self) -> None:
            self.requests = 0

        async def complete(self, request: ChatRequest) -> ChatReply:
            self.requests += 1
            if self.requests == 1:
                raise EngineDeadError("gone")
            await asyncio.sleep(0.1)
            return say(header())

        async def aclose(self) -> None:
            pass

    model = DiesInOneEdit()
    optimizer = Optimizer(model, Shouting(), bench.sandbox, OptimizerConfig(n_samples=1, max_actions=2))
    attempts = [attempt(word_problem("ab", "one")), attempt(word_problem("cd", "two"))]

    async def scenario() -> int:
        with pytest.raises(EngineDeadError, match="gone"):
            await optimizer.propose(FunctionSet(), Incoming(attempts), (), seed=1)
        at_the_end = model.requests
        await asyncio.sleep(0.4)
        return model.requests - at_the_end

    assert bench.run(scenario()) == 0, "the other edit went on asking"


# What the optimizer is shown


def test_the_prompt_shows_attempts_functions_and_failed_updates(bench: Bench) -> None:
    attempts = [attempt(WORDS[0], called="shout", result="Sun", answer="Sun"), attempt(WORDS[1])]
    failed = FailedUpdate(
        step=1, actions=("add_function yell",), functions=FunctionSet(), accuracy=0.25, accuracy_before=0.5
    )
    _, requests = bench.propose(
        Author([TERMINATE]), functions=FunctionSet.of(WRONG), attempts=attempts, failures=[failed]
    )
    prompt = last(requests[0])
    for part in (
        "Shout: sun",
        "The agent called shout(word='w')\nwhich returned: Sun",
        "The agent answered: Sun (wrong)",
        "Expected answer: SUN",
        "The agent answered: dunno (wrong)",
        WRONG,
        "`shout(word: str) -> str`: called directly in 1 rollout, 0 solved.",
        "add_function yell: accuracy went from 0.50 to 0.25, so it was undone.",
    ):
        assert part in prompt


def test_problems_whose_code_called_a_function_count_as_its_users() -> None:
    solved = attempt(WORDS[0], called="python", result="SUN", answer="SUN")
    step = solved.trajectory.steps[0]
    block = step.executed[0].model_copy(update={"arguments": {"code": "print(shout('sun'))"}})
    trajectory = solved.trajectory.model_copy(update={"steps": (step.model_copy(update={"executed": (block,)}),)})
    by_code = Evidence(problem=solved.problem, trajectory=trajectory)
    told = functions_text(FunctionSet.of(WRONG), [by_code, attempt(WORDS[1])], 1000)
    assert ": never called directly; used by code in 1, 1 solved." in told


def test_expected_answers_are_shown_only_of_the_attempts_that_are_shown(bench: Bench) -> None:
    attempts = [attempt(word_problem(word)) for word in ("alpha", "bravo", "charlie", "delta", "echo")]
    _, requests = bench.propose(Author(sources=[WRONG]), attempts=attempts, n_evidence=2, max_retries=2)
    everything = "\n".join(request.model_dump_json() for request in requests)
    shown = [each.problem for each in attempts if each.problem.question in everything]
    assert len(shown) == 2
    for each in attempts:
        assert (each.problem.answer in everything) == (each.problem in shown)


def test_near_misses_come_first() -> None:
    plain = [attempt(word_problem(f"plain{i}")) for i in range(6)]
    near = [attempt(word_problem(f"near{i}"), called="shout") for i in range(2)]
    ((_, _, group),) = focus_groups([*plain, *near])
    assert group[:2] == tuple(near)
    for seed in range(10):
        picked = pick(group, 3, seed)
        assert {each.problem.id for each in picked[:2]} == {each.problem.id for each in near}
    assert len({pick(group, 3, seed)[2].problem.id for seed in range(30)}) > 1, "the rest is drawn by the seed"
    assert pick(group, 3, 5) == pick(group, 3, 5)
    assert len(pick(group, 99, 0)) == 8


def test_failures_are_grouped_by_kind_with_the_largest_group_first() -> None:
    attempts = [
        attempt(word_problem("a", "few")),
        attempt(word_problem("b", "many")),
        attempt(word_problem("c", "many")),
        attempt(word_problem("d", "many"), answer="D"),
        attempt(word_problem("e", "solved"), answer="E"),
    ]
    groups = focus_groups(attempts)
    assert [[each.problem.id for each in group.attempts] for group in groups] == [["many-b", "many-c"], ["few-a"]]


def test_failed_updates_are_shown_worst_first_and_the_latest_survive_a_small_budget() -> None:
    failures = [
        FailedUpdate(step=i, actions=(f"add_function f_{i}",), functions=FunctionSet(), accuracy=a, accuracy_before=0.9)
        for i, a in enumerate((0.5, 0.1, 0.8, 0.3))
    ]
    assert re.findall(r"f_\d", failures_text(failures, 1000)) == ["f_1", "f_3", "f_0", "f_2"]
    assert re.findall(r"f_\d", failures_text(failures, 55)) == ["f_3", "f_2"]
    assert failures_text(failures, 0) == failures_text([], 100) == ""


def long_attempt(size: int, **changes: Any) -> Evidence:
    problem = Problem(id="long", question="Shout: " + "q" * size, answer="ANSWER", kind="shout")
    return attempt(problem, called="shout", result="r" * size, **changes)


def test_transcripts_stay_within_their_budget() -> None:
    attempts = [long_attempt(9000), long_attempt(9000), attempt(WORDS[0])]
    text = transcripts_text(attempts, 600)
    assert len(text) <= 600 * CHARS_PER_TOKEN + 10
    assert text.count("Expected answer: ") == 3
    assert "[...]" in text


def test_a_long_answer_stays_within_the_budget() -> None:
    assert len(transcript_text(1, long_attempt(500, answer="a" * 9000), 1500)) <= 1500


def test_sources_are_left_out_where_the_budget_ends_and_names_are_not() -> None:
    sources = [SHOUT.replace("def shout", f"def shout_{i}").replace("capitals", "capitals" * 30) for i in range(8)]
    functions = FunctionSet.of(*sources)
    text = functions_text(functions, [], 300)
    assert 0 < text.count("```python") < 8
    assert all(f"`shout_{i}(word: str) -> str`" in text for i in range(8))
    assert functions_text(FunctionSet(), [], 300) == "There are none yet."


def test_the_whole_prompt_respects_the_budgets(bench: Bench) -> None:
    functions = FunctionSet.of(*(WRONG.replace("def shout", f"def shout_{i}") + "    # " + "c" * 900 for i in range(5)))
    failures = [
        FailedUpdate(step=i, actions=("add_function x",) * 3, functions=functions, accuracy=0.1, accuracy_before=0.2)
        for i in range(50)
    ]
    settings = {"evidence_tokens": 300, "functions_tokens": 400, "failures_tokens": 100}
    _, requests = bench.propose(Author([TERMINATE]), attempts=FAILED, failures=[])
    plain = len(last(requests[0]))
    _, requests = bench.propose(
        Author([TERMINATE]),
        functions=functions,
        attempts=[long_attempt(5000) for _ in range(3)],
        failures=failures,
        **settings,
    )
    one_line_each = 5 * 130
    assert len(last(requests[0])) <= plain + sum(settings.values()) * CHARS_PER_TOKEN + one_line_each + 100


def test_what_the_optimizer_thinks_is_in_no_later_request_and_in_no_function(bench: Bench) -> None:
    author = Author(sources=[WRONG, SHOUT])

    def thinking(request: ChatRequest) -> ChatReply:
        text = author(request)
        said = text if isinstance(text, ChatReply) else say(text)
        return said.model_copy(update={"message": said.message.model_copy(update={"thought": "SECRET " + GREET})})

    proposal, requests = bench.propose(thinking, max_retries=1)
    assert proposal.functions == FunctionSet.of(SHOUT)
    assert len(of_phase(requests, "repair")) == 1
    assert not any("SECRET" in repr(each) for request in requests for each in request.messages)
    assert "SECRET" not in proposal.model_dump_json()


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({}, {"header": 64, "source": 400, "arguments": 300}),
        ({"n_evidence": 2}, {"header": 64, "source": 400, "arguments": 200}),
        (
            {"max_header_tokens": 128, "max_source_tokens": 900, "max_arguments_tokens": 200},
            {"header": 128, "source": 900, "arguments": 600},
        ),
    ],
)
def test_each_phase_has_its_own_limit(bench: Bench, settings: dict[str, int], limits: dict[str, int]) -> None:
    _, requests = bench.propose(Author(), **settings)
    assert {phase(each): each.sampling.max_tokens for each in requests} == limits


def test_usage_is_summed_over_all_requests(bench: Bench) -> None:
    proposal, requests = bench.propose(Author(sources=[WRONG]), n_samples=2, max_retries=1)
    assert proposal.usage.requests == len(requests) > 0
    assert proposal.usage.completion_tokens > 0


def test_a_proposal_survives_json(bench: Bench) -> None:
    for author in (Author(), Author([header("remove_function", "greet")]), Author([TERMINATE])):
        proposal, _ = bench.propose(author, functions=FunctionSet.of(GREET))
        assert Update.model_validate_json(proposal.model_dump_json()) == proposal


def test_an_update_tells_which_problems_its_author_was_shown(bench: Bench) -> None:
    words = ["sun", "moon", "stars", "sky", "rain", "snow"]
    attempts = [attempt(word_problem(word)) for word in words]
    update, requests = bench.propose(Author([ADD_SHOUT], [SHOUT]), attempts=attempts, hold_back=True)
    assert len(update.shown) == len(update.actions) == 1
    prompt = requests[0].messages[0].content
    assert set(update.shown[0]) == {f"shout-{word}" for word in words if f"Shout: {word}" in prompt}
    assert len(update.seen) == 3


@pytest.mark.parametrize(("failed", "shown"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (9, 3)])
def test_half_of_a_kind_is_held_back_to_judge_the_edit_by(bench: Bench, failed: int, shown: int) -> None:
    attempts = [attempt(word_problem("x" * (n + 1))) for n in range(failed)]
    update, _ = bench.propose(Author([ADD_SHOUT], [SHOUT]), attempts=attempts, hold_back=True)
    assert len(update.seen) == shown


def test_a_kind_with_one_failure_waits_while_others_have_more(bench: Bench) -> None:
    two = [attempt(word_problem(word, "two")) for word in ("sun", "moon")]
    one = attempt(word_problem("sky", "one"))
    update, _ = bench.propose(Author([ADD_SHOUT], [SHOUT]), attempts=[*two, one], max_actions=2, hold_back=True)
    assert [each.kind for each in update.outcomes] == ["two"]
    for attempts, hold_back in (([*two, one], False), ([one], True)):
        update, _ = bench.propose(Author([ADD_SHOUT], [SHOUT]), attempts=attempts, max_actions=2, hold_back=hold_back)
        assert "one" in [each.kind for each in update.outcomes]


def test_the_answers_do_not_leak_into_the_arguments_of_trials(bench: Bench) -> None:
    """An identity function is right if whoever fills in its argument knows the answer."""
    identity = 'def shout(word: str) -> str:\n    """Return the word in capitals."""\n    return word\n'

    def arguments(request: ChatRequest) -> str:
        text = "\n".join(message.content for message in request.messages)
        asked = json.loads(word_arguments(request))
        return json.dumps(
            {
                key: {"word": each["word"].upper() if each["word"].upper() in text else each["word"]}
                for key, each in asked.items()
            }
        )

    update, _ = bench.propose(Author([ADD_SHOUT], [identity], arguments=arguments), max_retries=0, min_matches=1)
    assert not update.actions


def test_a_kind_whose_drafts_all_failed_is_tried_again_in_the_step(bench: Bench) -> None:
    tries = iter([MISNAMED, SHOUT])  # the first has another name than its header says
    update, _ = bench.propose(Author([ADD_SHOUT], lambda request: next(tries)), max_actions=2, max_retries=0)
    assert [each.name for each in update.actions if isinstance(each, AddFunction)] == ["shout"]
