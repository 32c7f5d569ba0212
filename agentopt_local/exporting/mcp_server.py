"""Learned functions as tools of the Model Context Protocol; every call runs in the sandbox.

An error, timeout or crash in a function is a tool error, which the client's model can read and act on. The server keeps
running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

from agentopt_local.calling import call_function
from agentopt_local.errors import ConfigError, SandboxError
from agentopt_local.exporting.portable import portable_specs
from agentopt_local.functions import FunctionSet, render_value
from agentopt_local.models.wire import with_items
from agentopt_local.sandbox.base import Sandbox
from agentopt_local.version import __version__

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
"""Loopback only: the server has no authentication, so other machines must not reach it."""
PATH = "/mcp"
INSTRUCTIONS = (
    "Functions that a language model agent learned. They run in a sandbox without network and files; a call that "
    "takes too long is ended."
)


def check_installed() -> None:
    """Raise ConfigError if the protocol's SDK is missing or too old."""
    try:
        import mcp_types  # noqa: F401  - the name is new in 2.0
        from mcp.server.lowlevel import Server  # noqa: F401
    except ImportError:
        raise ConfigError("this needs the MCP SDK, 2.2 or newer: pip install 'agentopt-local[mcp]'") from None


def mcp_server(name: str, functions: FunctionSet, sandbox: Sandbox, *, timeout_s: float) -> Any:
    """An ``mcp.server.lowlevel.Server`` with one tool per function. ``timeout_s``: wall-clock limit of one call.

    Raises ConfigError if a function cannot be a tool.
    """
    import mcp_types as types
    from mcp.server.lowlevel import Server

    tools = [
        types.Tool(name=spec.name, description=spec.description, input_schema=with_items(spec.parameters))
        for spec in portable_specs(functions)
    ]

    async def list_tools(context: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Any, params: Any) -> Any:
        text, ok = await call(params.name, params.arguments or {})
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=not ok)

    async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        try:
            execution = await call_function(sandbox, functions, name, arguments, timeout_s=timeout_s)
        except SandboxError as error:
            log.error("%s: %s", name, error)
            return f"the sandbox could not run {name}: {error}", False
        return (render_value(execution.value), True) if execution.ok else (execution.error or execution.status, False)

    return Server(
        name, version=__version__, instructions=INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool
    )


async def serve_stdio(server: Any) -> None:
    """Serve one client over standard input and output, until it closes them."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(server: Any, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve clients on this machine over streamable HTTP, until cancelled. ``port`` 0 selects a free port.

    ``on_ready`` is called with the address. Requests for another host name are rejected, so that a page in a browser
    cannot reach the server through a domain of its own. Raises ConfigError if the port is taken.
    """
    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # clients can connect as soon as on_ready is called
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"--http {port}: {HOST}:{port} cannot be used ({error}); give another port, or 0") from None
    with listener:
        on_ready(f"http://{HOST}:{listener.getsockname()[1]}{PATH}")
        app = server.streamable_http_app(streamable_http_path=PATH, host=HOST)
        http = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        http.capture_signals = contextlib.nullcontext  # the command handles signals
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            http.should_exit = True
            await serving
            raise


def client_config(name: str, command: list[str]) -> dict[str, Any]:
    """The entry for MCP clients' ``mcp.json`` or settings: start ``command`` and talk to it over stdio."""
    return {"mcpServers": {name: {"command": command[0], "args": command[1:]}}}
