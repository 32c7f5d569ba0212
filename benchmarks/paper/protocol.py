"""Protocols: TOML files that list the trainings of an experiment and the paper's figures.

::

    title = "..."                     the title of the table
    kind = "table"                    or "curves" (each accepted set is tested), or "transfer" (train on A, test on B)
    [base]                            settings of every cell, as in a training's .toml; {data} is the data folder
    [[axes]]                          the cells are all combinations of the axes' values, once per seed
    name = "type"
    [axes.values."Algebra"]           the settings of one value
    [paper]                           the paper's figures in per cent, by cell: [train before, train after,
    "Algebra / ReAct" = [55, 60, 83.8, 82.5]    test before, test after]; nan where it has none
    arms = ["creator", "craft"]       methods that are tested beside each trained agent
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from agentopt_local.errors import ConfigError
from agentopt_local.record import Record
from ray_jobs.config import RunConfig, build, parse_overrides
from ray_jobs.toml_values import merged, set_key
from ray_jobs.training import check_learns

FOLDER = Path(__file__).parent / "protocols"
Figure = Annotated[float, Field(allow_inf_nan=True)]
"""One of the paper's figures, in per cent; nan: what the paper does not report."""
Paper = tuple[Figure, Figure, Figure, Figure]
"""Train before, train after, test before, test after."""


ArmName = Literal["creator", "craft"]


class Axis(Record):
    """One dimension in which the cells differ."""

    name: str
    values: dict[str, dict[str, Any]]
    """The settings of each value, by its label."""


class Protocol(Record):
    """One experiment."""

    title: str
    kind: Literal["table", "curves", "transfer"] = "table"
    base: dict[str, Any]
    axes: tuple[Axis, ...] = Field(min_length=1)
    paper: dict[str, Paper] = Field(default={})
    arms: tuple[ArmName, ...] = ()
    """What is tested beside each trained agent, besides the baselines of every table."""
    note: str = ""
    """Remarks for the reader of the table."""


class Cell(Record):
    """One training of an experiment, in its own run folder."""

    labels: tuple[str, ...]
    """One value per axis."""
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """``number-theory_react_s0``: also the run folder's name."""
        return str(self.config.run_name)

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir) / self.name


class Choice(Record):
    """What the user chose on the command line."""

    model: str
    seeds: int = Field(default=3, ge=1)
    """Trainings per combination; each draws its own training problems, and all are tested on the same ones."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many problems per split."""
    data: str
    output: str
    overrides: tuple[str, ...] = ()
    """``--key value`` settings for every cell, applied last."""


def names() -> list[str]:
    """The names of all experiments."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, folder: Path = FOLDER) -> Protocol:
    """The protocol called ``name``. Raises ConfigError if it does not exist or is not valid."""
    path = folder / f"{name}.toml"
    try:
        return Protocol.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{name!r} is not an experiment; there are: {', '.join(names())}") from None
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"{path} is not a protocol: {error}") from None


def cells(name: str, protocol: Protocol, choice: Choice) -> list[Cell]:
    """All cells: every combination of values, once per seed. Raises ConfigError for wrong settings."""
    found = []
    combinations = list(itertools.product(*(axis.values.items() for axis in protocol.axes)))
    for combination in combinations:
        labels = tuple(label for label, _ in combination)
        values: dict[str, Any] = merged({"model": {"name": choice.model}}, protocol.base)
        for _, settings in combination:
            values = merged(values, settings)
        values = json.loads(json.dumps(values).replace("{data}", choice.data))
        for key, value in parse_overrides(choice.overrides):
            set_key(values, key, value)
        set_key(values, "evaluation.trainings", len(combinations) * choice.seeds)  # they share alpha
        for key in ("n_train", "n_test") if choice.limit else ():
            values["task"][key] = min(values["task"].get(key, choice.limit), choice.limit)
        for seed in range(choice.seeds):
            slug = "_".join(re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") for label in labels)
            place = {"run_dir": str(Path(choice.output) / name), "run_name": f"{slug}_s{seed}", "seed": seed}
            task = {"train_seed": seed, **values.get("task", {})}  # other training problems, the same test problems
            config = build({**values, "task": task, **place}, f"{name}, cell {slug}")
            check_learns(config)
            found.append(Cell(labels=labels, seed=seed, config=config))
    return found
