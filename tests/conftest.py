"""Fixtures for several test files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user agrees to in tests is not kept in their home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A Ray cluster on this machine for one test file, whose classes may run in actors."""
    import ray

    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.config import RayConfig

    ray.cloudpickle.register_pickle_by_value(request.module)  # actors cannot import test files
    connect(RayConfig())
    yield
    disconnect()
