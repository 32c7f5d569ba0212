"""Fixtures for several test files, and which of them may run at the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files may run at the same time, but those with an engine or a cluster run one after another, and first.

    They are the longest, and two engines would share the cores and the memory of a small machine.
    """
    heavy = {item.path for item in items if item.get_closest_marker("engine") or "cluster" in item.fixturenames}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("engine" if item.path in heavy else str(item.path)))
    items.sort(key=lambda item: item.path not in heavy)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user agrees to in tests is not kept in their home folder, and sandboxes of other tests are not seen."""
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ao-", dir="/tmp") as own:
        Path(own).chmod(0o1777)  # sandboxes that run as another user pass through it
        patch.setenv("XDG_STATE_HOME", str(state))
        patch.setenv("TMPDIR", own)
        patch.setattr(tempfile, "tempdir", own)
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
