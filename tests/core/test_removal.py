"""Folders are removed whole, and nothing outside them is removed or changed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentopt_local.errors import SandboxError
from agentopt_local.exporting.writing import MARKER, new_folder
from agentopt_local.functions import FunctionSet
from agentopt_local.run.files import write_functions
from agentopt_local.sandbox.folders import make_root, remove_root, sweep
from agentopt_local.sandbox.zygote import removal
from agentopt_local.sandbox.zygote.scratch import ScratchUse

STRANGER = 4321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder to another user")


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder that must stay as it is."""
    folder = tmp_path / "victim"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_text("kept")
    (folder / "inner" / "file").write_text("kept")
    (folder / "inner").chmod(0o500)
    folder.chmod(0o750)
    yield folder
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "inner").stat().st_mode & 0o777 == 0o500
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "file", "inner"]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's folder for sandboxes, in a temporary folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"agentopt-{os.geteuid()}"


def as_user(uid: int, action: Callable[[], None]) -> None:
    """Run ``action`` in a process of another user; fails if it raises."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def old_lock(path: Path) -> Path:
    lock = path.with_name(path.name + ".lock")
    lock.touch()
    os.utime(lock, (0, 0))
    return lock


def test_a_folder_of_any_shape_is_removed(tmp_path: Path, victim: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for depth in range(1500):  # deeper than a path can be long
        os.mkdir("d" * 50, dir_fd=here)
        inner = os.open("d" * 50, os.O_RDONLY, dir_fd=here)
        if depth % 100 == 0:
            os.close(os.open(f"file{depth}", os.O_CREAT, dir_fd=here))
        os.close(here)
        here = inner
    os.close(here)
    (top / "closed").mkdir(0)
    (top / "0").mkdir()
    (top / "0" / "0").mkdir()
    (top / "1").write_text("x")
    (top / "outside").symlink_to(victim)
    (top / "closed" / "outside").symlink_to(victim / "inner")
    os.mkfifo(top / "pipe")
    removal.remove(top)
    assert not top.exists()
    removal.remove(top)  # none there is fine


@needs_root
def test_closed_folders_are_removed_without_privileges() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, STRANGER, STRANGER)

        def work() -> None:
            top = Path(folder) / "top"
            (top / "a" / "b").mkdir(parents=True)
            (top / "a" / "b" / "file").touch()
            for path, mode in ((top / "a" / "b", 0o300), (top / "a", 0), (top, 0o500)):
                path.chmod(mode)
            removal.remove(top, (STRANGER,))
            assert not top.exists()

        as_user(STRANGER, work)


def test_a_link_is_not_a_folder(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(NotADirectoryError):
        removal.remove(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("seed", range(4))
def test_links_that_are_swapped_in_meanwhile_are_not_followed(tmp_path: Path, victim: Path, seed: int) -> None:
    """The swapper exchanges a folder for a link and back, at the top and below, as fast as it can."""
    generator = random.Random(seed)
    done = threading.Event()
    swaps = 0

    def swap(parent: Path) -> None:
        nonlocal swaps
        folder, aside = parent / "swapped", parent / "aside"
        while not done.is_set():
            try:
                folder.rename(aside)
                folder.symlink_to(victim)
                time.sleep(generator.random() * 1e-4)
                folder.unlink()
                aside.rename(folder)
                swaps += 1
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
                    raise
                folder.is_symlink() and folder.unlink(missing_ok=True)
                if not parent.exists():
                    return

    for _ in range(15):
        top = tmp_path / "top"
        for each in (top, top / "below"):
            (each / "swapped" / "deep" / "deeper").mkdir(parents=True)
            for number in range(30):
                (each / "swapped" / f"file{number}").touch()
        done.clear()
        threads = [threading.Thread(target=swap, args=(parent,)) for parent in (top, top / "below")]
        for thread in threads:
            thread.start()
        time.sleep(generator.random() * 1e-3)
        try:
            removal.remove(top)
        except OSError as error:
            assert error.errno in (errno.EBUSY, errno.ENOTEMPTY)  # it may give up, but not go astray
        done.set()
        for thread in threads:
            thread.join()
        removal.remove(top)
        assert (victim / "file").exists() and (victim / "inner" / "file").exists()
    assert swaps > 0


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("step", ["open", "fstat", "scandir", "unlink", "rename", "rmdir", "chmod", "stat"])
def test_a_link_swapped_in_before_any_step_is_not_followed(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, step: str, place: str
) -> None:
    """A folder becomes a link to the victim before the first, the second, ... use of a system call."""
    original = getattr(os, step)
    count, uses = 0, 1
    swapped_in = []

    def use(*arguments: object, **named: object) -> object:
        nonlocal count
        count += 1
        if count == uses:
            with monkeypatch.context() as undone, contextlib.suppress(FileNotFoundError):
                undone.setattr(os, step, original)
                (top / place).rename(tmp_path / f"away{uses}")
                (top / place).symlink_to(victim)
                swapped_in.append(uses)
        return original(*arguments, **named)

    while uses == 1 or count >= uses - 1:
        top = tmp_path / f"top{uses}"
        (top / "a" / "b" / "c").mkdir(parents=True)
        (top / "a" / "file").touch()
        (top / "a" / "b" / "c" / "file").touch()
        (top / "a" / "b").chmod(0o300)
        count = 0
        with monkeypatch.context() as patched:
            patched.setattr(os, step, use)
            removal.remove(top)
        assert not top.exists()
        uses += 1
    assert swapped_in or place != "a"


@needs_root
def test_folders_of_others_are_neither_entered_nor_changed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    theirs = [top / "theirs", top / "deep" / "deeper" / "theirs"]
    for path in theirs:
        path.mkdir(parents=True)
        (path / "file").write_text("kept")
        os.chown(path, STRANGER, STRANGER)
        path.chmod(0o500)
    (top / "deep" / "file").touch()
    for _ in range(2):
        with pytest.raises(OSError, match="belongs to others"):
            removal.remove(top, (0,))
    found = sorted(path for path in top.rglob("theirs"))
    assert len(found) == 2
    assert all((path.stat().st_mode & 0o777, (path / "file").read_text()) == (0o500, "kept") for path in found)
    assert not list(top.rglob("deep/file"))
    removal.remove(top, (0, STRANGER))
    assert not top.exists()


def test_folders_of_dead_sandboxes_are_swept(base: Path) -> None:
    (old, old_held), (used, used_held) = make_root(), make_root()
    (old / "w0").mkdir()
    os.close(old_held)
    locks = [old_lock(path) for path in (old, used)]
    young, young_held = make_root()
    os.close(young_held)
    sweep()
    assert [path.exists() for path in (old, locks[0], used, locks[1], young)] == [False, False, True, True, True]
    os.close(used_held)
    with locks[1].open() as holder:  # as a launcher whose trainer has died
        fcntl.flock(holder, fcntl.LOCK_SH)
        sweep()
        assert used.exists()
    sweep()
    assert not used.exists()
    remove_root(young)
    assert list(base.iterdir()) == []


def test_a_sweep_leaves_what_it_did_not_make(base: Path, victim: Path) -> None:
    make_root()  # makes the base
    for folder in (base, base.parent):
        (folder / "agentopt-sandbox-e").symlink_to(victim)
        old_lock(folder / "agentopt-sandbox-e")
        (folder / "sandbox-linked.lock").symlink_to(victim / "file")
        os.mkfifo(folder / "sandbox-pipe.lock")
    (base.parent / "agentopt-sandbox-f").mkdir()
    old_lock(base.parent / "agentopt-sandbox-f")
    sweep()
    assert (base.parent / "agentopt-sandbox-f").exists()
    assert (base / "agentopt-sandbox-e").is_symlink()
    assert (victim / "file").read_text() == "kept"


@needs_root
def test_a_sweep_leaves_what_belongs_to_others(base: Path) -> None:
    roots = []
    for theirs in ("lock", "folder"):
        root, held = make_root()
        os.close(held)
        lock = old_lock(root)
        (root / "file").write_text("kept")
        os.chown(lock if theirs == "lock" else root, STRANGER, STRANGER)
        roots.append(root)
    sweep()
    assert [(root / "file").read_text() for root in roots] == ["kept", "kept"]


def test_the_folder_of_a_user_is_closed_to_others(base: Path) -> None:
    base.mkdir(0o777)
    base.chmod(0o777)
    root, held = make_root()
    os.close(held)
    for path in (base, root):
        assert path.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    assert root.with_name(root.name + ".lock").stat().st_mode & 0o777 == 0o600


@needs_root
def test_an_ordinary_users_folder_is_closed_to_all_others() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, STRANGER, STRANGER)

        def work() -> None:
            tempfile.tempdir = folder
            root, _ = make_root()
            assert {path.stat().st_mode & 0o777 for path in (root, root.parent)} == {0o700}

        as_user(STRANGER, work)


def test_a_link_in_place_of_the_users_folder_is_refused(base: Path, victim: Path) -> None:
    base.symlink_to(victim)
    for action in (sweep, make_root):
        with pytest.raises(SandboxError, match=rf"{base} must be a folder of this user's own.*set TMPDIR"):
            action()


@needs_root
def test_another_users_folder_is_refused(base: Path) -> None:
    base.mkdir()
    base.chmod(0o755)
    os.chown(base, STRANGER, STRANGER)
    for action in (sweep, make_root):
        with pytest.raises(SandboxError, match="belongs to user 4321"):
            action()
    assert base.stat().st_mode & 0o777 == 0o755
    assert list(base.iterdir()) == []


def test_functions_and_exports_replace_no_linked_folder(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "functions").symlink_to(victim)
    with pytest.raises(Exception, match="functions cannot be written"):
        write_functions(tmp_path / "functions", FunctionSet(functions=()))
    with new_folder(tmp_path / "out", force=False):
        pass
    (tmp_path / "out" / "link").symlink_to(victim)
    (tmp_path / "out" / "closed").mkdir(0)
    with new_folder(tmp_path / "out", force=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["functions", "out", "victim"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MARKER]


@needs_root
@pytest.mark.parametrize(("mode", "over"), [(0o300, True), (0o700, False)])
def test_a_folder_that_cannot_be_listed_counts_as_over_its_limit(mode: int, over: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        inner = Path(folder) / "inner"
        inner.mkdir()
        inner.chmod(mode)
        os.chown(inner, STRANGER, STRANGER)

        def work() -> None:
            assert ScratchUse(folder, 1 << 20).is_over() == over

        as_user(STRANGER, work)


def test_a_process_that_is_killed_while_it_removes_leaves_no_harm(tmp_path: Path, victim: Path) -> None:
    top = tmp_path / "top"
    for number in range(300):
        (top / str(number) / "a" / "b").mkdir(parents=True)
        (top / str(number) / "link").symlink_to(victim)
    pid = os.fork()
    if pid == 0:
        removal.remove(top)
        os._exit(0)
    time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    removal.remove(top)
    assert not top.exists()
