"""X5: a repair that repeats a failed source, or its results, is refused and sampled anew, from a different idea."""

from __future__ import annotations

import pytest

from agentopt_local.failed_ideas import FailedIdeas, form_of
from agentopt_local.functions import FunctionSet
from agentopt_local.sandbox.base import Execution
from agentopt_local.source_questions import Failed
from agentopt_local.trials import Trial, Trials
from agentopt_local.update import ActionCounts
from tests.tools.drafting import CRASH, FORBIDDEN, SHOUT, WORDS, WRONG, Author, Bench, attempt, bench, last, of_phase

__all__ = ["bench"]

CAESAR = '''def caesar_cipher(text: str) -> str:
    """For problems that ask to decrypt a Caesar cipher, takes text, returns the plain text."""
    out = []
    for letter in text:
        if letter.isalpha():
            out.append(chr((ord(letter) - ord("A") - 3) % 26 + ord("A")))
        else:
            out.append(letter)
    return "".join(out)
'''
RENAMED = (
    CAESAR.replace("out", "result")
    .replace("letter", "c")
    .replace("(text", "(cipher_text")
    .replace("in text", "in cipher_text")
)


@pytest.mark.parametrize(
    "again",
    [
        CAESAR,
        RENAMED,
        CAESAR.replace("caesar_cipher", "decrypt"),
        CAESAR.replace("takes text, returns the plain text", "returns it"),
        CAESAR.replace("    out = []\n", "    # collect\n    out = []  # letters\n\n"),
        CAESAR.replace('"A"', "'A'"),
        CAESAR.replace(" - 3", "-3").replace("    ", "  "),
        f"```python\n{CAESAR}```",
        f"Here you are:\n```\n{RENAMED}```\nDone.",
        CAESAR.replace("\n", "\r\n"),
        CAESAR.replace("(ord(letter) - ord", "((ord(letter)) - ord"),
    ],
)
def test_x5_the_same_code_is_the_same_idea(again: str) -> None:
    ideas = FailedIdeas()
    why = Trials((trial("a"),))
    ideas.add(Failed(CAESAR, why))
    assert ideas.find(again) is why


@pytest.mark.parametrize(
    "other",
    [
        CAESAR.replace("- 3", "- 4"),
        CAESAR.replace("- 3", "+ 3"),
        CAESAR.replace("isalpha", "isupper"),
        CAESAR.replace("(text: str)", "(text: str, shift: int)").replace("- 3", "- shift"),
        CAESAR.replace("for letter in text", "for letter in reversed(text)"),
        CAESAR.replace('"".join(out)', '" ".join(out)'),
        CAESAR.replace("out.append(letter)", "pass"),
        CAESAR.replace("ord", "len", 1),
        "",
        "no code at all",
    ],
)
def test_x5_other_code_is_another_idea(other: str) -> None:
    ideas = FailedIdeas()
    ideas.add(Failed(CAESAR, Trials((trial("a"),))))
    assert ideas.find(other) is None


@pytest.mark.parametrize(
    ("refused", "fixed"),
    [
        (SHOUT.replace("def shout", "def yell"), SHOUT),  # refused for its name
        (SHOUT.replace("capitals", "\\ud800"), SHOUT),  # for its docstring
        (SHOUT.replace("    return", "   return"), SHOUT),  # for its indentation
        (SHOUT.replace("return word", "return (word"), SHOUT),
        (SHOUT.replace("word: str", "word"), SHOUT),
    ],
)
def test_x5_what_mends_a_refused_source_is_no_repetition(refused: str, fixed: str) -> None:
    ideas = FailedIdeas()
    ideas.add(Failed(refused, "That source was refused"))
    assert ideas.find(fixed) is None
    assert ideas.find(refused + "\n# once more\n" if "(word" not in refused else refused) is not None


def trial(value: str, *, ok: bool = True) -> Trial:
    return Trial("f", {}, Execution(ok=ok, value=value if ok else None, error=None if ok else value), "x", False)


def test_x5_the_same_results_are_the_same_failure() -> None:
    ideas = FailedIdeas()
    ideas.add(Failed(CAESAR, Trials((trial("a"), trial("IndexError", ok=False)))))
    assert ideas.gave(Trials((trial("a"), trial("IndexError", ok=False))))
    assert not ideas.gave(Trials((trial("a"), trial("KeyError", ok=False))))
    assert not ideas.gave(Trials((trial("a"), trial("IndexError"))))
    assert not ideas.gave(Trials((trial("b"), trial("IndexError", ok=False))))


@pytest.mark.parametrize(
    "source", ["def f(" + "(" * 5000, "x" * 100_000, "\x00", "def f():\n" + "    " * 200 + "pass", "```" * 50, "\ud800"]
)
def test_any_text_has_a_form(source: str) -> None:
    assert isinstance(form_of(source, by_name=False), str)


# In a draft


def test_x5_a_repeated_source_is_refused_and_sampled_anew(bench: Bench) -> None:
    again = WRONG.replace("word", "text").replace("    return", "    # in capitals\n    return")
    update, requests = bench.propose(Author(sources=[WRONG, again, SHOUT]), max_retries=1)
    assert update.functions == FunctionSet.of(SHOUT), "with one repair only: the repetition does not count"
    asked = of_phase(requests, "source", "repair")
    assert len(asked) == 3
    assert "wrote the same source again" in last(asked[2])
    assert "different idea" in last(asked[2])
    assert "but expected was: SUN" in last(asked[2]), "what went wrong is still told"
    assert WRONG not in "".join(each.content for each in asked[2].messages), "small models copy what they see"
    assert len({each.sampling.seed for each in requests}) == len(requests)
    assert asked[2].sampling.temperature > asked[1].sampling.temperature
    assert update.counts.repeated == 1
    assert len(of_phase(requests, "arguments")) == 1, "and it is not tried again"


def test_x5_another_source_with_the_same_results_is_refused(bench: Bench) -> None:
    same = WRONG.replace("word.title()", "word[0].upper() + word[1:].lower()")
    update, requests = bench.propose(Author(sources=[WRONG, same, SHOUT]), max_retries=1)
    assert update.functions == FunctionSet.of(SHOUT)
    assert "returned just the same" in last(of_phase(requests, "source", "repair")[2])


def test_x5_the_same_crash_is_refused(bench: Bench) -> None:
    same = CRASH.replace("return word[99]", "letter = word[99]\n    return letter")
    update, _ = bench.propose(Author(sources=[CRASH, same, SHOUT]), max_retries=1)
    assert update.functions == FunctionSet.of(SHOUT)
    assert update.counts.repeated == 1


def test_x5_a_repair_that_gets_further_counts_as_a_repair(bench: Bench) -> None:
    nearer = WRONG.replace("word.title()", "word.upper() if len(word) < 5 else word")
    update, requests = bench.propose(Author(sources=[WRONG, nearer]), max_retries=1)
    assert update.matches == ("2/3",)
    assert len(of_phase(requests, "source", "repair")) == 2
    assert update.counts.repeated == 0


def test_x5_a_refused_source_that_comes_again_is_refused_again(bench: Bench) -> None:
    update, requests = bench.propose(Author(sources=[FORBIDDEN, FORBIDDEN, SHOUT]), max_retries=1)
    assert update.functions == FunctionSet.of(SHOUT)
    assert "importing os is not allowed" in last(of_phase(requests, "source", "repair")[2])


def test_x5_repetitions_are_bounded(bench: Bench) -> None:
    update, requests = bench.propose(Author(sources=[WRONG]), max_retries=0)
    assert len(of_phase(requests, "source", "repair")) == 1
    update, requests = bench.propose(Author(sources=[WRONG]), max_retries=9)
    asked = of_phase(requests, "source", "repair")
    assert len(asked) == 12
    assert max(each.sampling.temperature for each in asked) <= 1.2
    assert update.counts == ActionCounts(sampled=12, legal=12, verified=1, repeated=11)


def test_arguments_that_fail_are_not_the_fault_of_the_source(bench: Bench) -> None:
    given = iter(["none", '{"problem_1": {"word": "sun"}}'])
    update, _ = bench.propose(Author(arguments=lambda _: next(given)), attempts=[attempt(WORDS[0])], max_retries=1)
    assert update.functions == FunctionSet.of(SHOUT)
    assert update.counts.repeated == 0
