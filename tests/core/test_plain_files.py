"""What may be at a name in a stranger's folder: only plain files are opened, and nothing waits or grows without end."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agentopt_local import plain_files
from agentopt_local.errors import ConfigError
from agentopt_local.plain_files import MIB, open_plain, own_path, plain_lines, read_plain, write_plain

FLAGS = {
    "reading": os.O_RDONLY,
    "appending": os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    "locking": os.O_RDWR | os.O_CREAT,
}


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (lambda path: path.symlink_to(path.with_name("mine")), "a link"),
    "a link to nothing": (lambda path: path.symlink_to(path.with_name("new")), "a link"),
    "a link to itself": (lambda path: path.symlink_to(path), "a link"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "a link"),
    "a pipe": (os.mkfifo, "a pipe"),
    "a folder": (Path.mkdir, "a folder"),
    "a socket": (a_socket, "a socket"),
}


@pytest.mark.parametrize("how", FLAGS)
@pytest.mark.parametrize("kind", ODD)
def test_nothing_but_a_plain_file_is_opened(
    tmp_path: Path, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEFECTS 6, 10, 13."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    mine = tmp_path / "mine"
    mine.write_text("mine")
    make, words = ODD[kind]
    make(Path("odd") if kind == "a socket" else tmp_path / "odd")
    with pytest.raises(OSError, match=words):
        os.close(open_plain(tmp_path / "odd", FLAGS[how]))
    assert mine.read_text() == "mine"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/fd"])
def test_a_device_that_the_user_names_is_not_read(target: str) -> None:
    with pytest.raises(OSError, match=r"device|folder|pipe"):
        read_plain(Path(target), 10, follow=True)


def test_a_second_name_of_a_file_is_not_written_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    os.link(mine, tmp_path / "odd")
    assert read_plain(tmp_path / "odd", 10) == b"mine"
    with pytest.raises(OSError, match="hard link"):
        open_plain(tmp_path / "odd", os.O_WRONLY)


def test_a_name_that_no_file_can_have() -> None:
    for name in ("a\0b", "\ud800", "x" * 5000):
        with pytest.raises(OSError):
            read_plain(Path(name), 10)


def test_sizes_are_limited_before_and_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"ab\n" * 4)
    assert read_plain(path, 12) == b"ab\n" * 4
    assert list(plain_lines(path)) == [b"ab\n"] * 4
    with pytest.raises(OSError, match="more than 11 bytes"):
        read_plain(path, 11)
    with pytest.raises(OSError, match="more than 7 bytes"):
        list(plain_lines(path, most=7))
    os.truncate(path, 1 << 40)  # a terabyte that takes no room
    with pytest.raises(OSError, match="more than 1 MiB"):
        read_plain(path, MIB)
    monkeypatch.setattr(plain_files, "MAX_LINE", 1000)
    with pytest.raises(OSError, match="a line has more"):
        list(plain_lines(path))
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_plain(Path("/proc/self/status"), 10)  # says that it is empty


def test_a_file_is_replaced_and_what_is_there_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in ("out", ".out.new"):
        (tmp_path / name).symlink_to(mine)
    old = os.umask(0o027)
    try:
        write_plain(tmp_path / "out", b"new")
    finally:
        os.umask(old)
    assert (mine.read_text(), (tmp_path / "out").read_text()) == ("mine", "new")
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640, "as any new file of the user"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_plain(tmp_path / "folder", b"new")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".out.new", "folder", "mine", "out"]


OPEN_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "link to a device": lambda path: path.symlink_to("/dev/null"),
    "link to an open file": lambda path: path.symlink_to("/proc/self/fd/1"),  # as /dev/stdout is
}


@pytest.mark.parametrize("kind", OPEN_FILES)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_file_is_not_replaced_by_one(kind: str, tmp_path: Path) -> None:
    """Root may replace /dev/null, and --output may name it."""
    path = tmp_path / "x"
    OPEN_FILES[kind](path)
    before = path.lstat()
    with pytest.raises(OSError, match="it is a"):
        write_plain(path, b"new")
    assert path.lstat() == before
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208


def test_a_name_that_no_file_can_have_is_not_written() -> None:
    with pytest.raises(OSError, match="no file can have such a name"):
        write_plain(Path("a\0b"), b"new")


def test_a_home_folder_of_nobody() -> None:
    assert own_path("~/x", "task") == Path.home() / "x"
    with pytest.raises(ConfigError, match=re.escape("task: '~nobody-here/x' begins with the home folder")):
        own_path("~nobody-here/x", "task")
