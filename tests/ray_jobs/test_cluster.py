"""Failures to join or start Ray, and where a job stores its runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from agentopt_local.errors import AgentOptError, ConfigError, EngineDeadError
from ray_jobs.cluster import connect
from ray_jobs.config import RayConfig
from ray_jobs.runs import kept


@pytest.mark.parametrize(
    ("address", "kind", "remedy"),
    [(None, EngineDeadError, "agentopt doctor"), ("10.0.0.1:6379", ConfigError, "ray start --head")],
)
@pytest.mark.parametrize("error", [Exception("the node timed out"), RuntimeError("x"), ConnectionError("y")])
def test_whatever_ray_raises_is_told_with_a_remedy(
    address: str | None, kind: type[AgentOptError], remedy: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own start cannot be made to fail at will, so its ``init`` is replaced by one that does."""

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr("ray_jobs.cluster.check_answers", lambda address: None)
    with pytest.raises(kind, match=remedy) as told:
        connect(RayConfig(address=address))
    assert str(error) in str(told.value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where something takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(("given", "source"), [(None, "RAY_ADDRESS"), ("auto", "RAY_ADDRESS"), ("ray", "ray.address")])
def test_an_address_without_a_cluster_is_named_with_its_source(  # X2
    given: str | None, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    if given == "ray":
        given = f"ray://{address}"
    with pytest.raises(ConfigError, match=rf"{source} = '.*{address}': no Ray cluster answers there .*refused"):
        connect(RayConfig(address=given))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_answers_but_is_not_ray_is_given_up_soon(  # X2
    scheme: str, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_jobs.cluster.ANSWER_S", 4.0)
    with pytest.raises(ConfigError, match="does not answer as Ray does"):
        connect(RayConfig(address=f"{scheme}127.0.0.1:{silent_port}"))


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:port", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_a_setting_to_correct(address: str) -> None:
    with pytest.raises(ConfigError, match=f"ray.address = '{address}'"):
        connect(RayConfig(address=address))


def test_a_job_keeps_its_runs_out_of_the_copy_that_ray_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "ray" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    copy.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert kept(Path("runs")) == Path("runs")
    monkeypatch.chdir(copy)
    assert kept(Path("runs")) == tmp_path / "home" / "runs"
    assert kept(Path("/shared/runs")) == Path("/shared/runs")
