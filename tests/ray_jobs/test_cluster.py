"""Failures to join or start Ray, and where a job stores its runs."""

from __future__ import annotations

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
    with pytest.raises(kind, match=remedy) as told:
        connect(RayConfig(address=address))
    assert str(error) in str(told.value)


def test_a_job_keeps_its_runs_out_of_the_copy_that_ray_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "ray" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    copy.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert kept(Path("runs")) == Path("runs")
    monkeypatch.chdir(copy)
    assert kept(Path("runs")) == tmp_path / "home" / "runs"
    assert kept(Path("/shared/runs")) == Path("/shared/runs")
