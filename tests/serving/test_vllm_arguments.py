"""Settings for vLLM: checked against the installed version, and carried to a real engine with a random model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest, Constraint, Message, Sampling
from agentopt_local.errors import AgentOptError, ConfigError
from ray_jobs.config import load_config
from serving import vllm_arguments
from serving.engine_config import EngineConfig
from serving.vllm_arguments import KEPT, SETTINGS, check_arguments, mistake, schemas
from serving.vllm_start import one_line


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def known(cache: Path) -> Iterator[dict[str, Any]]:
    """What the installed vLLM takes, asked once."""
    if vllm_arguments.installed() is None:
        pytest.skip("vLLM is not installed")
    schemas.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTOPT_CACHE", str(cache))
        found = schemas()
    assert found is not None
    yield found
    schemas.cache_clear()


def refusal(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_arguments(EngineConfig.model_validate(settings))
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"vllm": {"max_lora": 2}},
            "engine.vllm.max_lora is not an argument of vllm… did you mean engine.vllm.max_loras?",
        ),
        ({"vllm": {"block_size": "big"}}, 'engine.vllm.block_size = "big": vllm… takes integer'),
        ({"vllm": {"enable_eplb": 1}}, "engine.vllm.enable_eplb = 1: vllm… takes boolean"),
        (
            {"vllm": {"compilation_config": {"pas_config": {}}}},
            "engine.vllm.compilation_config.pas_config … pass_config?",
        ),
        (
            {"vllm": {"scheduling_policy": "lifo"}},
            'engine.vllm.scheduling_policy = "lifo": not a value … fcfs, priority',
        ),
        ({"vllm": {"_api_process_rank": 1}}, "engine.vllm._api_process_rank is not an argument of vllm"),
        ({"quantization": "fp9"}, 'engine.quantization = "fp9": not a value that vllm… did you mean'),
        ({"kv_cache_dtype": "fp8_e4"}, "engine.kv_cache_dtype = \"fp8_e4\": not a value … did you mean 'fp8_e4m3'?"),
        (
            {"speculative_config": {"methd": "ngram"}},
            "engine.speculative_config.methd is not a key … did you mean method?",
        ),
        (
            {"speculative_config": {"num_speculative_tokens": "3"}},
            "engine.speculative_config.num_speculative_tokens = ",
        ),
        (
            {"vllm": {"structured_outputs_config": {}}},
            "engine.vllm.structured_outputs_config cannot be changed: the gram",
        ),
        ({"vllm": {"enable_prefix_caching": False}}, "engine.vllm.enable_prefix_caching cannot be changed: each turn"),
        (
            {"vllm": {"kv_cache_dtype": "fp8"}},
            "engine.vllm.kv_cache_dtype has a setting of its own: engine.kv_cache_dtype",
        ),
        ({"vllm": {"nnodes": 2}}, "engine.vllm.nnodes cannot be changed: Ray places engines"),
    ],
)
def test_each_mistake_is_one_line_with_the_key_and_what_is_right(
    settings: dict[str, Any], message: str, known: dict[str, Any]
) -> None:
    (line,) = refusal(**settings)
    rest = line
    for part in message.split("…"):
        assert part.strip() in rest, line
        rest = rest.partition(part.strip())[2]


def test_all_mistakes_are_told_at_once(known: dict[str, Any]) -> None:
    assert len(refusal(vllm={"nnodes": 2, "max_lora": 1}, kv_cache_dtype="none")) == 3


def test_what_vllm_takes_passes(known: dict[str, Any]) -> None:
    check_arguments(
        EngineConfig.model_validate(
            {
                "quantization": "fp8",
                "kv_cache_dtype": "fp8_e5m2",
                "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4},
                "vllm": {
                    "num_gpu_blocks_override": 100,
                    "attention_backend": "FLASH_ATTN",
                    "compilation_config": {"cudagraph_mode": "FULL"},
                    "limit_mm_per_prompt": {"image": 0},
                    "cpu_offload_gb": 4,
                    "hf_overrides": {"rope_theta": 1},
                },
            }
        )
    )
    for name in (*SETTINGS, *KEPT):
        assert name in known, "a name that we refuse is one of vLLM's"


def test_vllm_is_asked_once_per_version(known: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTOPT_CACHE", str(cache))
    schemas.cache_clear()
    monkeypatch.setattr(vllm_arguments.subprocess, "run", lambda *_, **__: pytest.fail("the answer is in the cache"))
    assert schemas() == known
    assert mistake("x.seed", "seed", 1, known) is None


def test_without_vllm_here_the_engine_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_arguments, "installed", lambda: None)
    schemas.cache_clear()
    check_arguments(EngineConfig(vllm={"anything": 1}))
    schemas.cache_clear()
    with pytest.raises(ConfigError, match=r"optimizer_engine\.vllm\.nnodes cannot be changed"):
        check_arguments(EngineConfig(vllm={"nnodes": 1}), "optimizer_engine")


def test_ordinary_settings_do_not_ask_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_arguments, "schemas", lambda: pytest.fail("nothing of vLLM's was set"))
    check_arguments(EngineConfig(quantization="int8", tensor_parallel_size=2, trust_remote_code=True))


def test_the_command_line_reaches_tables_whose_keys_are_vllms(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[task]\nspec = "reasoning_gym:spell_backward"\n[engine.vllm]\nblock_size = 16\n')
    flags = ["--engine.vllm.max-num-partial-prefills", "2", "--engine.speculative_config.method", "ngram"]
    config = load_config(path, [*flags, "--optimizer_engine.vllm.hf_overrides.rope_theta=3", "--concurrency", "auto"])
    assert config.engine.vllm == {"block_size": 16, "max_num_partial_prefills": 2}
    assert config.engine.speculative_config == {"method": "ngram"}
    assert config.optimizer_engine is not None
    assert config.optimizer_engine.vllm == {"hf_overrides": {"rope_theta": 3}}
    assert config.concurrency == "auto"
    for flags, message in (
        (
            ["--engine.max_num_seqs", "many"],
            '--engine.max_num_seqs = "many": input should be a valid integer.* or input '
            "should be 'auto'; it is: Largest batch",
        ),
        (
            ["--engine.max_model_len", "8"],
            "--engine.max_model_len = 8: input should be greater than or equal to 256 or",
        ),
        (
            ["--engine.gpu_fraction", "0.5", "--engine.tensor_parallel_size", "2"],
            r"gpu_fraction = 0\.5 is a share of one",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(path, flags)


def test_what_vllm_says_becomes_one_line() -> None:
    text = (
        "1 validation error for ModelConfig\n  Value error, no such thing [type=value_error, input_value=1]\n    For "
    )
    assert one_line(ValueError(text + "further information visit https://errors.pydantic.dev/2/v")) == "no such thing"
    assert len(one_line(ValueError("x" * 1000))) < 400


# A real engine


def start(folder: Path, loop: asyncio.Runner, **settings: Any) -> Any:
    from serving.pool import start_pool

    small = {"device": "cpu", "kv_cache_gib": 1, "max_restarts": 0}
    return loop.run(start_pool(folder, EngineConfig.model_validate(small | settings)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from serving.model_store import resolve
    from tests.tools.random_model import random_llama

    try:
        tokenizer = resolve("qwen2.5-coder-0.5b", allow_fetch=False)
    except ConfigError as error:
        pytest.skip(f"the embedded test model is not here ({error}); make test fetches it")
    return random_llama(tmp_path_factory.mktemp("tiny"), tokenizer)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    from ray_jobs.cluster import connect, disconnect
    from ray_jobs.config import RayConfig

    connect(RayConfig())
    with asyncio.Runner() as loop:
        yield loop
    disconnect()


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_settings_reach_vllm(folder: Path, runner: asyncio.Runner) -> None:
    settings = {
        "vllm": {"num_gpu_blocks_override": 40, "block_size": 64},
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3},
    }
    pool = start(folder, runner, **settings)
    assert pool.facts.kv_cache_tokens == 40 * 64
    assert (pool.facts.max_model_len, pool.max_num_seqs) == (1024, 64)
    request = ChatRequest(
        messages=(Message(role="user", content="one two one two"),),
        constraint=Constraint(kind="regex", value="(one|two)( (one|two)){3}"),
        sampling=Sampling(max_tokens=40),
    )
    reply = runner.run(pool.complete(request))
    assert set(reply.message.content.split()) <= {"one", "two"}
    assert len(reply.message.content.split()) == 4
    runner.run(pool.aclose())


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "awq"}, "replica 0: vLLM refuses the engine's settings: Cannot find the config file for awq"),
        ({"max_model_len": 4096}, "refuses the engine's settings: User-specified max_model_len .4096. is greater than"),
        ({"vllm": {"load_format": "pt"}}, "vLLM could not start: RuntimeError: Cannot find any model weights"),
    ],
)
def test_what_vllm_refuses_ends_with_one_line(
    settings: dict[str, Any], message: str, folder: Path, runner: asyncio.Runner
) -> None:
    with pytest.raises(AgentOptError, match=message) as raised:
        start(folder, runner, **settings)
    assert "\n" not in str(raised.value)
