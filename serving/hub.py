"""Models from the Hugging Face hub: which files vLLM reads, fetching them, and what may be in the way.

A model is called ``OWNER/NAME`` or ``OWNER/NAME@REVISION``; a revision is a branch, a tag or a commit. Files end up in
the hub's own cache, which other programs share. The hub's library starts an interrupted file from the beginning, so
large files are fetched here: a broken download goes on where it stopped, and each file's SHA-256 is checked.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record
from serving.weight_files import is_complete, text_files, weight_files

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
ANSWER_S = 10.0
"""How long the hub may take to list a model's files. A name lookup has no time limit of its own."""
READ_S = 30.0
TRIES = 5
"""How often a file is asked for again without a byte in between."""
AT_ONCE = 4

Progress = Callable[[str, int, int], None]  # "download" or "convert", bytes done, total bytes


class HubFile(Record):
    """A file that vLLM reads."""

    name: str
    size: int
    sha256: str | None = None
    """Of large files."""


class Listing(Record):
    """What the hub has under a name."""

    hub_id: str
    revision: str | None
    commit: str
    files: tuple[HubFile, ...]

    def size(self, suffix: str = "") -> int:
        """Bytes of the files whose names have this ending."""
        return sum(each.size for each in self.files if each.name.endswith(suffix))


def split_name(name: str) -> tuple[str, str | None]:
    """``OWNER/NAME@REVISION`` as its two parts."""
    hub_id, at, revision = name.partition("@")
    return hub_id, revision if at else None


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache; None for other folders."""
    return folder.name if folder.parent.name == "snapshots" else None


def hub_cached(name: str) -> Path | None:
    """The snapshot of a model in the hub's local cache, if it is complete."""
    from huggingface_hub import snapshot_download

    hub_id, revision = split_name(name)
    try:
        # only what was fetched may be asked for
        folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True, allow_patterns="config.json"))
    except (OSError, ValueError):  # not cached, or not an id
        return None
    return folder if is_complete(folder) else None


def list_files(name: str) -> Listing:
    """The files of a model that vLLM reads. Raises ConfigError, within seconds if the hub cannot be reached."""
    from huggingface_hub import HfApi, constants

    hub_id, revision = split_name(name)
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(f"{name} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set")
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(HfApi().model_info(hub_id, revision=revision, files_metadata=True, timeout=ANSWER_S))
        except hub_errors() as error:
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    info = answers[0] if answers else TimeoutError("no answer")
    if isinstance(info, Exception):
        raise refused(name, info) from info
    siblings = {each.rfilename: each for each in info.siblings or ()}
    weights = weight_files(siblings, lambda each: read_text(name, info.sha, each))
    if not weights or "config.json" not in siblings:
        raise ConfigError(f"{name} has no safetensors weights in the Hugging Face hub")
    files = (siblings[each] for each in (*text_files(siblings), *weights) if each in siblings)
    return Listing(
        hub_id=hub_id,
        revision=revision,
        commit=info.sha,
        files=tuple(
            HubFile(name=each.rfilename, size=each.size or 0, sha256=each.lfs.sha256 if each.lfs else None)
            for each in files
        ),
    )


def read_text(name: str, commit: str, file: str) -> str:
    """The text of a small file of a model. Raises ConfigError."""
    from huggingface_hub import hf_hub_download

    quiet()
    try:
        return Path(hf_hub_download(split_name(name)[0], file, revision=commit)).read_text("utf-8")
    except hub_errors() as error:
        raise refused(name, error) from error


def hub_download(name: str, progress: Progress | None = None) -> Path:
    """Fetch a model into the hub's cache, or what is missing of it. Raises ConfigError."""
    from huggingface_hub import constants, snapshot_download

    listing = list_files(name)
    cache = Path(constants.HF_HUB_CACHE)
    blobs = cache / f"models--{listing.hub_id.replace('/', '--')}" / "blobs"
    try:
        blobs.mkdir(parents=True, exist_ok=True)
        fetch_blobs(listing, blobs, progress or (lambda stage, done, total: None))
        quiet()
        names = [each.name for each in listing.files]
        folder = Path(snapshot_download(listing.hub_id, revision=listing.revision, allow_patterns=names))
    except hub_errors() as error:
        raise refused(name, error) from error
    if not is_complete(folder):
        raise ConfigError(f"{name} is not complete in the Hugging Face hub: files that its index names are missing")
    return folder


def fetch_blobs(listing: Listing, blobs: Path, progress: Progress) -> None:
    """Fetch the large files to the names by which the hub's library finds them."""
    large = [each for each in listing.files if each.sha256 and not (blobs / each.sha256).exists()]
    partial = {each.name: blobs / f"{each.sha256}.agentopt" for each in large}
    total = listing.size()
    sizes = {each.name: size_of(partial[each.name]) for each in large}
    missing = sum(each.size - sizes[each.name] for each in large)
    if missing > (free := shutil.disk_usage(blobs).free):
        raise ConfigError(f"{blobs}: {listing.hub_id} needs {missing:,} more bytes, {free:,} are free")
    lock, stop = threading.Lock(), threading.Event()

    def count(name: str, size: int) -> None:
        if stop.is_set():
            raise InterruptedError
        with lock:
            sizes[name] = size
            progress("download", total - sum(each.size - sizes[each.name] for each in large), total)

    with ThreadPoolExecutor(AT_ONCE) as workers:
        jobs = [workers.submit(fetch, listing, each, partial[each.name], count) for each in large]
        try:
            for job in jobs:
                job.result()
        finally:  # after an error or an interruption, the others end at their next chunk
            stop.set()


def size_of(path: Path) -> int:
    """The size of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def fetch(listing: Listing, file: HubFile, partial: Path, count: Callable[[str, int], None]) -> None:
    """Fetch one file to ``partial``, from where an earlier try stopped, check it, and give it its name."""
    with partial.open("ab") as out:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(out, fcntl.LOCK_EX)  # another process may be at it
        if partial.with_suffix("").exists():
            partial.unlink(missing_ok=True)
            return
        receive(listing, file, out, lambda: count(file.name, out.tell()))
        with partial.open("rb") as whole:
            digest = hashlib.file_digest(whole, "sha256").hexdigest()
        if digest != file.sha256:
            partial.unlink()
            raise OSError(f"{file.name} arrived damaged and was removed: its SHA-256 is {digest}, not {file.sha256}")
        partial.rename(partial.with_suffix(""))


def receive(listing: Listing, file: HubFile, out: BinaryIO, received: Callable[[], None]) -> None:
    """Append to ``out`` what it lacks of a file, reconnecting as long as that brings more of it."""
    import httpx
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url, headers = hf_hub_url(listing.hub_id, file.name, revision=listing.commit), build_hf_headers()
    tries = 0
    with httpx.Client(follow_redirects=True, timeout=READ_S) as client:
        while (done := out.tell()) < file.size:
            try:
                with client.stream("GET", url, headers={**headers, "Range": f"bytes={done}-"}) as response:
                    response.raise_for_status()
                    if response.status_code != httpx.codes.PARTIAL_CONTENT:
                        out.truncate(0)
                    for chunk in response.iter_raw():
                        out.write(chunk)
                        received()
            except httpx.TransportError:
                if tries == TRIES:
                    raise
            out.flush()
            tries = 0 if out.tell() > done else tries + 1
            if tries > TRIES:
                raise OSError(f"{file.name} ends after {done:,} of {file.size:,} bytes")


def quiet() -> None:
    """Hide the progress bars of the hub's library: progress is reported here."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


def hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's library and ours raise when something cannot be had."""
    import httpx
    from huggingface_hub import errors

    # HfHubHTTPError's first base is an error of the hub's HTTP library, which differs by version and passes through
    return (OSError, ValueError, RuntimeError, httpx.HTTPError, *errors.HfHubHTTPError.__mro__[1:2])


def refused(name: str, error: Exception) -> ConfigError:
    """Why a model cannot be had, and what to do about it."""
    from huggingface_hub import constants, errors

    hub_id, revision = split_name(name)
    page = f"{constants.ENDPOINT}/{hub_id}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"{name}: {hub_id} has no revision {revision!r}; its branches, tags and commits: {page}")
    if isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError):
        return ConfigError(
            f"{name}: there is no model at {page}, or it is private: set HF_TOKEN to a token that may read it"
        )
    if status in (401, 403):
        return ConfigError(
            f"{name} is gated: accept its terms at {page} and set HF_TOKEN to a token of the same account "
            f"({constants.ENDPOINT}/settings/tokens)"
        )
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ConfigError(f"{name} cannot be had from the Hugging Face hub: {reason}")
