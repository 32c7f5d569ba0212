"""What stands around an answer: thoughts, tags, Markdown, boxes."""

import pytest

from agentopt_local.agents.answers import read_answer
from agentopt_local.thoughts import without_thoughts
from agentopt_local.wrapping import bare_answer, tagged, unlabelled, untagged, unwrapped


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>hm</think>12", "12"),
        ("<Thinking>hm</Thinking>12", "12"),
        ("hm</think>12", "12"),
        ("<think>a<think>b</think>c</think>12", "12"),
        ("12\n<think>hm", "12\n"),
        ("Write 12 between <think> marks.", "Write 12 between <think> marks."),
        ("<think>hm", ""),
        ("<think>a</think>1<think>b</think>2", "1\n\n2"),
        ("<think>a</think>12</think>\n", "12"),
        ("[THINK]hm[/THINK]12</s>", "12"),
        ("◁think▷hm◁/think▷12", "12"),
        ("<reasoning>\nhm\n</reasoning>\n12", "12"),
        ("<seed:think>hm</seed:think>12", "12"),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>12<|return|>", "12"),
        ("I think that x < think", "I think that x < think"),
        ("", ""),
    ],
)
def test_thoughts_are_left_out(text: str, rest: str) -> None:
    assert without_thoughts(text) == rest


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("I must answer as <answer>your answer</answer>.\nSo: <answer>12</answer>", "12"),  # A6
        ("<answer>12</answer> in <answer> tags", "12"),
        ("<answer>12</answer> between `<answer>` and `</answer>`", "12"),
        ("<answer>12</answer><answer></answer>", "12"),
        ("<answer>12<answer>", "12"),
        ("<ANSWER>\n12\n</ANSWER>", "12"),
        ('<answer>"red"</answer>', '"red"'),
        ("<answer>12", "12"),
        ("<answer></answer>", ""),
        ("an answer", None),
    ],
)
def test_the_last_tag_that_holds_something_counts(text: str, answer: str | None) -> None:
    assert tagged(text) == answer


def test_a_turn_without_its_answer() -> None:
    assert untagged("So <answer>12</answer>.") == "So ."
    assert untagged("So <answer>12") == "So"


@pytest.mark.parametrize(
    ("text", "answer"),
    [("<think><answer>1</answer></think><answer>2</answer>", "2"), ("<think>\\boxed{1}</think>none", None)],
)
def test_an_answer_in_a_thought_does_not_count(text: str, answer: str | None) -> None:
    assert read_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("**12**", "12"), ("**12**.", "12"), ("**12.**", "12."), ("__12__", "12"), ("*12*", "12"), ("`12`", "12"),
        ("***12***", "12"), ("$12$", "12"), ("$$12$$", "12"), ("\\(12\\)", "12"), ("\\[12\\]", "12"),
        ("```\n12\n```", "12"), ("```json\n[1]\n```", "[1]"), ("\\boxed{12}", "12"), ("**$\\boxed{12}$**", "12"),
        ("\\textbf{12}.", "12"), ("<b>12</b>", "12"), ("**a**, **b**", "a, b"),
        ("2**3**4", "2**3**4"), ("x**2", "x**2"), ("$5", "$5"), ("$5 and $6", "$5 and $6"), ("*args", "*args"),
        ("2 * 3 * 4", "2 * 3 * 4"), ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"), ("x_1", "x_1"),
        ("* a *", "* a *"), ("", ""), ("**", "**"), ("\\boxed{1", "\\boxed{1"),
    ],
)  # fmt: skip
def test_only_what_is_around_everything_is_taken_off(text: str, inside: str) -> None:
    assert unwrapped(text) == inside


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Answer: 12", "12"), ("**Final answer:** 12", "12"), ("**Answer: 12**", "12"), ("- Answer: 12", "12"),
        ("1. **Final Answer:** 12", "12"), ("The answer is 12", "The answer is 12"), ("answers: 12", "answers: 12"),
        ("Answer", "Answer"),
    ],
)  # fmt: skip
def test_labels(text: str, rest: str) -> None:
    assert unlabelled(text) == rest


def test_what_is_expected_is_not_taken_off() -> None:
    assert bare_answer("**a**", "a") == "a"
    assert bare_answer("**a**", "**a**") == "**a**"
    assert bare_answer("<answer>a</answer>", "<answer>a</answer>") == "<answer>a</answer>"
    assert bare_answer("Answer: a", "Answer: a") == "Answer: a"
