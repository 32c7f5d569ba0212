"""What the benchmark tasks share: official splits as ours, their order, and files that are read with care.

The official training problems are ours for training and, a hash of their content decides which, for validation; the
official test problems are ours for the test. A training problem with the question of a test problem is dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from agentopt_local.errors import ConfigError
from agentopt_local.task import SPLITS, Problem, Split, check_request, content_key, did_you_mean, round_robin

log = logging.getLogger(__name__)

VALIDATION_PERCENT = 20
"""Share of the official training problems that is ours for validation, where there is no official validation set."""

Found = tuple[Split, str, Problem]
"""A problem with its official split and the question as it stands in the file, which decides its identity."""


class Splits:
    """The problems of a benchmark by split, in an order that the seed fixes."""

    def __init__(self, name: str, seed: int, found: Iterable[Found], files: Iterable[Path]) -> None:
        """Raises ConfigError if nothing was found."""
        self.name = name
        by_key: dict[Split, dict[str, Problem]] = {split: {} for split in SPLITS}
        repeated = 0
        for split, question, problem in found:
            repeated += content_key(question) in by_key[split]
            by_key[split].setdefault(content_key(question), problem)
        dropped = 0
        for index, split in enumerate(SPLITS):
            for key in list(by_key[split]):
                if any(key in by_key[later] for later in SPLITS[index + 1 :]):
                    del by_key[split][key]
                    dropped += 1
        if dropped:
            log.warning(
                "%s: %d training problems are also test or validation problems; they were dropped", name, dropped
            )
        self._problems: dict[str, list[Problem]] = {
            split: [problems[key] for key in sorted(problems, key=lambda key: _order(seed, key))]
            for split, problems in by_key.items()
        }
        if not any(self._problems.values()):
            raise ConfigError(f"task {name!r}: no problem is left. Check the type and level that are asked for")
        self.description: dict[str, Any] = {
            "files": {str(path): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files},
            "problems": {split: len(problems) for split, problems in self._problems.items()},
            "dropped_from_train": dropped,
            "repeated": repeated,
            "seed": seed,
        }
        """What was found where, for the run's records."""

    def take(self, split: Split, n: int) -> tuple[Problem, ...]:
        """The first ``n`` problems of ``split``, its kinds in turn. Raises ConfigError if there are fewer."""
        check_request(split, n)
        available = self._problems[split]
        if n > len(available):
            counts = ", ".join(f"{len(self._problems[each])} {each}" for each in SPLITS)
            raise ConfigError(
                f"task {self.name!r} has only {len(available)} distinct {split} problems, not {n} ({counts}). "
                f"Ask for fewer, or for more types or levels"
            )
        kinds: dict[str, list[Problem]] = defaultdict(list)
        for problem in available:
            kinds[problem.kind].append(problem)
        return tuple(islice(round_robin(iter(kinds[kind]) for kind in sorted(kinds)), n))


def _order(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def validation_or_train(question: str, percent: int = VALIDATION_PERCENT) -> Split:
    """The split of an official training problem."""
    # Not the digits that split_of looks at, so that the two shares are independent.
    return "validation" if int(content_key(question)[8:16], 16) % 100 < percent else "train"


def problem_id(kind: str, question: str) -> str:
    """A short id that is the same in every run."""
    return f"{kind.lower().replace('&', 'and').replace(' ', '_')}-{content_key(question)[:12]}"


def parse_spec(
    prefix: str, spec: str, settings: Mapping[str, Any], known: tuple[str, ...]
) -> tuple[str, dict[str, Any]]:
    """The path of ``PATH[?key=value&...]`` and the settings, those of the spec over those of the file.

    Raises ConfigError for a setting that is not ``known``.
    """
    path, _, query = spec.partition("?")
    merged = {**settings, **dict(parse_qsl(query, keep_blank_values=True))}
    for key in merged:
        if key not in known:
            raise ConfigError(
                f"task '{prefix}:{spec}' has no setting {key!r}{did_you_mean(key, known)}; it has: {', '.join(known)}"
            )
    return path.strip(), merged


def flag(name: str, settings: Mapping[str, Any], key: str) -> bool:
    """A setting that is true or false; false if left out."""
    value = settings.get(key, False)
    if isinstance(value, str) and value.lower() in ("true", "1", "yes", "false", "0", "no", ""):
        return value.lower() in ("true", "1", "yes")
    if not isinstance(value, bool):
        raise ConfigError(f"task {name!r}: {key} = {value!r} is neither true nor false")
    return value


def levels(name: str, settings: Mapping[str, Any], highest: int) -> frozenset[int]:
    """The levels that ``level`` asks for: ``3``, ``"1-3"``, ``"1,2"``, ``[1, 2]``; all if left out."""
    value = settings.get("level")
    if value is None:
        return frozenset(range(1, highest + 1))
    found: set[int] = set()
    for item in value if isinstance(value, list) else str(value).split(","):
        low, _, high = str(item).strip().partition("-")
        try:
            found |= set(range(int(low), int(high or low) + 1))
        except ValueError:
            found = set()
            break
    if not found or not found <= set(range(1, highest + 1)):
        raise ConfigError(
            f"task {name!r}: level = {value!r}; write levels from 1 to {highest}, such as 3, '1-3' or [1, 2]"
        )
    return frozenset(found)


def source(name: str, path: str, hint: str, patterns: tuple[str, ...]) -> Path:
    """The local file or folder of ``path``, or the snapshot of ``hf:OWNER/NAME``, a data set of the Hugging Face hub.

    ``hint`` says what to download and where it must lie; ``patterns`` are the files that are fetched.
    Raises ConfigError if there is no such path, or the hub cannot be reached or does not let us in.
    """
    if not path.startswith("hf:"):
        local = Path(path).expanduser()
        if not local.exists():
            raise ConfigError(f"task {name!r}: {local} does not exist. {hint}")
        return local
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(f"task {name!r}: huggingface_hub is not installed. {hint}") from None
    try:
        return Path(snapshot_download(path[3:], repo_type="dataset", allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client raises errors of many libraries
        text = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"task {name!r}: the hub gave no {path[3:]!r} ({type(error).__name__}: {text}). {hint}"
        ) from error


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .jsonl, .json or .parquet file, each with the place to name in an error.

    Raises ConfigError for what is not UTF-8, not JSON, or no object.
    """
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    data = read(path).removeprefix(b"\xef\xbb\xbf")
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
    try:
        table = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable parquet file: {error}") from error
    for number, row in enumerate(table, start=1):
        yield f"{path}, row {number}", row


def read(path: Path) -> bytes:
    """The bytes of a file. Raises ConfigError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def parsed(where: str, data: bytes) -> Any:
    """The JSON value in ``data``."""
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON in UTF-8 ({error})") from error


def text(where: str, row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    """A text field of a row. Raises ConfigError that names place and key if it is missing, empty or no text."""
    if key not in row:
        raise ConfigError(f"{where}: no key {key!r}{did_you_mean(key, row)}")
    value = row[key]
    if not isinstance(value, str) or not (empty or value.strip()):
        raise ConfigError(f"{where}, key {key!r}: {shown(value)} is not accepted; write text, not empty")
    return value


def shown(value: Any) -> str:
    """A value as an error quotes it."""
    quoted = json.dumps(value, ensure_ascii=False, default=str)
    return quoted if len(quoted) <= 80 else quoted[:79] + "…"
