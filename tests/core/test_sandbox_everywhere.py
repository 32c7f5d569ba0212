"""The sandbox as root, as an ordinary user, behind a container's system call filter, and in a Ray worker.

Each case runs the same program, which must open, attack and print the same everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.sandbox.zygote import syscalls
from tests.tools.confined import (
    CONTAINER_CAPABILITIES,
    NEEDS_ROOT,
    NEEDS_SETPRIV,
    as_user,
    enter_container,
    python_path,
    readable_python,
)

PROGRAM = """
import asyncio, json, os, socket, sys
from agentopt_local.sandbox import SandboxLimits, open_sandbox

ATTACKS = '''
import os, signal, socket, subprocess, threading
def attacks(canary, parent):
    tries = {
        "read": lambda: open(canary).read(),
        "write": lambda: open(canary, "a").close(),
        "chmod": lambda: os.chmod(canary, 0o600),
        "environ": lambda: open(f"/proc/{parent}/environ").read(),
        "memory of the parent": lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
        "socket": lambda: socket.socket(socket.AF_UNIX),
        "fork": lambda: os._exit(0) if os.fork() == 0 else None,
        "exec": lambda: subprocess.run(["/bin/true"]),
        "signal": lambda: os.kill(parent, 0),
        "signal of the parent": lambda: os.kill(os.getppid(), 0),
        "thread": lambda: threading.Thread(target=print).start(),
        "memory": lambda: bytearray(1 << 30),
    }
    through = []
    for name, action in tries.items():
        try:
            action()
            through.append(name)
        except (OSError, RuntimeError, MemoryError):
            pass
    return through
'''
BENIGN = '''
import asyncio, sympy, numpy as np, pandas as pd, wave
async def later(): return 5
def benign():
    open("file", "w").write("x")
    return [sympy.solve("x**2 - 4"), np.arange(2), pd.Series([7]), asyncio.run(later()), open("file").read()]
'''
SECRET = os.environ["CANARY_KEY"]

async def main(canary):
    async with open_sandbox(workers=2, limits=SandboxLimits(timeout_s=60, memory_bytes=512 << 20)) as sandbox:
        attacked = await sandbox.call(ATTACKS, "attacks", {"canary": canary, "parent": os.getpid()})
        looped = await sandbox.run("while True: pass", timeout_s=0.3)
        benign = await sandbox.call(BENIGN, "benign", {})
        leaked = await sandbox.run("import os; dict(os.environ)")
        layers = sandbox.describe_layers()
        launcher = sandbox.describe_processes()["launcher"]
    return {
        "uid": os.getuid(), "through": attacked.value, "error": attacked.error, "looped": looped.status,
        "benign": benign.value or benign.error, "layers": layers, "left": os.path.exists(f"/proc/{launcher}"),
        "leaked": SECRET in leaked.stdout or not leaked.ok,
    }
"""
MAIN = PROGRAM + "\nprint(json.dumps(asyncio.run(main(sys.argv[1]))))\n"


def check(found: dict[str, Any]) -> dict[str, str]:
    """Everything but the layers is the same everywhere."""
    assert (found["through"], found["error"]) == ([], None)
    assert found["looped"] == "timeout"
    assert found["benign"] == [[-2, 2], [0, 1], [7], 5, "x"]
    assert not found["leaked"]
    assert not found["left"]
    layers: dict[str, str] = found["layers"]
    wanted = ("clean_exec", "rlimits", "no_new_privs", "seccomp", "landlock", "self_test", "minimum")
    assert {name: layers[name] for name in wanted} == dict.fromkeys(wanted, "on")
    return layers


@pytest.fixture
def canary() -> Iterator[Path]:
    """A file that every user may write; pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "canary"
        path.write_text("secret")
        path.chmod(0o666)
        yield path


def run(command: list[str], canary: Path, **more: Any) -> dict[str, Any]:
    environment = {"PYTHONPATH": os.pathsep.join(python_path()), "PYTHONDONTWRITEBYTECODE": "1", "CANARY_KEY": "sk-1"}
    done = subprocess.run(
        [*command, "-c", MAIN, str(canary)],
        env=environment, capture_output=True, text=True, timeout=240, check=False, cwd="/", **more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert canary.read_text() == "secret"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_as_this_user(canary: Path) -> None:
    layers = check(run([sys.executable], canary))
    assert layers["uid"] == "on" or os.getuid() != 0 or "not readable for other users" in layers["uid"]


@NEEDS_ROOT
@NEEDS_SETPRIV
@pytest.mark.parametrize("more", [[], ["--no-new-privs"]], ids=["plain", "no_new_privs"])
def test_as_an_ordinary_user(canary: Path, more: list[str]) -> None:
    found = run([*as_user(65534), *more, readable_python()], canary)
    assert found["uid"] == 65534
    assert check(found)["uid"] == "not root: calls keep the user"


@NEEDS_ROOT
@NEEDS_SETPRIV
@pytest.mark.skipif(syscalls.this_machine() is None, reason="an unknown processor")
@pytest.mark.parametrize("user", ["root", "ordinary", "restricted"])
def test_behind_the_filter_of_a_container(canary: Path, user: str) -> None:
    """Root with a container's capabilities; an ordinary user; one under no_new_privs, as Kubernetes restricts it."""
    capabilities = ",".join(f"+{name}" for name in CONTAINER_CAPABILITIES.split())
    command = ["setpriv", f"--bounding-set=-all,{capabilities}", "--inh-caps=-all"]
    python = sys.executable
    if user != "root":
        command += ["--reuid=1000", "--regid=1000", "--clear-groups"]
        python = readable_python()
    if user == "restricted":
        command.append("--no-new-privs")
    layers = check(run([*command, python], canary, preexec_fn=enter_container))
    assert layers["namespaces"] != "on"


def test_in_a_ray_worker(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an actor: its environment is not seen, and nothing is left when it is killed."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

    class Solver:
        def solve(self, program: str, path: str) -> Any:
            import asyncio

            scope: dict[str, Any] = {}
            exec(program, scope)  # our own program: a class of this test module could not be pickled
            return asyncio.run(scope["main"](path))

    environment = {"env_vars": {"CANARY_KEY": "sk-1", "PYTHONPATH": os.pathsep.join(python_path())}}
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False,
        runtime_env=environment, configure_logging=False,
    )  # fmt: skip
    try:
        actor = ray.remote(num_cpus=0)(Solver).remote()
        check(ray.get(actor.solve.remote(PROGRAM, str(canary)), timeout=240))
        assert canary.read_text() == "secret"
    finally:
        ray.shutdown()
