"""The MCP server of a trained run, called by the SDK's own client over both transports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from ray_jobs.cli import main

ROOT = str(Path(__file__).resolve().parents[3])
HANGS = 'def hangs(n: int) -> int:\n    """Never returns."""\n    while True:\n        n += 1\n'
DIES = 'def dies() -> str:\n    """Ends its process."""\n    import random\n\n    random._os._exit(3)\n'
Ask = Callable[[Any], Awaitable[Any]]


def serving(path: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "ray_jobs.cli", "serve-mcp", str(path), *more]


def over_stdio(ask: Ask, command: list[str]) -> Any:
    """``ask`` with a client that starts the server."""
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    async def talk(errors: TextIO) -> Any:
        started = StdioServerParameters(command=command[0], args=command[1:], env={"PYTHONPATH": ROOT})
        async with Client(stdio_client(started, errlog=errors)) as client:
            return await ask(client)

    with Path(os.devnull).open("w") as errors:  # pytest's own standard error is no file
        return asyncio.run(talk(errors))


@pytest.fixture
def http(tools: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server over HTTP: its address and its process."""
    process = subprocess.Popen(
        serving(tools, "--http", "0", "--timeout", "0.5"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/mcp", line)
        assert found, line
        yield found[0], process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def tools(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's functions and two that misbehave, as a folder."""
    folder = tmp_path_factory.mktemp("tools") / "set"
    assert main(["import", str(run), "--output", str(folder)]) == 0
    (folder / "hangs.py").write_text(HANGS)
    return folder


async def everything(client: Any) -> dict[str, Any]:
    """List, call, an error, wrong arguments, an unknown name, a time-out, and calls after all that."""
    calls = {
        "right": ("factor", {"n": 360}),
        "whole": ("factor", {"n": 360.0}),
        "error": ("factor", {"n": -1, "more": 2}),
        "raises": ("lucky", {"x": 10**400}),
        "unknown": ("nothing", {}),
        "late": ("hangs", {"n": 1}),
        "after": ("reverse", {"word": "drawer"}),
    }
    results = {key: await client.call_tool(*call) for key, call in calls.items()}
    many = await asyncio.gather(*(client.call_tool("reverse", {"word": f"w{i}"}) for i in range(10)))
    listed = (await client.list_tools()).tools
    return {
        "listed": {tool.name: (tool.description, tool.input_schema) for tool in listed},
        "results": {key: (each.is_error, each.content[0].text) for key, each in results.items()},
        "many": [each.content[0].text for each in many],
    }


def check(told: dict[str, Any]) -> None:
    assert set(told["listed"]) == {"lucky", "reverse", "factor", "hangs"}
    description, schema = told["listed"]["reverse"]
    assert description == "Return word reversed."
    assert schema["properties"] == {"word": {"type": "string"}}
    assert schema["required"] == ["word"]
    results = told["results"]
    assert results["right"] == results["whole"] == (False, "2^3*3^2*5")
    assert results["error"] == (True, "factor: no such argument: more")
    assert results["raises"][0] is True
    assert "OverflowError" in results["raises"][1]
    assert results["unknown"] == (True, "there is no function 'nothing'; there are: factor, hangs, lucky, reverse")
    assert results["late"][0] is True
    assert results["late"][1].startswith("TimeoutError: no result within 0.5 s")
    assert results["after"] == (False, "reward")
    assert told["many"] == [f"{i}w" for i in range(10)]


def test_a_client_over_stdio(tools: Path) -> None:
    check(over_stdio(everything, serving(tools, "--timeout", "0.5")))


def test_a_client_over_http(http: tuple[str, subprocess.Popen[str]]) -> None:
    from mcp import Client

    async def talk() -> dict[str, Any]:
        async with Client(http[0]) as client, Client(http[0]) as other:
            assert not (await other.call_tool("reverse", {"word": "a"})).is_error
            return await everything(client)

    check(asyncio.run(talk()))
    process = http[1]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err) == ("", ""), "the server ends without noise"


def test_a_page_under_another_name_is_refused(http: tuple[str, subprocess.Popen[str]]) -> None:
    """DNS rebinding: a browser that was told that evil.test is 127.0.0.1 sends that name as Host and Origin."""
    import httpx

    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}
    for wrong in ({"Host": "evil.test"}, {"Origin": "http://evil.test"}):
        assert httpx.post(http[0], json=body, headers=headers | wrong).status_code in (403, 421)


def test_a_taken_port_is_told(http: tuple[str, subprocess.Popen[str]], tools: Path) -> None:
    port = http[0].split(":")[2].split("/")[0]
    command, environment = serving(tools, "--http", port), {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 2
    assert f"--http {port}: 127.0.0.1:{port} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_exported_entry_starts_the_server_of_the_run(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    assert main(["export", str(run), "--format", "mcp", "--output", str(file), "--name", "words"]) == 0
    entry = json.loads(file.read_text())["mcpServers"]["words"]

    async def ask(client: Any) -> Any:
        return (await client.list_tools()).tools, await client.call_tool("reverse", {"word": "live"})

    listed, result = over_stdio(ask, [entry["command"], *entry["args"]])
    assert [tool.name for tool in listed] == ["lucky", "reverse", "factor"]
    assert result.content[0].text == "evil"


def test_a_function_sees_no_file_and_no_network_of_the_machine(tmp_path: Path) -> None:
    """It runs in the sandbox, not in the server."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the key")
    tool = tmp_path / "peek.py"
    tool.write_text(
        'def peek(path: str) -> str:\n    """Read a file."""\n    return open(path).read()\n\n\n'
        'def pid() -> int:\n    """Its process."""\n    import random\n\n    return random._os.getpid()\n\n\n' + DIES
    )  # fmt: skip

    async def ask(client: Any) -> Any:
        calls = [("peek", {"path": str(secret)}), ("dies", {}), ("pid", {})]
        return [await client.call_tool(*call) for call in calls]

    peek, dies, pid = over_stdio(ask, serving(tool))
    assert peek.is_error
    assert "PermissionError" in peek.content[0].text
    assert dies.is_error
    assert "ended without a result" in dies.content[0].text
    assert not pid.is_error
