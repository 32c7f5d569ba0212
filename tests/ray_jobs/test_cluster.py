"""Joining or starting Ray where that fails."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from agentopt_local.errors import AgentOptError, ConfigError, EngineDeadError
from ray_jobs.cluster import connect
from ray_jobs.config import RayConfig


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
