"""Running generated Python where it can do no harm.

::

    async with open_sandbox(limits=SandboxLimits(timeout_s=5.0)) as sandbox:
        execution = await sandbox.call("def add(a, b):\\n    return a + b", "add", {"a": 1, "b": 2})
        execution = await sandbox.run("print(add(1, 2))", functions=source)

Importing this package imports none of the scientific libraries; they are loaded in the sandbox's own processes.
What protects the host, what a result may be and what is not covered: ``zygote/lockdown.py``, ``zygote/values.py``.
"""

from agentopt_local.sandbox.base import Execution, ExecutionStatus, Sandbox, SandboxLimits
from agentopt_local.sandbox.fork_server import ForkServerSandbox, describe_layers, open_sandbox

__all__ = [
    "Execution",
    "ExecutionStatus",
    "ForkServerSandbox",
    "Sandbox",
    "SandboxLimits",
    "describe_layers",
    "open_sandbox",
]
