"""What a run's settings still change about the regime of the paper's authors, named where results stand beside theirs.

``preset = "paper"`` selects the decisions of the released code. The rest of the machinery, which small models need, is
this project's. The facts are from the paper (arXiv 2402.11359) and its released code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from agentopt_local.agents.config import AgentConfig
from agentopt_local.record import Record
from agentopt_local.train_state import PRESETS
from agentopt_local.update import OptimizerConfig

R = TypeVar("R", bound=Record)
Settings = Mapping[str, Any]
TURNS = {
    ("math", "function_calling"): 15, ("math", "react"): 14, ("tabmwp", "function_calling"): 12,
    ("tabmwp", "react"): 11, ("gaia", "function_calling"): 20, ("gaia", "react"): 20,
}  # fmt: skip
"""The authors' most turns, by benchmark and agent."""
DATA = {
    "math": "The problems are drawn from MATH's official files by seed; theirs were the first of CRAFT's files.",
    "tabmwp": "The problems are drawn from all of TabMWP by seed; theirs were a hard subset that was not released.",
    "gaia": "The questions are drawn by seed, and code runs without a network; their lists were not released.",
}


def differences(settings: Settings) -> tuple[str, ...]:
    """What differs from the authors' regime in a run with these settings (as in its config.json), in sentences."""
    benchmark = str(table(settings, "task").get("spec", "")).partition(":")[0]
    agent = record(AgentConfig, table(settings, "agent"))
    optimizer = record(OptimizerConfig, table(settings, "optimizer"))
    return (
        *overridden(settings),
        *of_models(settings, benchmark),
        *of_agent(agent, benchmark),
        *of_optimizer(optimizer, benchmark, table(settings, "task").get("n_train")),
        *([DATA[benchmark]] if benchmark in DATA else []),
    )


def shared_differences(runs: Mapping[str, Settings]) -> list[str]:
    """The differences of several runs by name; those that not all have are marked with the names of the runs."""
    found: dict[str, list[str]] = {}
    for name, settings in runs.items():
        for each in differences(settings):
            found.setdefault(each, []).append(name)
    return [each if len(names) == len(runs) else f"{each} (Only: {'; '.join(names)}.)" for each, names in found.items()]


def table(settings: Settings, name: str) -> Settings:
    """A table of the settings; empty if it is not there."""
    value = settings.get(name)
    return value if isinstance(value, Mapping) else {}


def record(kind: type[R], values: Settings) -> R:
    """A table as its record: what an older version did not write has today's default, what it alone knew is dropped."""
    return kind.model_validate(dict(values), extra="ignore")


def overridden(settings: Settings) -> Iterator[str]:
    """Settings of the preset that have other values."""
    for section, values in PRESETS["paper"].items():
        for key, theirs in values.items():
            ours = table(settings, section).get(key, theirs)
            if ours != theirs:
                yield f"{section}.{key} = {json.dumps(ours)}; the preset, as their code, has {json.dumps(theirs)}."


def of_models(settings: Settings, benchmark: str) -> Iterator[str]:
    """The models."""
    agent = str(table(settings, "model").get("name", ""))
    optimizer = str(table(settings, "optimizer_model").get("name", agent))
    for role, name, theirs in (
        ("agent", agent, "gpt-3.5-turbo-1106" if benchmark == "tabmwp" else "gpt-4-1106-preview"),
        ("optimizer", optimizer, "gpt-4-1106-preview"),
    ):
        if not name.endswith(theirs):
            yield f"The {role}'s model is {name}; theirs was {theirs}."


def of_agent(agent: AgentConfig, benchmark: str) -> Iterator[str]:
    """How a problem is attempted."""
    if agent.kind == "creator":
        yield "The agent is CREATOR, which learns nothing; theirs were trained."
        return
    if agent.constrain:
        yield "The agent's turns are sampled under a grammar (agent.constrain); theirs could be malformed."
    if agent.constrain and agent.act_first and agent.interpreter:
        yield "The agent must call a function or run code before it answers (agent.act_first); theirs need not."
    if agent.interpreter:
        yield "Learned functions can also be called from the agent's code; theirs could not."
    if agent.max_functions is not None:
        yield f"A problem is offered at most {agent.max_functions} functions (agent.max_functions); theirs all of them."
    if agent.kind == "react" and not agent.one_string_argument:
        yield "Functions take typed arguments (agent.one_string_argument = false); their ReAct agent's took one string."
    theirs = 1.0 if benchmark != "tabmwp" else 0.05 if agent.kind == "function_calling" else 0.0
    if agent.temperature != theirs:
        yield f"agent.temperature = {agent.temperature:g}; theirs was {theirs:g}."
    turns = TURNS.get((benchmark, agent.kind))
    if turns is not None and agent.max_turns != turns:
        yield f"agent.max_turns = {agent.max_turns}; theirs was {turns}."
    yield f"An attempt ends after {agent.max_tokens} generated tokens (agent.max_tokens); theirs had no such limit."


def of_optimizer(optimizer: OptimizerConfig, benchmark: str, n_train: Any) -> Iterator[str]:
    """How updates are made."""
    if optimizer.constrain:
        yield "Actions and sources are sampled under grammars (optimizer.constrain); theirs were free text."
    yield "A new function is called on the shown problems and must not fail; theirs had only to compile."
    if optimizer.max_retries and benchmark != "tabmwp":
        yield (
            f"A draft goes back with its error, up to {optimizer.max_retries} times (optimizer.max_retries); theirs "
            "was sampled again without it."
        )
    if optimizer.temperature != 1.0:
        yield f"optimizer.temperature = {optimizer.temperature:g}; theirs was 1."
    of_all = f"all {n_train}" if n_train is not None else "all"
    yield (
        f"The optimizer is shown at most {optimizer.n_evidence} failed rollouts and {optimizer.n_solved or 'no'} right "
        f"ones for an edit (optimizer.n_evidence, optimizer.n_solved); theirs saw {of_all}, right and wrong."
    )
    if benchmark != "tabmwp":
        yield "The optimizer is shown the expected answers; theirs saw only right or wrong."
    yield "A reply holds one action, and terminate ends the step; theirs applied all actions of a reply and went on."
    if optimizer.n_screen:
        yield "A function is also called on other training problems before it is applied (optimizer.n_screen)."
    if optimizer.max_reflection_tokens:
        yield "A draft says what the results have to be before it writes again (optimizer.max_reflection_tokens)."
    yield "Functions import what optimizer.allowed_packages lists; theirs installed any package."
    if benchmark == "math":
        yield "Answers are graded by mathematical value; theirs by exact text, which is reported beside it."
