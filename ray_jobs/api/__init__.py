"""The Python API: the names that ``import agentopt_local as ao`` offers. ``docs/python.md`` shows each in use."""

from __future__ import annotations

from agentopt_local.callback import Callback
from agentopt_local.chat import ChatReply, ChatRequest, Message, Usage
from agentopt_local.errors import AgentOptError, BudgetError, ConfigError, ModelError, RunDirError
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.problem import Problem
from agentopt_local.run.contribution import Credit
from agentopt_local.run.report import Certificate, NoiseFloor, Report
from agentopt_local.run.rows import MetricRow, StepRow
from agentopt_local.stage import Stage
from agentopt_local.trajectory import Attempt, Trajectory
from ray_jobs.api.endpoint import Endpoint
from ray_jobs.api.entry import aresume, atrain, load, resume, train
from ray_jobs.api.finished_run import Run
from ray_jobs.api.measuring import acertify, acredit, aevaluate, certify, credit, evaluate
from ray_jobs.api.task_data import task
from ray_jobs.api.trained_agent import TrainedAgent

__all__ = [
    "AgentOptError",
    "Attempt",
    "BudgetError",
    "Callback",
    "Certificate",
    "ChatReply",
    "ChatRequest",
    "ConfigError",
    "Credit",
    "Endpoint",
    "Function",
    "FunctionSet",
    "Grade",
    "Message",
    "MetricRow",
    "ModelError",
    "NoiseFloor",
    "Problem",
    "Report",
    "Run",
    "RunDirError",
    "ScriptedChatModel",
    "Stage",
    "StepRow",
    "TrainedAgent",
    "Trajectory",
    "Usage",
    "acertify",
    "acredit",
    "aevaluate",
    "aresume",
    "atrain",
    "certify",
    "credit",
    "evaluate",
    "load",
    "resume",
    "task",
    "train",
]
