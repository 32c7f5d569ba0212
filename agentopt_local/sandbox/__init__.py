"""Runs generated Python where it can do no harm, in a new process per call.

::

    async with open_sandbox(limits=SandboxLimits(timeout_s=5.0)) as sandbox:
        execution = await sandbox.call("def add(a, b):\\n    return a + b", "add", {"a": 1, "b": 2})
        execution = await sandbox.run("print(add(1, 2))", functions=source)
        executions = await sandbox.call_many(source, "add", [{"a": 1, "b": 2}, {"a": 3, "b": 4}])

Importing this package loads none of the scientific libraries; they are loaded in the sandbox's own processes.

The code may compute, print, import the standard library and installed packages, use asyncio without a network, and
write files in its working folder, which is empty at first and limited. It may not read other files, use the network,
start processes or threads, signal or inspect other processes, or outlive its call. ``describe_layers()`` lists the
layers of protection that enforce this on this machine; docs/safety.md explains them to users.

The same source, arguments and seed give the same result: the global generators of ``random``, numpy and sympy are
seeded, hashes are fixed, the time zone is UTC, the locale is C.UTF-8, and linear algebra uses one thread. The clock is
the machine's; ``os.urandom``, ``secrets``, ``uuid4`` and generators without a seed are truly random; and what depends
on addresses (``id``, the order of a set of objects without a ``__hash__`` of their own) differs between workers.

What may be returned, and as which JSON: :mod:`agentopt_local.sandbox.zygote.values`.

Not covered: a hole in the kernel; the time that other processes take on the same processors; the existence and size of
other files (``stat`` is allowed); and what a function returns, which is up to the function, so check it outside. Linux
only, on x86_64 and aarch64.
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
