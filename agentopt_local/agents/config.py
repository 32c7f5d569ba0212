"""The settings of an agent."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from agentopt_local.agents.answers import AnswerFormName
from agentopt_local.record import Record
from agentopt_local.setting_types import Seconds


class AgentConfig(Record):
    """What kind of agent it is, and the budgets of one attempt."""

    kind: Literal["function_calling", "react", "creator"] = "function_calling"
    """``function_calling``: calls in the model's own tool format · ``react``: Thought, Action, Action Input as text ·
    ``creator``: a baseline that is not trained: for each problem it writes a tool and the code that calls it."""
    answer_form: AnswerFormName = "tags"
    """How a function-calling agent is asked for its answer: ``tags``, ``<answer>``; ``boxed``, ``\\boxed{}`` as in
    the paper. Both are read."""
    one_string_argument: bool = False
    """Functions of a ReAct agent take one string, as in the paper, and the optimizer writes only such functions;
    False: typed arguments as JSON."""
    max_turns: int = Field(default=6, ge=1, le=100_000)
    """Assistant turns."""
    max_turn_tokens: int = Field(default=400, ge=16)
    """Generated tokens of one turn."""
    max_tokens: int = Field(default=1500, ge=16)
    """Generated tokens of the whole attempt."""
    temperature: float = Field(default=0.0, ge=0, le=100)
    """0 = greedy."""
    interpreter: bool = True
    """Whether the agent may run Python besides calling its functions."""
    act_first: bool = True
    """Whether a constrained attempt with an interpreter must call a function or run code before it may answer, because
    small models guess. Without an interpreter it may answer at once: none of its functions may fit."""
    think: bool = True
    """Whether a constrained turn may begin with a line of thought before it acts."""
    constrain: bool = True
    """Sample turns under a grammar, so that every call names an existing function with valid arguments."""
    offer: Literal["alike", "all"] = "alike"
    """Which functions a problem is offered. ``alike``: none that were written for other questions, as far as these
    tell, because right functions take problems from one another · ``all``: all of them."""
    max_functions: int | None = Field(default=None, ge=1, le=1000)
    """Of these, a problem is offered at most so many: those that fit its question best by their docstring, name and
    source questions; None: all. Prompts then no longer share the part that offers the functions, so an engine reads it
    for each problem anew, and a constrained one makes a grammar for each offer."""
    timeout_s: Seconds = 10.0
    """Wall-clock limit of one call or block."""
    max_result_chars: int = Field(default=2000, ge=100)
    """Longer results are cut in the middle before the agent sees them."""

    @model_validator(mode="after")
    def _able(self) -> Self:
        if self.kind == "creator" and not self.interpreter:
            raise ValueError('kind = "creator" does nothing but run Python; leave interpreter = false out')
        return self
