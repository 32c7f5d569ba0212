"""Plans: TOML files, written before anything is measured, that say what will be trained, tested and reported.

::

    title = "..."                     the heading of the result
    note = "..."                      what the reader should know
    seeds = 3                         trainings of each arm, on other training problems each, with the same test
    budget_tokens = 400_000           tokens that the whole plan may generate
    [base]                            settings of every training, as in its .toml; {data} is the data folder
    [arms.NAME]                       settings on top of these; without arms there is one, called "trained"
    [rule]                            in place of base.task.spec: how the kinds of reasoning_gym are chosen (Rule)
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agentopt_local.errors import ConfigError
from agentopt_local.plain_text import quoted
from agentopt_local.record import Record
from agentopt_local.setting_types import Share
from agentopt_local.spelling import did_you_mean
from agentopt_local.tasks.reasoning_gym import REFUSED
from benchmarks.paper.protocol import Axis, Cell, Choice, Protocol
from benchmarks.paper.protocol import cells as combinations
from ray_jobs.lifecycle import MODELS
from ray_jobs.model_config import ModelConfig
from ray_jobs.toml_values import merged, read_toml

FOLDER = Path(__file__).resolve().parents[1] / "plans"


class Rule(Record):
    """How kinds of reasoning_gym are chosen: by what the untrained agent solves of training problems.

    The first ``count`` within the bounds are taken, in the shuffled order. Kinds that have too few problems for the
    plan's trainings and tests are left out.
    """

    count: int = Field(ge=1)
    """How many kinds are chosen."""
    include: tuple[str, ...] = ()
    """Kinds that are taken in any case, without being measured; they do not count."""
    exclude: tuple[str, ...] = ()
    """Kinds that are never taken."""
    seed: int
    """Shuffles the kinds and draws the problems they are measured on (``task.train_seed``)."""
    n: int = Field(default=16, ge=1)
    """Training problems of each kind."""
    bounds: tuple[Share, Share] = (0.05, 0.6)
    """The least and the greatest share solved with which a kind is chosen."""
    block: int = Field(default=8, ge=1)
    """Kinds that are measured at once."""


class Plan(Record):
    """What a result will be based on."""

    title: str
    note: str = ""
    seeds: int = Field(ge=1, le=1000)
    """Trainings of each arm. The ``k``-th has ``seed`` and ``task.train_seed`` k, counted from 0."""
    budget_tokens: int = Field(ge=1)
    """Tokens that the whole plan may generate, with the rule's measurement, certificates and tests. No training begins
    once they are used up."""
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]] = Field(default={"trained": {}}, min_length=1)
    rule: Rule | None = None


def names() -> list[str]:
    """The names of all plans."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def plan_path(name: str) -> Path:
    """The file of a plan: ``name`` itself if it ends in .toml, otherwise that of the plan called so."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"{name!r} is not a plan: {path} does not exist; there are: {', '.join(names())}")
    return path


def load(path: Path) -> Plan:
    """The plan in ``path``. Raises ConfigError that names the file and the key."""
    values = read_toml(path)
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(wrong_key(path, item) for item in error.errors())) from None
    task = plan.base.get("task", {})
    spec = task.get("spec") if isinstance(task, dict) else None
    if (spec is None) == (plan.rule is None):
        both = "are both given; remove one" if plan.rule else "are both missing; give one"
        raise ConfigError(f"{path}: base.task.spec and [rule] {both}")
    if plan.rule is not None:
        check_rule(path, plan.rule, plan.seeds)
    return plan


def wrong_key(path: Path, item: Any) -> str:
    """What is wrong with one key of a plan."""
    *above, key = (str(part) for part in item["loc"])
    where = f"{path}: {'.'.join([*above, key])}"
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] == "extra_forbidden":
        known = (Rule if above else Plan).model_fields
        return f"{where} is not a key of a plan{did_you_mean(key, known)}; there are: {', '.join(known)}"
    return f"{where} = {quoted(item['input'])}: {item['msg'][:1].lower()}{item['msg'][1:]}"


def check_rule(path: Path, rule: Rule, seeds: int) -> None:
    """Raise ConfigError if a rule cannot be followed."""
    kinds = all_kinds()
    for key in ("include", "exclude"):
        for name in getattr(rule, key):
            if name not in kinds:
                raise ConfigError(
                    f"{path}: rule.{key} = {name!r} is no kind of reasoning_gym{did_you_mean(name, kinds)}"
                )
    if rule.bounds[0] > rule.bounds[1]:
        raise ConfigError(f"{path}: rule.bounds = {list(rule.bounds)}: the first must not be above the second")
    if 0 <= rule.seed < seeds:
        raise ConfigError(
            f"{path}: rule.seed = {rule.seed} is also the train_seed of a training (0 to {seeds - 1}), so the kinds "
            f"would be chosen by its problems; use another, such as {seeds + 1000}"
        )
    if rule.count > len(found := in_order(rule)):
        raise ConfigError(f"{path}: rule.count = {rule.count}, but only {len(found)} kinds are left to choose from")


def all_kinds() -> list[str]:
    """The data sets of the installed reasoning_gym."""
    from reasoning_gym.factory import DATASETS  # takes a second

    return sorted(DATASETS)


def in_order(rule: Rule) -> list[str]:
    """The kinds that may be chosen, in the order in which they are measured."""
    kinds = [name for name in all_kinds() if name not in {*rule.include, *rule.exclude}]
    random.Random(rule.seed).shuffle(kinds)
    return [name for name in kinds if name not in REFUSED]


def cells(path: Path, plan: Plan, kinds: Sequence[str], *, data: str, output: str, limit: int | None) -> list[Cell]:
    """All trainings of a plan, those of the same seed together, so that a plan that stops has whole seeds.

    ``kinds``: of reasoning_gym, where the plan has a rule. ``limit``: the most problems of a split, in a folder of its
    own. Raises ConfigError if a setting is wrong or an arm cannot be compared with the others.
    """
    name = path.stem if limit is None else f"{path.stem}-limit-{limit}"
    base = merged(plan.base, {"task": {"spec": f"reasoning_gym:{','.join(kinds)}"}}) if plan.rule else plan.base
    protocol = Protocol(title=plan.title, base=base, axes=(Axis(name="arm", values=plan.arms),))
    choice = Choice(
        model=ModelConfig().name,
        seeds=plan.seeds,
        limit=limit,
        data=data,
        output=output,
        overrides=() if limit is None else ("--evaluation.n_validation", str(fewer(plan, limit))),
    )
    try:
        found = combinations(name, protocol, choice)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    check_arms(path, plan, found)
    return sorted(found, key=lambda cell: cell.seed)


def fewer(plan: Plan, limit: int) -> int:
    """The most problems of a trial's certificate."""
    evaluation = plan.base.get("evaluation")
    asked = evaluation.get("n_validation") if isinstance(evaluation, dict) else None
    return min(asked, limit) if isinstance(asked, int) else limit


def check_arms(path: Path, plan: Plan, found: Iterable[Cell]) -> None:
    """Raise ConfigError if arms have the same folder, need engines of their own, or leave nothing to compare."""
    first = [cell for cell in found if cell.seed == 0]
    for cell in first:
        arm, config = f"{path}: arms.{quoted(cell.labels[0])}", cell.config
        if not re.match(r"[a-z0-9]", cell.name) or sum(each.name == cell.name for each in first) > 1:
            raise ConfigError(f"{arm}: give it a name with letters or digits that differs from the others' in these")
        for key in (*MODELS, "take_turns"):
            if getattr(config, key) != getattr(first[0].config, key):
                raise ConfigError(f"{arm} changes {key!r}, but all arms share one set of engines; set it in [base]")
        if config.start_functions is not None:
            raise ConfigError(f"{arm}: the trainings of a plan start without functions; leave out start_functions")
        if not config.task.n_test and config.evaluation.credit == "prune":
            raise ConfigError(
                f"{arm}: with task.n_test = 0 the result is measured on validation problems, by which "
                "evaluation.credit = 'prune' chooses functions; set task.n_test or use 'measure'"
            )
        if not config.task.n_test and config.evaluation.n_validation == 0:
            raise ConfigError(f"{arm}: task.n_test and evaluation.n_validation are both 0, so nothing is measured")


def chosen(path: Path, found: Sequence[Cell], arms: Sequence[str] | None) -> list[Cell]:
    """The trainings of the wanted arms. Raises ConfigError for an unknown arm, or for two with the same settings."""
    known = list(dict.fromkeys(cell.labels[0] for cell in found))
    for name in arms or ():
        if name not in known:
            raise ConfigError(f"--arms {name!r}: {path} has no such arm; there are: {', '.join(known)}")
    wanted = [cell for cell in found if arms is None or cell.labels[0] in arms]
    seen: dict[str, str] = {}
    for cell in (each for each in wanted if each.seed == 0):
        settings = cell.config.model_copy(update={"run_name": None}).model_dump_json()
        if settings in seen:
            raise ConfigError(
                f"{path}: arms.{quoted(cell.labels[0])} has the settings of arms.{quoted(seen[settings])}, so they "
                f"would be the same trainings; give it settings, or run the others: --arms {quoted(seen[settings])}"
            )
        seen[settings] = cell.labels[0]
    return wanted
