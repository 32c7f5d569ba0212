"""Whether a model fits this machine's GPUs or memory, and what its engine will get: before anything is fetched."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence

from agentopt_local.errors import ConfigError
from ray_jobs.commands.checks import DEMO, GIB, Check, memory_bytes
from serving.engine_config import EngineConfig
from serving.hub import commit_of, list_files
from serving.model_store import EMBEDDED, resolve
from serving.sizing import Fit, ModelFacts, cpu_sizes, fit, read_folder, read_listing
from serving.vllm_arguments import check_arguments

REMEDIES = (
    {"kv_cache_dtype": "fp8"},
    {"quantization": "fp8"},
    {"quantization": "fp8", "kv_cache_dtype": "fp8"},
    {"tensor_parallel_size": 2},
    {"tensor_parallel_size": 4},
    {"tensor_parallel_size": 8},
    {"tensor_parallel_size": 8, "pipeline_parallel_size": 2},
)
"""Settings that make a model fit, the cheapest first."""
CPU_WORK = 2 * GIB
"""Memory of a CPU engine beside weights and KV cache."""


def gpus() -> list[tuple[str, int]]:
    """The name and the bytes of memory of each GPU that nvidia-smi reports."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rpartition(",") for line in done.stdout.strip().splitlines()]
    return [(name.strip(), int(mib) << 20) for name, _, mib in rows if mib.strip().isdigit()]


def check_fit(name: str, engine: EngineConfig, cards: Sequence[tuple[str, int]]) -> list[Check]:
    """Check a model, here or on the hub, on each kind of card with these settings; or else in this machine's memory.

    Raises ConfigError if there is no such model, or vLLM does not know a setting.
    """
    check_arguments(engine)
    facts, found = look_up(name)
    checks = [Check(name=f"model {name}", status="ok", found=found), *check_template(name, engine)]
    if facts is None:
        advice = "its configuration has keys that are not known here; vLLM may run it all the same"
        return [*checks, Check(name="memory", status="warning", found="cannot be estimated", advice=advice)]
    if not cards or engine.device == "cpu":
        return [*checks, check_memory(facts, engine, memory_bytes())]
    kinds = dict.fromkeys(cards)
    return [*checks, *(check_card(facts, engine, card, memory, len(cards)) for card, memory in kinds)]


def check_template(name: str, engine: EngineConfig) -> list[Check]:
    """Check the tokenizer and the chat template of a model that is here, and say what they show about its family."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its parsers are imported, which reports about this machine
    from serving.engine import transcripts_of

    try:
        folder = resolve(name, allow_fetch=False)
    except ConfigError:  # on the hub
        return []
    if not any(folder.glob("tokenizer*")):
        return []
    try:
        family = transcripts_of(folder, trust_remote_code=engine.trust_remote_code).family
    except ConfigError as error:
        return [Check(name="chat template", status="missing", found=str(error))]
    return [Check(name="chat template", status="ok", found=f"calls: {family.calls}; thinks: {family.thinks}")]


def look_up(name: str) -> tuple[ModelFacts | None, str]:
    """The facts of a model and a line about where it is. Of a model on the hub only small files are read."""
    try:
        folder = resolve(name, allow_fetch=False)
    except ConfigError:
        hub_id = EMBEDDED[name].hub_id if name in EMBEDDED else name
        if "/" not in hub_id:
            raise
        listing = list_files(hub_id)
        size = f"{listing.size() / 1e9:.1f} GB"
        found = f"{size} to fetch with: agentopt models pull {name} (commit {listing.commit[:12]})"
        return read_listing(hub_id, listing), found
    commit = commit_of(folder)
    return read_folder(folder), str(folder) if commit is None else f"{folder}, commit {commit[:12]}"


def check_card(facts: ModelFacts, engine: EngineConfig, card: str, memory: int, cards: int) -> Check:
    """Check whether a model fits cards of one kind, of which the machine has ``cards``."""
    found = fit(facts, engine, memory)
    if found.fits and engine.gpus > cards:
        text = f"a replica has {engine.gpus} GPUs, and this machine has {cards}: its GPUs have to be on several nodes"
        return Check(name=card, status="warning", found=f"{text}; {found}")
    if found.fits:
        return Check(name=card, status="ok", found=f"{found.reason}; {found}")
    return Check(name=card, status="missing", found=found.reason, advice=advice_for(facts, engine, memory, found))


def advice_for(facts: ModelFacts, engine: EngineConfig, memory: int, found: Fit) -> str:
    """The cheapest change of the settings with which a model fits."""
    for change in REMEDIES:
        if engine.gpu_fraction < 1 and "tensor_parallel_size" in change:
            continue
        if fit(facts, engine.model_copy(update=change), memory).fits:
            return "it fits with " + " and ".join(
                f"engine.{key} = {json.dumps(value)}" for key, value in change.items()
            )
    return "use a smaller model, or one whose files are quantized"


def check_memory(facts: ModelFacts, engine: EngineConfig, memory: int) -> Check:
    """Check whether a model fits a CPU engine on a machine with so many bytes of memory."""
    need = facts.weights + int(engine.kv_cache_gib * GIB) + CPU_WORK
    sizes = cpu_sizes(engine, facts)
    growing = facts.full + facts.sliding  # 0 if all layers have linear attention
    tokens = f" = {int(engine.kv_cache_gib * GIB / growing):,} tokens" if growing else ""
    text = (
        f"weights {facts.weights / GIB:.1f} GiB, KV cache {engine.kv_cache_gib:g} GiB{tokens}; max_model_len "
        f"{sizes.max_model_len}, max_num_seqs {sizes.max_num_seqs}"
    )
    if need > memory:
        need_text = f"it needs {need / GIB:.1f} GiB of memory, and there are {memory / GIB:.1f}: {text}"
        return Check(name="CPU", status="missing", found=need_text, advice="lower engine.kv_cache_gib, or use a GPU")
    return Check(name="CPU", status="ok", found=f"it fits {memory / GIB:.1f} GiB of memory; {text}")


def check_engine() -> list[Check]:
    """What the demo's engine gets on this machine's GPUs, if it has any and the model is here."""
    from ray_jobs.config import load_config

    cards = gpus()
    if not cards or not DEMO.is_file():
        return []
    config = load_config(DEMO)
    try:
        facts = read_folder(resolve(config.model.name, allow_fetch=False))
    except ConfigError:  # check_models reports that it is not here
        return []
    kinds = dict.fromkeys(cards)
    found = [check_card(facts, config.engine, *kind, len(cards)) for kind in kinds] if facts else []
    return [each.model_copy(update={"name": f"engine on {each.name}", "required": False}) for each in found]
