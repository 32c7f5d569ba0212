"""The arithmetic of a CPU engine for each kind of processor, its environment, kernels and speed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.errors import ConfigError
from serving import cpu
from serving.calibration import weights
from serving.engine_config import EngineConfig
from serving.facts import Arithmetic, Speed
from serving.sizing import cpu_sizes
from serving.vllm_options import engine_environment, engine_options, step_tokens
from serving.vllm_start import last_error, not_installed

AUTO = EngineConfig()
AVX2 = frozenset({"avx2"})
SKYLAKE = AVX2 | {"avx512f"}
CASCADE = SKYLAKE | {"avx512_vnni"}
ZEN4 = CASCADE | {"avx512_bf16"}
SAPPHIRE = ZEN4 | {"amx_int8"}
EXACT = EngineConfig(dtype="float32")
BF16 = EngineConfig(dtype="bfloat16")
ISAS = ["auto", "avx2"] if cpu.features() != cpu.features("avx2") else ["auto"]
"""Ways that this machine can compute: as it is, and as one with AVX2 alone."""


# The choice


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="of x86 processors")
@pytest.mark.parametrize(
    ("config", "found", "dtype", "kernel", "slow"),
    [
        (AUTO, AVX2, "bfloat16", "fbgemm", False),
        (AUTO, AVX2 | {"avx_vnni"}, "bfloat16", "fbgemm", False),
        (AUTO, SKYLAKE, "bfloat16", "fbgemm", False),
        (AUTO, CASCADE, "bfloat16", "onednn", False),
        (AUTO, ZEN4, "bfloat16", "onednn", False),
        (AUTO, SAPPHIRE, "bfloat16", "onednn", False),
        (EXACT, AVX2, "float32", None, False),
        (EXACT, SAPPHIRE, "float32", None, False),
        (BF16, ZEN4, "bfloat16", None, False),
        (BF16, AVX2, "bfloat16", None, True),
        (BF16, CASCADE, "bfloat16", None, True),
        (EngineConfig(quantization="none"), AVX2, "float32", None, False),
        (EngineConfig(quantization="none"), ZEN4, "bfloat16", None, False),
        (EngineConfig(dtype="float32", quantization="int8"), AVX2, "float32", "fbgemm", False),
    ],
)
def test_the_arithmetic_follows_the_processor(
    config: EngineConfig, found: frozenset[str], dtype: str, kernel: str | None, slow: bool
) -> None:
    chosen = cpu.choose(config, found)
    assert (chosen.dtype, chosen.kernel, chosen.slow) == (dtype, kernel, slow)
    assert (chosen.quantization == "int8") == (kernel is not None)
    assert cpu.describe(found) in chosen.reason or "asked for" in chosen.reason


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="of x86 processors")
def test_a_processor_without_avx2_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has no AVX2, which vLLM's CPU build needs.*--model\.base_url"):
        cpu.choose(AUTO, frozenset())


def test_without_the_plugin_products_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "plugged_in", lambda: False)
    assert cpu.choose(AUTO, AVX2).quantization is None
    with pytest.raises(ConfigError, match=r"engine\.quantization = 'int8' needs this package installed"):
        cpu.choose(EngineConfig(quantization="int8"), AVX2)


def test_a_quantized_model_runs_as_it_is() -> None:
    assert cpu.choose(AUTO, ZEN4, quantized=True).quantization is None


def test_features_are_read_and_hidden() -> None:
    assert cpu.features() <= cpu.KNOWN.keys()
    assert cpu.features("avx2") == cpu.features() & {"avx2"}
    assert cpu.describe(SAPPHIRE) == "AVX2, AVX512, VNNI, BF16, AMX"


def test_the_environment_of_an_engine() -> None:
    env = cpu.environment(EngineConfig(replicas=2, kv_cache_gib=3), cores=8)
    assert env["OMP_NUM_THREADS"] == "4"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "3"
    library = cpu.intel_openmp()
    assert env.get("LD_PRELOAD") == library
    assert library is None or Path(library).is_file()
    assert cpu.ISA_VARIABLE not in env
    assert cpu.environment(EngineConfig(cpu_isa="avx2"), cores=1)["ONEDNN_MAX_CPU_ISA"] == "AVX2"


# A step's size


def speed(prompt: float) -> Speed:
    arithmetic = Arithmetic(dtype="bfloat16", quantization="int8", kernel="fbgemm", reason="")
    return Speed(arithmetic=arithmetic, features="AVX2", prompt=prompt, generated={1: 5.0, 8: 30.0, 32: 50.0})


@pytest.mark.parametrize(("prompt", "tokens"), [(1, 64), (50, 192), (200, 800), (100_000, 8192)])
def test_a_step_reads_what_takes_seconds(prompt: float, tokens: int) -> None:
    config = EngineConfig(max_num_seqs=32)
    assert step_tokens(cpu_sizes(config, None), speed(prompt)) == tokens
    options = engine_options(Path("m"), config, speed=speed(prompt))
    assert options["max_num_batched_tokens"] == tokens
    assert options["quantization"] == cpu.INT8_METHOD


def test_a_gpu_engine_is_left_alone() -> None:
    options = engine_options(Path("m"), AUTO)
    assert options["dtype"] == "auto"
    assert options["max_num_batched_tokens"] == 8192
    assert options["quantization"] is None
    assert "enable_logging_iteration_details" not in options


def test_speeds_between_the_measured_sizes() -> None:
    assert [speed(10).at(size) for size in (1, 7, 8, 31, 500)] == [5, 5, 30, 30, 50]


def test_weights_of_a_model(tmp_path: Path) -> None:
    shape = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"num_key_value_heads": 2, "vocab_size": 151936}))
    product, body, head = weights(tmp_path)
    assert product == (8960, 1536)
    assert body == pytest.approx(1.31e9, rel=0.01)
    assert head == 151936 * 1536
    (tmp_path / "config.json").write_text(json.dumps({"n_embd": 768, "n_layer": 12}))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 2000)
    assert weights(tmp_path) == ((4096, 1024), 1000, 0)


# What ended an engine

CORE_LOG = """\
(EngineCore pid=7) ERROR 11-26 03:10:11 [core.py:900] EngineCore encountered a fatal error.
(EngineCore pid=7) ERROR 11-26 03:10:11 [core.py:900] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-26 03:10:11 [core.py:900] TimeoutError: RPC call to execute_model timed out.
(ModelActor pid=3) ERROR 11-26 03:10:12 [async_llm.py:700] vllm.v1.engine.exceptions.EngineDeadError: EngineCore died.
EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.
"""


def test_the_root_cause_is_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    log.write_text("x" * 100_000 + "\n" + CORE_LOG)
    assert last_error(log) == "TimeoutError: RPC call to execute_model timed out."
    log.write_text("all is well\n")
    assert last_error(log) is None
    assert last_error(tmp_path / "nothing") is None


LOGGING = """
from pathlib import Path
from vllm.logger import init_logger
from serving.vllm_start import last_error, not_installed
try:
    raise RuntimeError("no such kernel")
except RuntimeError:
    init_logger("vllm.v1.engine.core").exception("EngineCore encountered a fatal error.")
print(last_error())
"""


def test_what_vllm_logs_goes_where_the_root_cause_is_sought(tmp_path: Path) -> None:
    env = os.environ | engine_environment(EngineConfig(), cpu=False, cores=2)
    with (tmp_path / "worker.err").open("w") as log:
        done = subprocess.run([sys.executable, "-c", LOGGING], env=env, stdout=subprocess.PIPE, stderr=log, check=True)
    assert done.stdout.decode().strip() == "RuntimeError: no such kernel"


def test_a_model_that_needs_torchvision_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("Model architectures ['Gemma4ForConditionalGeneration'] failed to be inspected. Check the logs.")
    for found, said in ((None, True), (importlib.util.find_spec("json"), False)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        assert ("install the build for this torch" in not_installed(error)) == said
    assert not_installed(ValueError("Cannot find the config file for awq")) == ""


# The kernels, in a process with an engine's environment

KERNELS = """
import json, sys
import torch
from vllm.platforms import current_platform
current_platform.import_kernels()
from serving import cpu_kernels
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch as sort

torch.manual_seed(0)
out = {"avx512": torch.cpu._is_avx512_supported(), "preload": "libiomp5" in open("/proc/self/maps").read()}
x, weight, bias = torch.randn(5, 640), torch.randn(192, 640) * 0.02, torch.randn(192)
for name in cpu_kernels.KERNELS:
    for dtype in (torch.bfloat16, torch.float32):
        torch.set_default_dtype(dtype)  # as vLLM does while it loads a model
        product = cpu_kernels.packed(weight.to(dtype), name)
        torch.set_default_dtype(torch.float32)
        found = product(x.to(dtype)[None], bias.to(dtype))
        exact = x @ weight.T + bias
        error = (found[0].float() - exact).norm() / exact.norm()
        out[f"{name} {dtype}"] = [list(found.shape), str(found.dtype), float(error)]
    # Everything at its largest: sums in 16 bits would overflow.
    full = cpu_kernels.packed(torch.ones(32, 640), name)(torch.ones(2, 640), None)
    out[f"{name} full"] = float((full - 640).abs().max())
    zero = cpu_kernels.packed(torch.zeros(32, 640), name)(torch.zeros(2, 640), None)
    out[f"{name} zero"] = float(zero.abs().max())

logits = torch.randn(6, 5000) * 4
logits[5] = 0.001 * torch.randn(5000)  # nearly flat: its nucleus is wider than the tokens that are looked at
p = torch.tensor([0.95, 1.0, 0.5, 0.001, 0.999, 0.95])
ours, theirs = cpu_kernels.top_p(logits.clone(), p, sort), sort(logits.clone(), None, p)
out["nucleus"] = [[int(row.isfinite().sum()) for row in each] for each in (ours, theirs)]
kept = ours.isfinite()
out["untouched"] = bool((ours[kept] == logits[kept]).all())

from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.activation import SiluAndMul
cpu_kernels.register()
with set_current_vllm_config(VllmConfig()):
    layer = SiluAndMul()
gates = torch.randn(3, 2 * 640)
error = (layer.forward_cpu(gates) - SiluAndMul.forward_native(gates)).abs().max()
out["activation"] = [type(layer).__name__, float(error)]
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=ISAS)
def kernels(request: pytest.FixtureRequest) -> dict[str, Any]:
    config = EngineConfig(cpu_isa=request.param)
    env = os.environ | cpu.environment(config, cores=2) | {"VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERNELS],
        capture_output=True, text=True, env=env, check=False, timeout=300,
    )  # fmt: skip
    if "No module named 'vllm'" in done.stderr:
        pytest.skip("vLLM is not installed")
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"isa": request.param}


def test_a_newer_processor_passes_for_an_older_one(kernels: dict[str, Any]) -> None:
    assert kernels["avx512"] == ("avx512f" in cpu.features(kernels["isa"]))
    assert kernels["preload"] == (cpu.intel_openmp() is not None)


@pytest.mark.parametrize(("name", "allowed"), [("fbgemm", 0.02), ("onednn", 0.015)])
def test_products_in_int8_are_near_the_exact_ones(kernels: dict[str, Any], name: str, allowed: float) -> None:
    for dtype in ("torch.bfloat16", "torch.float32"):
        shape, told, error = kernels[f"{name} {dtype}"]
        assert (shape, told) == ([1, 5, 192], dtype)
        assert error < allowed
    assert kernels[f"{name} zero"] == 0.0


def test_sums_do_not_overflow(kernels: dict[str, Any]) -> None:
    assert kernels["fbgemm full"] < 1e-2
    if cpu.choose(AUTO, cpu.features(kernels["isa"])).kernel == "onednn":  # on AVX2 alone it does overflow
        assert kernels["onednn full"] < 1e-2


def test_top_p_keeps_what_sorting_keeps(kernels: dict[str, Any]) -> None:
    ours, theirs = kernels["nucleus"]
    assert ours == theirs
    assert theirs[1] == 5000
    assert theirs[5] > 1024
    assert kernels["untouched"]


def test_vllm_takes_our_activation(kernels: dict[str, Any]) -> None:
    name, error = kernels["activation"]
    assert name == "FusedSiluAndMul"
    assert error < 1e-5
