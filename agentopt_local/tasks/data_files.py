"""Reading a benchmark's files, with errors that name the file, the line and the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from agentopt_local.errors import ConfigError, outcome
from agentopt_local.json_text import NotJsonError, read_file
from agentopt_local.plain_files import MIB, own_path, read_plain, size_text
from agentopt_local.plain_text import quoted
from agentopt_local.spelling import did_you_mean

BOM = b"\xef\xbb\xbf"
MAX_DATA = 2048 * MIB
"""Bytes of a file with problems, unpacked."""


def source(name: str, path: str, hint: str, patterns: tuple[str, ...]) -> Path:
    """The local file or folder ``path``, or a snapshot of ``hf:OWNER/NAME``, a data set of the Hugging Face hub.

    ``hint`` says what to download and where to put it; ``patterns`` select the files to fetch from the hub.
    Raises ConfigError if there is no such path, or if the hub cannot be reached or denies access.
    """
    if not path.startswith("hf:"):
        local = own_path(path, f"task {name!r}")
        try:
            local.stat()
        except (OSError, ValueError):
            raise ConfigError(f"task {name!r}: {local} does not exist. {hint}") from None
        return local
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(f"task {name!r}: huggingface_hub is not installed. {hint}") from None
    wanted = partial(snapshot_download, path[3:], repo_type="dataset", allow_patterns=list(patterns))
    folder, error = outcome(wanted)  # the hub's client raises the errors of many libraries
    if folder is None:
        text = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"task {name!r}: the hub did not provide {path[3:]!r} ({type(error).__name__}: {text}). {hint}"
        ) from error
    return Path(folder)


def split_files(name: str, folder: Path, hint: str) -> Iterator[tuple[str, Path]]:
    """The files of a folder with their official split: train.jsonl, train/**/*.json or train*.parquet; same for test.

    Raises ConfigError if one of the two splits has no file.
    """
    folder = folder / "MATH" if (folder / "MATH" / "train").is_dir() else folder  # the official archive unpacks to this
    for split in ("train", "test"):
        files = [path for path in (folder / f"{split}.jsonl",) if path.is_file()]
        files = files or sorted((folder / split).rglob("*.json"), key=_numbered)
        files = files or sorted(path for path in folder.rglob(f"{split}*.parquet") if "socratic" not in path.parts)
        if not files:
            raise ConfigError(
                f"task {name!r}: {folder} has no {split}.jsonl, no {split}/ and no {split}*.parquet. {hint}"
            )
        for path in files:
            yield split, path


def _numbered(path: Path) -> tuple[str, int, str]:
    return path.parent.name, int(path.stem) if path.stem.isdigit() else -1, path.stem


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .jsonl, .json or .parquet file, each with its place as errors name it.

    Raises ConfigError if a row is not UTF-8, not JSON or not an object.
    """
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    data = read(path).removeprefix(BOM)
    lines = enumerate(data.split(b"\n"), start=1) if path.suffix == ".jsonl" else [(0, data)]
    for number, line in lines:
        where = f"{path}, line {number}" if number else str(path)
        if line.strip():
            row = parsed(where, line)
            if not isinstance(row, dict):
                raise ConfigError(f"{where}: found {shown(row)}; expected a JSON object")
            yield where, row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            f"{path}: reading parquet needs the package pyarrow; install it with 'pip install pyarrow'"
        ) from None
    data = read(path)

    def rows() -> list[dict[str, Any]]:
        file = parquet.ParquetFile(BytesIO(data))
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        if size > MAX_DATA:
            raise ValueError(f"it unpacks to more than {size_text(MAX_DATA)}")
        found: list[dict[str, Any]] = file.read().to_pylist()
        return found

    table, error = outcome(rows)  # pyarrow raises errors of many kinds
    if table is None:
        raise ConfigError(f"{path} is not a readable parquet file: {error}") from error
    for number, row in enumerate(table, start=1):
        yield f"{path}, row {number}", row


def read(path: Path) -> bytes:
    """The bytes of a file. Raises ConfigError if it cannot be read."""
    try:
        return read_plain(path, MAX_DATA, follow=True)  # the hub's cache consists of links
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def parsed(where: str, data: bytes) -> Any:
    """The JSON value in ``data``. Raises ConfigError, which names ``where``, if there is none."""
    try:
        return read_file(data)
    except NotJsonError as error:
        raise ConfigError(f"{where}: not JSON in UTF-8 ({error})") from None


def text(where: str, row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    """A text field of a row. Raises ConfigError, naming place and key, if it is missing, empty or not text."""
    if key not in row:
        raise ConfigError(f"{where}: no key {key!r}{did_you_mean(key, row)}")
    value = row[key]
    if not isinstance(value, str) or not (empty or value.strip()):
        raise ConfigError(f"{where}, key {key!r}: {shown(value)} is not accepted; write text, not empty")
    return value


def shown(value: Any) -> str:
    """``value`` as errors quote it."""
    return quoted(value)
