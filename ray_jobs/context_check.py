"""Whether budgets of prompts and replies fit the models' contexts, as far as these are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from agentopt_local import prompts
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.make import dialect_of
from agentopt_local.errors import ConfigError
from agentopt_local.evidence import CHARS_PER_TOKEN
from agentopt_local.fitting import reserve
from agentopt_local.functions import FunctionSet
from agentopt_local.run.rows import Role
from agentopt_local.signatures import TYPES_ALLOWED
from agentopt_local.update import OptimizerConfig
from ray_jobs.model_config import ModelConfig
from ray_jobs.model_size import Hosting
from serving.engine_config import EngineConfig

FEW_CHARS, MANY_CHARS = 3.5, 4.8
"""Characters of a token of our own prompts: of the tokenizers in use, the one that needs most and the one that needs
fewest tokens lie between them."""
LEAST_PROBLEM = 40
"""Tokens of a problem and what a chat template puts around it."""
QUESTION = 200
"""Tokens of an ordinary problem."""


class Settings(Hosting, Protocol):
    """The settings of a run that decide about contexts."""

    @property
    def agent(self) -> AgentConfig: ...
    @property
    def optimizer(self) -> OptimizerConfig: ...


class Context(NamedTuple):
    """A model's context."""

    key: str
    """The setting that decides about it."""
    tokens: int


def configured(config: Settings) -> dict[Role, Context]:
    """The contexts that the settings state; those of other models are known when they have been opened."""
    roles: dict[Role, tuple[ModelConfig, EngineConfig]] = {
        "agent": (config.model, config.engine),
        "optimizer": (config.optimizer_model or config.model, config.optimizer_engine or config.engine),
    }
    keys = {role: key_of(config, role) for role in roles}
    return {
        role: Context(keys[role], engine.max_model_len)
        for role, (model, engine) in roles.items()
        if model.base_url is None and engine.pool_name is None and isinstance(engine.max_model_len, int)
    }


def key_of(config: Settings, role: Role) -> str:
    """The setting that decides about the context of a role's model."""
    own = role == "optimizer" and config.optimizer_engine is not None
    return f"{'optimizer_engine' if own else 'engine'}.max_model_len"


def check_context(config: Settings, source: str, contexts: Mapping[Role, Context] | None = None) -> None:
    """Raise ConfigError, naming ``source``, if a model could not even write one reply in its context.

    ``contexts``: of the opened models; None: as the settings state them.
    """
    contexts = configured(config) if contexts is None else contexts
    if (context := contexts.get("agent")) is not None:
        fixed = int(len(system_prompt(config.agent)) / MANY_CHARS) + LEAST_PROBLEM
        require(source, context, "agent", fixed, ("agent.max_turn_tokens", config.agent.max_turn_tokens))
    if (context := contexts.get("optimizer")) is not None:
        fixed = int(len(rules(config.optimizer)) / MANY_CHARS) + LEAST_PROBLEM
        require(
            source, context, "optimizer", fixed, ("optimizer.max_source_tokens", config.optimizer.max_source_tokens)
        )


def require(source: str, context: Context, role: Role, fixed: int, reply: tuple[str, int]) -> None:
    """Raise ConfigError if prompt and reply are longer than the context."""
    key, most = reply
    if context.tokens >= fixed + most:
        return
    needed = -(-(fixed + most) // 256) * 256
    raise ConfigError(
        f"{source}: {context.key} = {context.tokens} has no room for the {role}: its prompt takes at least {fixed} "
        f"tokens and its reply up to {key} = {most}; set {context.key} to {needed} or more, or lower {key}"
    )


def context_notes(config: Settings, contexts: Mapping[Role, Context] | None = None) -> Iterator[str]:
    """What of the budgets will not fit, in lines; ``contexts`` as in :func:`check_context`."""
    contexts = configured(config) if contexts is None else contexts
    agent, optimizer = config.agent, config.optimizer
    if (context := contexts.get("optimizer")) is not None:
        prompt = int(len(rules(optimizer)) / FEW_CHARS) + optimizer.evidence_tokens
        wanted = prompt + reserve(optimizer, optimizer.n_evidence, min(1, optimizer.max_retries))
        if wanted > context.tokens:
            yield (
                f"{context.key} = {context.tokens}: the optimizer's budgets allow for {wanted} tokens, so it will be "
                "shown less than optimizer.evidence_tokens"
            )
    if (context := contexts.get("agent")) is not None:
        results = (agent.max_turns - 1) * agent.max_result_chars // CHARS_PER_TOKEN
        wanted = int(len(system_prompt(agent)) / FEW_CHARS) + QUESTION + agent.max_tokens
        if wanted > context.tokens:
            yield (
                f"{context.key} = {context.tokens}: an attempt may take {wanted} tokens by agent.max_tokens, and up to "
                f"{results} more of results; one that outgrows the context ends there"
            )


def system_prompt(agent: AgentConfig) -> str:
    """The agent's, without functions."""
    return dialect_of(agent).system(FunctionSet())


def rules(optimizer: OptimizerConfig) -> str:
    """What the optimizer's prompts say besides the evidence, functions and failed updates."""
    empty = dict.fromkeys(("one_text", "functions", "failures", "transcripts"), "")
    text = prompts.fill("optimizer", types=TYPES_ALLOWED, packages=", ".join(optimizer.allowed_packages), **empty)
    return text + prompts.fill("write_source", name="a_function")
