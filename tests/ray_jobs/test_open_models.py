"""Which engines a run starts, on which cluster, and how many rollouts it admits."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from agentopt_local.errors import ConfigError
from agentopt_local.models.scripted import ScriptedChatModel
from ray_jobs import cluster, open_models
from ray_jobs.config import RayConfig, RunConfig, build
from ray_jobs.open_models import check_model, hosted_models, use_cluster
from ray_jobs.session import admission_of

ENDPOINT = {"name": "m", "base_url": "http://127.0.0.1:9/v1"}


def config(**settings: Any) -> RunConfig:
    return build({"task": {"spec": "reasoning_gym:spell_backward"}, **settings}, "test")


@pytest.mark.parametrize(
    ("settings", "tables"),
    [
        ({}, ["engine"]),
        ({"optimizer_model": {"name": "other/model"}}, ["engine", "optimizer_engine"]),
        ({"optimizer_engine": {"replicas": 2}}, ["engine", "optimizer_engine"]),
        ({"optimizer_model": ENDPOINT}, ["engine"]),
        ({"model": ENDPOINT}, []),
        ({"model": ENDPOINT, "optimizer_model": {"name": "other/model"}}, ["optimizer_engine"]),
        ({"engine": {"pool_name": "shared"}}, []),
        ({"engine": {"pool_name": "shared"}, "optimizer_engine": {}}, ["optimizer_engine"]),
    ],
)
def test_engines_are_started_for_models_that_are_neither_elsewhere_nor_shared(
    settings: dict[str, Any], tables: list[str]
) -> None:
    assert list(hosted_models(config(**settings))) == tables


def test_settings_of_both_engines_are_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.model_store.resolve", lambda name, allow_fetch: None)
    settings = config(optimizer_model={"name": "other/model"}, optimizer_engine={"vllm": {"nnodes": 2}})
    with pytest.raises(ConfigError, match=r"optimizer_engine\.vllm\.nnodes cannot be changed: Ray places engines"):
        check_model(settings)


def test_a_run_that_joins_engines_by_name_starts_its_own_on_their_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[RayConfig] = []
    monkeypatch.setattr(cluster, "connect", joined.append)
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(joined))
    both = config(engine={"pool_name": "shared"}, optimizer_engine={})
    stack = AsyncExitStack()
    use_cluster(both, stack)
    use_cluster(both, stack)
    assert [each.address for each in joined] == ["auto"]
    joined.clear()
    use_cluster(config(), stack)
    assert [each.address for each in joined] == [None]


def test_concurrency_follows_the_batches_of_the_engines() -> None:
    engines = SimpleNamespace(max_num_seqs=944, kv_cache_tokens=None)
    endpoint = ScriptedChatModel([])
    assert admission_of(config(), engines).limit == 944  # type: ignore[arg-type]
    assert admission_of(config(), endpoint).limit == open_models.ENDPOINT_CONCURRENCY
    assert admission_of(config(concurrency=3), engines).limit == 3  # type: ignore[arg-type]
    small = SimpleNamespace(max_num_seqs=944, kv_cache_tokens=15_000)
    assert admission_of(config(), small).limit == 10  # type: ignore[arg-type]
