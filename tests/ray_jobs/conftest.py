"""What several tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray_jobs.test_endpoint_training import Endpoint
from tests.ray_jobs.test_endpoint_training import agent as shouting_agent
from tests.ray_jobs.test_endpoint_training import optimizer as shouting_optimizer


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Both roles behind an OpenAI-compatible address."""
    server = Endpoint(
        lambda body: shouting_optimizer(body) if body["messages"][0]["role"] == "user" else shouting_agent(body)
    )
    yield server.url
    server.shutdown()
    server.server_close()
