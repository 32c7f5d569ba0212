"""The agent that a configuration describes."""

from __future__ import annotations

from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.creator import CreatorAgent, CreatorDialect
from agentopt_local.agents.dialect import Dialect
from agentopt_local.agents.function_calling import FunctionCallingDialect
from agentopt_local.agents.loop import ChatAgent
from agentopt_local.agents.react import ReactDialect
from agentopt_local.chat import ChatModel, Thinking
from agentopt_local.sandbox.base import Sandbox


def make_agent(
    model: ChatModel, sandbox: Sandbox, config: AgentConfig, thinking: Thinking | None = None, *, asked: bool = False
) -> ChatAgent:
    """An agent of ``config.kind`` that talks to ``model`` and runs code in ``sandbox``; it closes neither.

    ``thinking``: how the model thinks before each turn. ``asked``: whether people ask it, rather than a data set; then
    a question that is unlike all source questions is offered all functions.
    """
    made = CreatorAgent if config.kind == "creator" else ChatAgent
    agent = made(model, sandbox, config, dialect_of(config), thinking)
    agent.retrieval.strict = not asked
    return agent


def dialect_of(config: AgentConfig) -> Dialect:
    """How an agent of ``config.kind`` writes its turns."""
    if config.kind == "creator":
        return CreatorDialect(config)
    return ReactDialect(config) if config.kind == "react" else FunctionCallingDialect(config)
