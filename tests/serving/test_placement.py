"""Engines on a Ray cluster with pretended GPUs: the sum over all pools, shares of a GPU, replicas over nodes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import ray

from agentopt_local.chat import ChatReply, ChatRequest, Message
from agentopt_local.errors import ConfigError
from serving import placement
from serving.engine_config import EngineConfig, HostedModel
from serving.placement import Placement, put_together, reserve, reserve_in_turns
from serving.pool import NAMESPACE, end_named, host
from tests.tools.ray_warnings import RAY_WARNS

pytestmark = RAY_WARNS


class Located:
    """A model whose replies say on which node and GPUs its actor runs."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        context = ray.get_runtime_context()
        where = f"{context.get_node_id()} {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"
        if request.messages[-1].content == "workers":  # as vLLM's Ray executor does in an actor's own group
            group = ray.util.get_current_placement_group()
            where = " ".join(await asyncio.gather(*(self.worker(group, index) for index in range(group.bundle_count))))
        return ChatReply(message=Message(role="assistant", content=where))

    async def worker(self, group: Any, index: int) -> str:
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, index)
        node = ray.remote(lambda: ray.get_runtime_context().get_node_id())
        return str(await node.options(num_gpus=1, num_cpus=0, scheduling_strategy=strategy).remote())

    async def sleep(self) -> None:
        """Nothing to give back."""

    async def wake(self) -> None:
        """Nothing to take."""

    async def aclose(self) -> None:
        return


@pytest.fixture(scope="module", autouse=True)
def nodes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Two nodes with two GPUs each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2, num_gpus=2)
    ray.cloudpickle.register_pickle_by_value(request.module)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    cluster.shutdown()


def config(**settings: Any) -> EngineConfig:
    return EngineConfig.model_validate({"start_timeout_s": 60, **settings})


async def opened(
    pools: dict[str, EngineConfig],
    question: str = "where",
    reserve: Callable[[dict[str, EngineConfig]], Awaitable[dict[str, Placement]]] = reserve,
) -> dict[str, list[str]]:
    """What each replica of each pool says, all pools being up at once."""
    places = await reserve(pools)
    found = {}
    started = []
    for table, settings in pools.items():
        hosted = HostedModel(model=table, device="gpu", replicas=settings.replicas)
        started.append(pool := await host(Located, settings, hosted, place=places[table]))
        request = ChatRequest(messages=(Message(role="user", content=question),))
        replies = await asyncio.gather(*(replica.call("complete", request) for replica in pool.replicas))
        found[table] = sorted(reply.message.content for reply in replies)
    for pool in started:
        await pool.aclose()
    return found


def free() -> float:
    return float(ray.available_resources().get("GPU", 0))


async def all_free() -> bool:
    for _ in range(100):
        if free() == 4:
            return True
        await asyncio.sleep(0.1)
    return False


def test_two_models_share_one_gpu() -> None:
    """Three pools that fit only because two of them share."""

    async def use() -> None:
        found = await opened(
            {
                "engine": config(gpu_fraction=0.3),
                "optimizer_engine": config(gpu_fraction=0.6),
                "other": config(replicas=3),
            }
        )
        assert found["engine"] == found["optimizer_engine"]
        assert len({*found["engine"], *found["other"]}) == 4
        assert await all_free(), "closed pools give their GPUs back"

    asyncio.run(use())


def test_parts_of_gpus_are_put_on_few_of_them() -> None:
    pools = {"engine": config(gpu_fraction=0.3, replicas=2), "optimizer_engine": config(gpu_fraction=0.6, replicas=2)}
    sums, where = put_together(pools)
    assert sums == [0.9, 0.9]
    assert where == {"engine": [0, 1], "optimizer_engine": [0, 1]}
    thirds = {table: config(gpu_fraction=0.33) for table in "abc"}
    assert put_together(thirds) == ([0.99], {"a": [0], "b": [0], "c": [0]})
    assert put_together({}) == ([], {})


def test_a_larger_replica_finds_its_node_beside_many_small_ones() -> None:
    """Two replicas spread over both nodes would leave none with two GPUs."""

    async def use() -> None:
        found = await opened({"engine": config(replicas=2), "optimizer_engine": config(tensor_parallel_size=2)})
        (large,) = found["optimizer_engine"]
        assert large.count(",") == 1
        assert {each.split()[0] for each in found["engine"]} != {large.split()[0]}
        assert await all_free()

    asyncio.run(use())


def test_a_replica_spans_nodes_in_a_group_of_its_own() -> None:
    async def use() -> None:
        places = await reserve({"engine": config(tensor_parallel_size=2, pipeline_parallel_size=2)})
        assert places["engine"].spans
        places["engine"].release()
        settings = config(pipeline_parallel_size=3)
        (workers,) = (await opened({"engine": settings}, "workers"))["engine"]
        assert len(set(workers.split())) == 2
        assert len(workers.split()) == 3
        assert await all_free()

    asyncio.run(use())


@pytest.mark.parametrize(
    ("agents", "optimizers"),
    [
        ({}, {}),
        ({"tensor_parallel_size": 2}, {}),
        ({"replicas": 3}, {"tensor_parallel_size": 2}),
        ({"replicas": 4}, {"tensor_parallel_size": 2, "replicas": 2}),
    ],
)
def test_pools_that_take_turns_use_the_same_gpus(agents: dict[str, Any], optimizers: dict[str, Any]) -> None:
    async def use() -> None:
        pools = {"engine": config(**agents), "optimizer_engine": config(**optimizers)}
        found = await opened(pools, reserve=reserve_in_turns)
        gpus = {}
        for table, settings in pools.items():
            where = [each.split() for each in found[table]]
            assert all(len(ids.split(",")) == settings.gpus for _, ids in where)
            gpus[table] = [(node, one) for node, ids in where for one in ids.split(",")]
            assert len(set(gpus[table])) == settings.gpus * settings.replicas, "each replica has its own"
        fewer, more = sorted(map(set, gpus.values()), key=len)
        assert fewer <= more
        assert await all_free()

    asyncio.run(use())


def test_what_cannot_take_turns_is_refused_at_once() -> None:
    across = {"engine": config(), "optimizer_engine": config(tensor_parallel_size=4)}
    with pytest.raises(ConfigError, match="a replica of optimizer_engine has 4 GPUs, and no node has more than 2: eng"):
        asyncio.run(reserve_in_turns(across))
    many = {"engine": config(replicas=5), "optimizer_engine": config()}
    with pytest.raises(ConfigError, match="engine and optimizer_engine take turns on 5 GPUs"):
        asyncio.run(reserve_in_turns(many))
    apart = {"engine": config(device="cpu"), "optimizer_engine": config()}
    with pytest.raises(ConfigError, match="but engine is on the CPU and optimizer_engine is on the GPU"):
        asyncio.run(reserve_in_turns(apart))
    assert free() == 4


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        (
            {"engine": {"replicas": 5}},
            r"engine needs 5 GPUs \(replicas × GPUs of each = 5 × 1\), and the Ray cluster has 4;",
        ),
        (
            {"engine": {"replicas": 4}, "optimizer_engine": {}},
            r"engine needs 4 GPUs .* and optimizer_engine needs 1 GPU .*, together 5, and the Ray cluster has 4; let "
            r"them share a GPU by engine\.gpu_fraction and optimizer_engine\.gpu_fraction",
        ),
        ({"engine": {"data_parallel_size": 4}}, r"no node has more than 2: set engine\.data_parallel_size = 1"),
        ({"engine": {"quantization": "int8"}}, r"engine\.quantization = 'int8' is for CPU engines"),
    ],
)
def test_what_cannot_fit_is_refused_at_once(pools: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(reserve({table: config(**settings) for table, settings in pools.items()}))
    assert free() == 4


def test_gpus_that_others_use_are_waited_for_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "WAIT_S", 1.0)

    async def use() -> None:
        taken = await reserve({"engine": config(replicas=2)})
        with pytest.raises(ConfigError, match=r"has 4 on 2 nodes, of which 2 are free: end what else uses them"):
            await reserve({"engine": config(replicas=3)})
        taken["engine"].release()
        taken["engine"].release()
        assert await all_free()

    asyncio.run(use())


def test_named_engines_keep_their_gpus_until_they_are_ended() -> None:
    async def use() -> None:
        settings = config(replicas=2, pool_name="kept")
        place = (await reserve({"engine": settings}))["engine"]
        pool = await host(Located, settings, HostedModel(model="m", device="gpu", replicas=2), place=place)
        pool.owned = False  # as for a command that was killed
        await pool.aclose()
        assert ray.get_actor("engine/kept/0", namespace=NAMESPACE)
        assert free() == 2
        assert end_named("kept") == 2
        assert await all_free()

    asyncio.run(use())


def test_on_the_cpu_nothing_is_reserved() -> None:
    place = asyncio.run(reserve({"engine": config(device="cpu", replicas=8)}))["engine"]
    assert (place.device, place.groups, place.options(0)) == ("cpu", [], {"scheduling_strategy": "SPREAD"})
