"""On which GPUs of the cluster engines run: reserved for all pools of a run before the first one starts.

A reservation is a Ray placement group, so Ray itself decides whether the pools fit beside each other and beside others,
and nobody else takes a GPU while a model loads. A replica has GPUs of one node, or a share of one GPU. One that needs
more GPUs than any node has gets a group of its own, in which vLLM places a worker per GPU.

Pools that take turns use the same GPUs, which Ray would give to one actor alone. So a group has them, and the actors,
for which Ray reserves nothing, get their ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from agentopt_local.errors import ConfigError
from serving.engine_config import EngineConfig
from serving.turns import Turns

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Environment variables that say which GPUs a process may use."""
WAIT_S = 15.0
"""How long GPUs that are in use may take to become free, as those of a run that has just ended do."""


def visible_gpus() -> tuple[str, list[str]]:
    """The environment variable that names this process's GPUs, and its values."""
    name = next((each for each in VISIBLE if os.environ.get(each)), VISIBLE[0])
    return name, os.environ.get(name, "").split(",")


@dataclass
class Group:
    """A placement group, and how many pools use it."""

    reserved: PlacementGroup
    users: int = 1

    def release(self) -> None:
        """One of the users does so no more; the last one gives the GPUs back."""
        self.users -= 1
        if self.users == 0 and ray.is_initialized():
            remove_placement_group(self.reserved)


@dataclass
class Placement:
    """Where the replicas of one pool run."""

    config: EngineConfig
    device: str = "cpu"
    """``cpu`` or ``gpu``."""
    spans: bool = False
    """Whether a replica's GPUs may be on several nodes."""
    groups: list[Group] = field(default_factory=list)
    """One for all replicas, or one for each that spans nodes."""
    bundles: list[int] | None = None
    """The bundle of each replica in its group; None: its index."""
    turns: Turns | None = None
    """If the pool takes turns with others."""
    visible: list[tuple[str, list[str]]] = field(default_factory=list)
    """:func:`visible_gpus` of each bundle, if it does so on GPUs."""

    def options(self, index: int) -> dict[str, Any]:
        """Ray's options for the actor of a replica."""
        if self.device == "cpu":
            return {"scheduling_strategy": "SPREAD"}
        group = self.groups[index if self.spans else 0].reserved
        if self.spans:  # the actor only directs the workers
            strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
            return {"scheduling_strategy": strategy, "num_gpus": 0}
        strategy = PlacementGroupSchedulingStrategy(group, self._slot(index)[0])
        return {"scheduling_strategy": strategy, "num_gpus": 0 if self.visible else gpus_of(self.config)}

    def environment(self, index: int) -> dict[str, str]:
        """Environment variables that the actor of a replica needs because of its place."""
        if not (self.spans or self.visible):
            return {}
        # Ray hides all GPUs from an actor that asks it for none
        found = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        if self.visible:
            bundle, first = self._slot(index)
            name, ids = self.visible[bundle]
            found[name] = ",".join(ids[first : first + self.config.gpus])
        return found

    def _slot(self, index: int) -> tuple[int, int]:
        """The bundle whose GPUs a replica uses, and the first of them."""
        if self.visible:
            bundle, slot = divmod(index, len(self.visible[0][1]) // self.config.gpus)
            return bundle, slot * self.config.gpus
        return index if self.bundles is None else self.bundles[index], 0

    def release(self) -> None:
        """Give the GPUs back. Safe to call twice."""
        groups, self.groups = self.groups, []
        for group in groups:
            group.release()


async def reserve(pools: Mapping[str, EngineConfig]) -> dict[str, Placement]:
    """A place for each pool; they are known by the name of their settings, such as ``engine``.

    Raises ConfigError, and reserves nothing, if the cluster does not have the GPUs for all of them.
    """
    nodes, devices = nodes_and_devices(pools)
    wanted = {table: config for table, config in pools.items() if devices[table] == "gpu"}
    check_sum(wanted, sum(nodes))
    places = {
        table: Placement(config, devices[table], spans=table in wanted and config.gpus > max(nodes))
        for table, config in pools.items()
    }
    for table, place in places.items():
        if place.spans and place.config.data_parallel_size > 1:
            raise ConfigError(
                f"a replica of {table} has {place.config.gpus} GPUs, and no node has more than {max(nodes)}: set "
                f"{table}.data_parallel_size = 1 and use {table}.replicas instead, or tensor and pipeline parallelism"
            )
    parts = {table: config for table, config in wanted.items() if config.gpu_fraction < 1 and not config.pool_name}
    parts = parts if len(parts) > 1 else {}  # one alone leaves the rest of its GPU to others
    sums, bundles = put_together(parts)
    whole = sorted((places[table] for table in wanted if table not in parts), key=lambda place: -place.config.gpus)
    on_gpus = [places[table] for table in wanted]
    before = free_gpus()
    # spread replicas may leave no node with room for a larger one
    for strategy in ("SPREAD", "PACK") if len(nodes) > 1 else ("PACK",):
        for place in whole:
            place.groups = [Group(each) for each in groups_for(place, strategy)]
        if parts:
            shared = Group(placement_group([{"GPU": share} for share in sums], strategy), users=len(parts))
            for table in parts:
                places[table].groups, places[table].bundles = [shared], bundles[table]
        if await all_ready([group.reserved for place in on_gpus for group in place.groups]):
            return places
        for place in on_gpus:
            place.release()
        await freed(before)
    raise ConfigError(
        f"{needs(wanted)}; the Ray cluster has {sum(nodes)} on {len(nodes)} nodes, of which {free_gpus():g} are free: "
        "end what else uses them (see ray status), or lower the replicas and parallel sizes"
    )


async def reserve_in_turns(pools: Mapping[str, EngineConfig]) -> dict[str, Placement]:
    """The same place for all pools, of which one works at a time; they are known by the name of their settings.

    Raises ConfigError, and reserves nothing, if the cluster does not have the GPUs for the largest of them.
    """
    turns = Turns()
    nodes, devices = nodes_and_devices(pools)
    if len(set(devices.values())) > 1:
        where = " and ".join(f"{table} is on the {device.upper()}" for table, device in devices.items())
        raise ConfigError(f"take_turns is for engines on the same device, but {where}: leave it out")
    if "cpu" in devices.values():
        return {table: Placement(config, turns=turns) for table, config in pools.items()}
    for table, config in pools.items():
        if config.gpus > max(nodes):
            raise ConfigError(
                f"a replica of {table} has {config.gpus} GPUs, and no node has more than {max(nodes)}: engines that "
                "take turns cannot span nodes; leave take_turns out, or lower the parallel sizes"
            )
    each = max(config.gpus for config in pools.values())
    bundles = max(math.ceil(config.replicas / (each // config.gpus)) for config in pools.values())
    if bundles * each > sum(nodes):
        raise ConfigError(
            f"{' and '.join(pools)} take turns on {bundles * each} GPUs ({bundles} times the {each} of the larger "
            f"replica), and the Ray cluster has {sum(nodes)}; lower the replicas or parallel sizes"
        )
    both = EngineConfig(device="gpu", tensor_parallel_size=each, replicas=bundles)
    place = (await reserve({" and ".join(pools): both}))[" and ".join(pools)]
    with contextlib.ExitStack() as on_error:
        on_error.callback(place.release)
        look = ray.remote(num_cpus=0)(visible_gpus)
        visible = await asyncio.gather(*(look.options(**place.options(index)).remote() for index in range(bundles)))
        on_error.pop_all()
    (group,) = place.groups
    group.users = len(pools)
    return {
        table: Placement(config, "gpu", groups=[group], turns=turns, visible=visible) for table, config in pools.items()
    }


def put_together(pools: Mapping[str, EngineConfig]) -> tuple[list[float], dict[str, list[int]]]:
    """Parts of GPUs put on as few as possible, largest first: the sum on each, and where each pool's replicas are.

    Left to itself, Ray may put the parts on different GPUs, and then whole ones find no room. Replicas of one pool are
    on different GPUs, as far as there are others in use.
    """
    sums: list[float] = []
    where: dict[str, list[int]] = {table: [] for table in pools}
    for table, config in sorted(pools.items(), key=lambda each: -each[1].gpu_fraction):
        for _ in range(config.replicas):
            free = [index for index, taken in enumerate(sums) if taken + config.gpu_fraction <= 1 + 1e-9]
            if not free:
                free = [len(sums)]
                sums.append(0.0)
            index = min(free, key=lambda each: each in where[table])
            sums[index] = min(1.0, round(sums[index] + config.gpu_fraction, 4))
            where[table].append(index)
    return sums, where


def nodes_and_devices(pools: Mapping[str, EngineConfig]) -> tuple[list[int], dict[str, str]]:
    """The GPUs of each node, and the device of each pool. Raises ConfigError as :func:`pick_device` does."""
    nodes = [int(row["Resources"].get("GPU", 0)) for row in ray.nodes() if row["Alive"]]
    return nodes, {table: pick_device(table, config, sum(nodes)) for table, config in pools.items()}


def pick_device(table: str, config: EngineConfig, gpus: int) -> str:
    """``cpu`` or ``gpu``, on a cluster with so many GPUs. Raises ConfigError if the settings contradict that."""
    if config.device == "cpu" or (config.device == "auto" and gpus == 0):
        return "cpu"
    if config.quantization == "int8":
        raise ConfigError(
            f"{table}.quantization = 'int8' is for CPU engines, and this cluster has GPUs: use one of vLLM's, such as "
            f"'fp8', or leave it out, or set {table}.device = 'cpu'"
        )
    return "gpu"


def check_sum(pools: Mapping[str, EngineConfig], gpus: int) -> None:
    """Raise ConfigError if all pools together need more GPUs than there are."""
    if sum(config.replicas * gpus_of(config) for config in pools.values()) <= gpus + 1e-9:
        return
    shares = " and ".join(f"{table}.gpu_fraction" for table in pools)
    share = f"; let them share a GPU by {shares}, or take turns by take_turns = true" if len(pools) > 1 else ""
    raise ConfigError(
        f"{needs(pools)}, and the Ray cluster has {gpus}{share}; lower the replicas or parallel sizes, or set "
        f"{' or '.join(f'{table}.device' for table in pools)} = 'cpu'"
    )


def gpus_of(config: EngineConfig) -> float:
    """The GPUs of one replica, or its share of one."""
    return config.gpu_fraction if config.gpus == 1 else config.gpus


def needs(pools: Mapping[str, EngineConfig]) -> str:
    """``engine needs 2 GPUs (2 replicas × 1) and optimizer_engine needs 1 (1 replica × 1), together 3``."""
    counts = [config.replicas * gpus_of(config) for config in pools.values()]
    parts = [
        f"{table} needs {count:g} GPU{'' if count == 1 else 's'} (replicas × GPUs of each = {config.replicas} × "
        f"{gpus_of(config):g})"
        for (table, config), count in zip(pools.items(), counts, strict=True)
    ]
    return " and ".join(parts) + (f", together {sum(counts):g}" if len(counts) > 1 else "")


def groups_for(place: Placement, strategy: str) -> list[PlacementGroup]:
    """Ask Ray for a pool's GPUs; the groups become ready later, or never."""
    config = place.config

    def group(bundles: list[dict[str, float]], strategy: str, index: int = 0) -> PlacementGroup:
        if config.pool_name is None:
            return placement_group(bundles, strategy=strategy)
        name = f"{group_prefix(config.pool_name)}{index}"
        return placement_group(bundles, strategy=strategy, name=name, lifetime="detached")  # outlives this process

    if place.spans:
        return [group([{"GPU": 1.0}] * config.gpus, "PACK", index) for index in range(config.replicas)]
    return [group([{"GPU": gpus_of(config)}] * config.replicas, strategy)]


def free_gpus() -> float:
    """GPUs of the cluster that nobody has reserved."""
    return float(ray.available_resources().get("GPU", 0))


async def freed(wanted: float) -> None:
    """Wait until so many GPUs are free again: Ray removes groups in its own time. Gives up after ``WAIT_S``."""
    end = time.monotonic() + WAIT_S
    while free_gpus() < wanted - 1e-9 and time.monotonic() < end:  # noqa: ASYNC110 - Ray has no event for it
        await asyncio.sleep(0.1)


async def all_ready(groups: Sequence[PlacementGroup]) -> bool:
    """Whether all groups are reserved within ``WAIT_S``."""
    return all(await asyncio.gather(*(asyncio.to_thread(group.wait, WAIT_S) for group in groups)))


def group_prefix(pool: str) -> str:
    """How the names of the groups begin whose engines outlive their command."""
    return f"engines/{pool}/"


def release_named(pool: str) -> None:
    """Give back the GPUs of engines that another process started under a name."""
    for key, row in placement_group_table().items():
        if str(row.get("name")).startswith(group_prefix(pool)) and row.get("state") != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(key))))
