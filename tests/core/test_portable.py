"""Names that MCP clients, providers and package tools take."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from agentopt_local.errors import ConfigError
from agentopt_local.exporting.package import check_name, default_name
from agentopt_local.exporting.portable import portable_specs, server_name
from agentopt_local.functions import FunctionSet

PROVIDERS = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def functions(name: str = "add", parameter: str = "x") -> FunctionSet:
    return FunctionSet.of(f"def {name}({parameter}: int) -> int:\n    'Do.'\n    return 1\n")


CLIENTS: list[Callable[[str, str], str]] = [
    lambda server, tool: f"mcp__{server}__{tool}",
    lambda server, tool: f"mcp_{server}_{tool}",
    lambda server, tool: f"{server}-{tool}",
    lambda server, tool: f"{server}__{tool}",
]
RUNS = [
    pytest.param("Words & numbers", id="M1"),
    "runs 2024-05-01 12:30:00",
    "größer",
    "数学",
    "a" * 200,
    "__init__",
    "-- x --",
    "a__b___c",
    "",
    "\udcff\x1b[31m",
    "e\u0301" + "\u0301" * 500,
    "v1.2/β",
    "😀",
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("tool", ["f", "a" * 40, "a" * 56])
def test_every_run_has_a_server_name_that_all_clients_take(run: str, tool: str) -> None:
    name = server_name(None, run, functions(tool))
    assert "__" not in name, "clients split the name of a tool there"
    for client in CLIENTS:
        assert PROVIDERS.fullmatch(client(name, tool)), client(name, tool)
    assert len(name) + len(tool) < 60, "Cursor leaves out longer ones"
    assert server_name(name, run, functions(tool)) == name


def test_readable_names_stay_readable() -> None:
    assert server_name(None, "Words & numbers", functions()) == "Words-numbers"
    assert server_name(None, "my_tools", functions()) == "my-tools"
    assert server_name(None, "größer", functions()) == "gro-er"
    assert server_name(None, "数学", functions()) == "functions"
    assert default_name("Words & numbers") == "learned_words_numbers"


@pytest.mark.parametrize(
    "name", ["Words & numbers", "a__b", "-a", "a-", "größe", "", "a.b", "a b", "a/b", "a\n", "mcp:x"]
)
def test_a_wanted_server_name_that_clients_refuse_is_an_error_with_a_remedy(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^--name .* cannot be the name of an MCP server.*use for example '"
    ) as error:
        server_name(name, "x", functions())
    suggested = str(error.value).rpartition("example '")[2].rstrip("'")
    assert server_name(suggested, "x", functions()) == suggested


def test_names_that_are_too_long_together_are_told() -> None:
    with pytest.raises(
        ConfigError, match=r"has 50 characters; with the function 'a{20}', MCP clients leave room for 37"
    ):
        server_name("s" * 50, "x", functions("a" * 20))
    with pytest.raises(
        ConfigError, match="has 57 characters, and MCP clients put their own names before it; 56 is the"
    ):
        server_name(None, "x", functions("a" * 57))


@pytest.mark.parametrize(
    ("name", "parameter", "told"),
    [
        ("größe", "x", "the function 'größe' cannot be a tool there"),
        ("a" * 65, "x", "the function 'a{65}' cannot be a tool there"),
        ("add", "größe", "the parameter 'größe' of the function 'add' cannot be a tool there"),
    ],
)
def test_functions_of_old_runs_that_providers_refuse_are_told(name: str, parameter: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        portable_specs(functions(name, parameter))


@pytest.mark.parametrize("run", RUNS)
def test_every_run_has_a_package_name(run: str) -> None:
    name = default_name(run)
    check_name(name, functions())
    assert len(name) <= 64
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name)


@pytest.mark.parametrize(
    "name",
    ["my_tools_", "_x", "a" * 65, "größe", "1a", "a-b", "a.b", "", "class", "a\n", "tests", "Tests", "pytest", "check",
     "json_values", "conftest", "JSON", "math"],
)  # fmt: skip
def test_a_package_name_that_something_refuses_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be the name of a package|would hide the module"):
        check_name(name, functions())
