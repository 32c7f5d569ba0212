from agentopt_local.task import SPLITS, Problem, Split  # noqa: F401
