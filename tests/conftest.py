"""Fixtures for several test files, and which of them may run at the same time."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling


@cache
def is_heavy(file: Path) -> bool:
    """Whether a test file starts engines or a Ray cluster."""
    text = file.read_text("utf-8")
    return any(mark in text for mark in ("mark.engine", 'usefixtures("cluster")', "cluster: None"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Heavy files come first: they take longest."""
    items.sort(key=lambda item: not is_heavy(item.path))


class OneHeavyFile(LoadFileScheduling):
    """Two files run at the same time, but never two heavy ones: they would share the cores of a small machine."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "heavy" if is_heavy(self.config.rootpath / file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneHeavyFile:
    """Called with ``--numprocesses``."""
    return OneHeavyFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user agrees to in tests is not kept in their home folder, and sandboxes of other tests are not seen."""
    state = tmp_path_factory.mktemp("state")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, also for all that tests start
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Not below pytest's own folder: the sockets that Ray makes there would have too long a path.
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
