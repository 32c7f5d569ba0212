"""Rollouts as Inspect AI logs, written with its own classes so that ``inspect view`` and its analyses can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from agentopt_local import prompts
from agentopt_local.agents.answers import FORMS
from agentopt_local.agents.config import AgentConfig
from agentopt_local.chat import Message, Usage
from agentopt_local.errors import ConfigError
from agentopt_local.exporting.learned import Provenance
from agentopt_local.functions import FunctionSet
from agentopt_local.problem import Problem
from agentopt_local.statistics import wilson
from agentopt_local.trajectory import Step, Trajectory, accuracy, sum_usage
from agentopt_local.version import __version__

SCORER = "agentopt_grade"
LIMITS: dict[str, Literal["turn", "token", "context"]] = {
    "max_turns": "turn",
    "max_tokens": "token",
    "context": "context",
}
"""Stop reasons that correspond to one of Inspect's limits."""


def check_installed() -> None:
    """Raise ConfigError if Inspect AI is not installed."""
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        raise ConfigError("--format inspect needs Inspect AI: pip install 'agentopt-local[inspect]'") from None


def write_log(
    path: Path,
    provenance: Provenance,
    functions: FunctionSet,
    attempts: Sequence[tuple[Problem, Trajectory]],
    *,
    side: str,
    config: Mapping[str, Any],
    prompt_hashes: Mapping[str, str],
) -> None:
    """Write one evaluation as ``path`` (``.eval`` or ``.json``).

    ``side`` names it, such as ``before``. ``config`` holds the run's settings; the agent's kind, form of answer and
    budgets are used. ``prompt_hashes`` come from the run's metadata: the log includes the system prompt only if it has
    not changed since.
    """
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats, write_eval_log

    prompt = "agent_system_functions" if functions.functions else "agent_system"
    agent = AgentConfig.model_validate(config["agent"])
    form = FORMS[agent.answer_form]
    system = None
    if agent.kind == "function_calling" and prompt_hashes.get(prompt) == prompts.hashes()[prompt]:
        system = prompts.fill(prompt, opening=form.opening, closing=form.closing)
    started = moment(provenance.started)
    trajectories = [trajectory for _, trajectory in attempts]
    n = len(attempts)
    log = EvalLog(
        status="success",
        eval=EvalSpec(
            created=started,
            task=f"{provenance.task} {side}",
            dataset=EvalDataset(name=provenance.task, samples=n, sample_ids=[problem.id for problem, _ in attempts]),
            model=f"agentopt/{provenance.model}",
            config=EvalConfig(turn_limit=agent.max_turns, token_limit=agent.max_tokens, epochs=1),
            packages={"agentopt-local": __version__},
            tags=[side, *functions.names],
            metadata={**provenance.model_dump(mode="json", exclude={"test"}), "functions_source": functions.source},
        ),
        results=EvalResults(total_samples=n, completed_samples=n, scores=[_score(trajectories)]),
        stats=EvalStats(
            started_at=started,
            completed_at=started,
            model_usage={f"agentopt/{provenance.model}": _usage(sum_usage(trajectories))},
        ),
        samples=[
            _sample(problem, trajectory, provenance.model, system, config["agent"]) for problem, trajectory in attempts
        ],
    )
    write_eval_log(log, str(path))


def moment(text: str | None) -> str:
    """An ISO 8601 time with its zone, as Inspect requires; the epoch if it is not known."""
    try:
        return datetime.fromisoformat(text or "").astimezone().isoformat()
    except (ValueError, OverflowError):
        return "1970-01-01T00:00:00+00:00"


def _score(trajectories: Sequence[Trajectory]) -> Any:
    from inspect_ai.log import EvalMetric, EvalScore

    share = accuracy(trajectories)
    low, high = wilson(sum(each.correct for each in trajectories), len(trajectories))
    values = {"accuracy": share, "wilson95_low": low, "wilson95_high": high}
    return EvalScore(
        name=SCORER,
        scorer=SCORER,
        scored_samples=len(trajectories),
        unscored_samples=0,
        metrics={name: EvalMetric(name=name, value=value) for name, value in values.items()},
    )


def _sample(
    problem: Problem, trajectory: Trajectory, model: str, system: str | None, budgets: Mapping[str, Any]
) -> Any:
    from inspect_ai.log import EvalSample, EvalSampleLimit
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ModelOutput,
    )
    from inspect_ai.scorer import Score

    messages: list[Any] = [ChatMessageSystem(content=system)] if system else []
    messages.append(ChatMessageUser(content=problem.question))
    for number, step in enumerate(trajectory.steps):
        messages += _turn(step, number)
    usage = _usage(trajectory.usage)
    last = ChatMessageAssistant(content=_said(trajectory.steps[-1].message) if trajectory.steps else "")
    grade = trajectory.grade
    kind = LIMITS.get(trajectory.stop_reason)
    limit = float(budgets.get(trajectory.stop_reason, 0))
    return EvalSample(
        id=problem.id,
        epoch=1,
        input=problem.question,
        target=problem.answer,
        messages=messages,
        output=ModelOutput(model=model, choices=[ChatCompletionChoice(message=last)], usage=usage),
        scores={
            SCORER: Score(
                value=grade.reward,
                answer=trajectory.answer,
                explanation=grade.reason,
            )
        },
        metadata={"kind": problem.kind, "stop_reason": trajectory.stop_reason, "seed": trajectory.seed},
        model_usage={f"agentopt/{model}": usage},
        total_time=trajectory.wall_s,
        working_time=trajectory.wall_s,
        turn_count=len(trajectory.steps),
        limit=EvalSampleLimit(type=kind, limit=limit) if kind else None,
    )


def _turn(step: Step, number: int) -> list[Any]:
    """One turn of the agent and the observations that followed."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ChatMessageUser
    from inspect_ai.tool import ToolCall, ToolCallError

    ids = [f"call_{number}_{index}" for index in range(len(step.message.tool_calls))]
    calls = [
        ToolCall(id=call_id, function=call.name, arguments=call.arguments)
        for call_id, call in zip(ids, step.message.tool_calls, strict=True)
    ]
    messages: list[Any] = [ChatMessageAssistant(content=_said(step.message), tool_calls=calls or None)]
    results = list(step.executed) if calls else []
    for index, observation in enumerate(step.observations):
        if observation.role != "tool" or index >= len(results):
            messages.append(ChatMessageUser(content=observation.content))
            continue
        error = None if results[index].ok else ToolCallError(type="unknown", message=observation.content)
        messages.append(
            ChatMessageTool(
                content=observation.content, tool_call_id=ids[index], function=results[index].name, error=error
            )
        )
    return messages


def _said(message: Message) -> Any:
    """A turn's text, after its thought if it has one."""
    from inspect_ai.model import ContentReasoning, ContentText

    if not message.thought:
        return message.content
    spoken = [ContentText(text=message.content)] if message.content else []
    return [ContentReasoning(reasoning=message.thought), *spoken]


def _usage(usage: Usage) -> Any:
    from inspect_ai.model import ModelUsage

    return ModelUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        input_tokens_cache_read=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        reasoning_tokens=usage.thought_tokens or None,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
