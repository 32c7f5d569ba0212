"""Pulling tiny fake models: order of sources, interruptions, wrong checksums, locking."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agentopt_local.errors import ConfigError
from serving import model_store
from serving.hub import Progress
from serving.model_store import EmbeddedModel, Sources, cache_dir, list_models, resolve
from serving.weight_files import folder_weights, is_complete

PIECES = [b"first" * 100, b"second" * 50, b"third" * 10]
WHOLE = b"".join(PIECES)
TINY = EmbeddedModel(
    name="tiny",
    hub_id="makers/tiny",
    licence="MIT",
    size_bytes=1000,
    packages=tuple(f"tiny-part{n}==1.0" for n in range(len(PIECES))),
    gguf_bytes=len(WHOLE),
    gguf_sha256=hashlib.sha256(WHOLE).hexdigest(),
)


def write_wheel(folder: Path, n: int, content: bytes) -> Path:
    path = folder / f"tiny_part{n}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"tiny_part{n}/__init__.py", "")
        wheel.writestr(f"tiny_part{n}/data/part{n:02d}.bin", content)
    return path


class FakePackages:
    """Hands out the pieces as wheels, and stops once before piece ``stop_at``."""

    def __init__(self, pieces: list[bytes] = PIECES, stop_at: int | None = None) -> None:
        self.pieces = pieces
        self.stop_at = stop_at
        self.asked: list[int] = []

    def __call__(self, requirement: str, folder: Path) -> Path:
        n = int(re.findall(r"part(\d+)==", requirement)[0])
        if n == self.stop_at:
            self.stop_at = None
            raise KeyboardInterrupt
        self.asked.append(n)
        return write_wheel(folder, n, self.pieces[n])


def fake_convert(gguf: Path, out: Path, progress: Callable[[int, int], None]) -> None:
    out.mkdir()
    (out / "weights").write_bytes(gguf.read_bytes())
    (out / "config.json").write_text("{}")
    progress(1, 1)


def no_hub(hub_id: str, progress: Progress) -> Path:
    raise ConfigError(f"no hub for {hub_id}")


def fake_sources(packages: Callable[[str, Path], Path], model: EmbeddedModel = TINY) -> Sources:
    return Sources({model.name: model}, lambda hub_id: None, no_hub, packages, fake_convert)


def left_in(cache: Path) -> set[str]:
    return {path.name for path in (cache / "models").iterdir()}


def test_the_order_of_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cached, hub, cache = tmp_path / "hub-cache", tmp_path / "hub", tmp_path / "cache"
    fetch = Sources({"tiny": TINY}, lambda hub_id: None, lambda hub_id, progress: hub, FakePackages(), fake_convert)
    assert resolve("tiny", allow_fetch=True, cache=cache, sources=fetch) == hub
    in_cache = Sources({"tiny": TINY}, lambda hub_id: cached, no_hub, FakePackages(), fake_convert)
    assert resolve("tiny", allow_fetch=False, cache=cache, sources=in_cache) == cached
    pulled = resolve("tiny", allow_fetch=True, cache=cache, sources=fake_sources(FakePackages()))
    assert pulled == cache / "models" / "tiny"
    assert resolve("tiny", allow_fetch=False, cache=cache, sources=in_cache) == pulled
    (tmp_path / "tiny").mkdir()
    assert resolve("tiny", allow_fetch=False, cache=cache, sources=in_cache) == pulled  # no model in that folder
    (tmp_path / "tiny" / "config.json").touch()
    assert resolve("tiny", allow_fetch=False, cache=cache, sources=in_cache) == Path("tiny")


def test_a_missing_model_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    packages = FakePackages()
    for name in ("tiny", "someone/model"):
        with pytest.raises(ConfigError, match=f"agentopt models pull {name}"):
            resolve(name, allow_fetch=False, cache=tmp_path, sources=fake_sources(packages))
    assert not packages.asked
    assert not list(tmp_path.iterdir())


def test_any_hugging_face_id_is_a_name_but_has_no_packages(tmp_path: Path) -> None:
    sources = Sources({"tiny": TINY}, lambda hub_id: None, lambda hub_id, progress: tmp_path / hub_id)
    assert resolve("someone/model", allow_fetch=True, cache=tmp_path, sources=sources) == tmp_path / "someone/model"
    with pytest.raises(ConfigError, match="no hub for someone/model"):
        resolve("someone/model", allow_fetch=True, cache=tmp_path, sources=fake_sources(FakePackages()))


@pytest.mark.parametrize("name", ["tini", "../tiny", "/no/such/folder", "a/b/c"])
def test_an_unknown_name_gets_the_nearest_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown model .*nearest: tiny"):
        resolve(name, allow_fetch=True, cache=tmp_path, sources=fake_sources(FakePackages()))


def test_a_name_that_is_too_long_for_a_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be looked for: File name too long"):
        resolve("/" + "a/" * 5000, allow_fetch=False, cache=tmp_path, sources=fake_sources(FakePackages()))


def test_list_models_says_where_they_are(tmp_path: Path) -> None:
    sources = fake_sources(FakePackages())
    assert [entry.path for entry in list_models(tmp_path, sources)] == [None]
    folder = resolve("tiny", allow_fetch=True, cache=tmp_path, sources=sources)
    (entry,) = list_models(tmp_path, sources)
    assert (entry.name, entry.licence, entry.size_bytes, entry.path) == ("tiny", "MIT", 1000, folder)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("AGENTOPT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/someone/.cache/agentopt-local")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/agentopt-local")
    monkeypatch.setenv("AGENTOPT_CACHE", "~/own")
    assert cache_dir() == Path("/home/someone/own")


def test_a_snapshot_without_all_its_weights_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert not is_complete(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert is_complete(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    )
    (tmp_path / "1.safetensors").touch()
    assert not is_complete(tmp_path)
    (tmp_path / "2.safetensors").touch()
    assert is_complete(tmp_path)


def test_a_model_is_complete_if_the_files_that_its_size_counts_are_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "parts/1.safetensors"}}')
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "1.safetensors").touch()  # vLLM reads only files at the top
    assert not any(path.exists() for path in folder_weights(tmp_path))
    assert not is_complete(tmp_path)


def test_a_pull_leaves_the_folder_and_nothing_else(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    notes: list[str] = []
    sources = fake_sources(FakePackages())

    def step(stage: str, done: int, total: int) -> None:
        seen.append((stage, done, total))

    folder = resolve("tiny", allow_fetch=True, cache=tmp_path, progress=step, note=notes.append, sources=sources)
    assert (folder / "weights").read_bytes() == WHOLE
    assert left_in(tmp_path) == {"tiny", ".tiny.lock"}
    assert [done for stage, done, _ in seen if stage == "download"] == [0, 500, 800, 850]
    assert seen[-1] == ("convert", 1, 1)
    assert "makers/tiny" in notes[0]
    assert "no hub" in notes[1]


def test_an_interrupted_pull_goes_on_with_the_missing_pieces(tmp_path: Path) -> None:
    packages = FakePackages(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(packages))
    assert packages.asked == [0, 1]
    resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(packages))
    assert packages.asked == [0, 1, 2]
    assert left_in(tmp_path) == {"tiny", ".tiny.lock"}


def killed_pull(cache: Path) -> None:
    """Runs in a process of its own; it is killed while it waits for the second piece."""
    packages = FakePackages()

    def slow(requirement: str, folder: Path) -> Path:
        if requirement.startswith("tiny-part1"):
            (folder / "half.whl").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return packages(requirement, folder)

    resolve("tiny", allow_fetch=True, cache=cache, sources=fake_sources(slow))


def test_a_killed_pull_goes_on_and_its_lock_is_free(tmp_path: Path) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=killed_pull, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    packages = FakePackages()
    folder = resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(packages))
    assert (packages.asked, (folder / "weights").read_bytes()) == ([1, 2], WHOLE)
    assert left_in(tmp_path) == {"tiny", ".tiny.lock"}


def test_a_wrong_sum_is_refused_with_both_sums_and_the_file_removed(tmp_path: Path) -> None:
    packages = FakePackages([*PIECES[:2], b"other"])
    wrong = hashlib.sha256(PIECES[0] + PIECES[1] + b"other").hexdigest()
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(packages))
    assert wrong in str(caught.value)
    assert TINY.gguf_sha256 in str(caught.value)
    assert left_in(tmp_path) == {".tiny.lock"}
    packages.pieces = PIECES
    resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(packages))
    assert packages.asked == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("content", [b"no zip", b"PK\x05\x06" + bytes(18)], ids=["no wheel", "an empty wheel"])
def test_a_wheel_without_the_piece_is_refused(content: bytes, tmp_path: Path) -> None:
    def package(requirement: str, folder: Path) -> Path:
        (folder / "a.whl").write_bytes(content)
        return folder / "a.whl"

    with pytest.raises(ConfigError, match=r"tiny-part0==1\.0 does not hold the expected piece"):
        resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(package))


def test_a_full_disk_is_told_and_the_checked_file_kept(tmp_path: Path) -> None:
    def full(gguf: Path, out: Path, progress: Callable[[int, int], None]) -> None:
        out.mkdir()
        (out / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    packages = FakePackages()
    sources = Sources({"tiny": TINY}, lambda hub_id: None, no_hub, packages, full)
    with pytest.raises(ConfigError, match=r"cannot take tiny .*No space left"):
        resolve("tiny", allow_fetch=True, cache=tmp_path, sources=sources)
    resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(packages))
    assert packages.asked == [0, 1, 2]


def test_a_pull_that_cannot_fit_is_not_begun(tmp_path: Path) -> None:
    packages = FakePackages()
    huge = TINY.model_copy(update={"size_bytes": 10**18})
    with pytest.raises(ConfigError, match="are free"):
        resolve("tiny", allow_fetch=True, cache=tmp_path, sources=fake_sources(packages, huge))
    assert not packages.asked
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot take tiny .*Not a directory"):
        resolve("tiny", allow_fetch=True, cache=tmp_path / "file", sources=fake_sources(packages))


def test_of_two_pulls_at_once_one_waits_for_the_other(tmp_path: Path) -> None:
    waiting, first_asks, packages = threading.Event(), threading.Event(), FakePackages()

    def slow(requirement: str, folder: Path) -> Path:
        first_asks.set()
        assert waiting.wait(30)
        return packages(requirement, folder)

    def note(text: str) -> None:
        if text.startswith("waiting"):
            waiting.set()

    def pull() -> None:
        resolve("tiny", allow_fetch=True, cache=tmp_path, note=note, sources=fake_sources(slow))

    threads = [threading.Thread(target=pull) for _ in range(2)]
    threads[0].start()
    assert first_asks.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert packages.asked == [0, 1, 2]


def test_pip_brings_one_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop := tmp_path / "shop").mkdir()
    wheel = write_wheel(shop, 0, PIECES[0])
    with zipfile.ZipFile(wheel, "a") as file:
        info = "tiny_part0-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-part0\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    assert model_store.pip_download("tiny-part0==1.0", tmp_path).name == wheel.name


def test_what_pip_says_is_passed_on_without_its_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "not-there"))
    with pytest.raises(ConfigError) as caught:
        model_store.pip_download("tiny-part0==1.0", tmp_path)
    assert "No matching distribution found for tiny-part0==1.0" in str(caught.value)
    assert "WARNING" not in str(caught.value)


def test_importing_loads_neither_torch_nor_vllm() -> None:
    code = "import sys, serving.model_store; print({'torch', 'vllm', 'transformers', 'gguf'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=root).stdout == b"set()\n"
