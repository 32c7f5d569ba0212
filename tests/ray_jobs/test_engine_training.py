"""Short trainings from the command line: with a hosted engine, on a cluster, and with vLLM's own server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentopt_local.errors import ConfigError
from tests.tools.servers import wait_until_healthy

pytestmark = pytest.mark.engine
MODEL = "qwen2.5-coder-0.5b"
ROOT = Path(__file__).parents[2]
CONFIG = """
concurrency = 32
[task]
spec = "reasoning_gym:spell_backward"
n_train = 8
n_test = 8
[model]
name = "{model}"
[engine]
max_model_len = 2048
max_num_seqs = 32
kv_cache_gib = 1
[agent]
max_turns = 2
max_turn_tokens = 80
think = false
[optimizer]
n_samples = 4
max_retries = 1
max_source_tokens = 120
[trainer]
max_epochs = 1
[evaluation]
n_validation = 12
"""


@pytest.fixture(scope="module")
def model_path() -> Path:
    from serving.model_store import resolve

    try:
        return resolve(MODEL, allow_fetch=False)
    except ConfigError as error:
        pytest.skip(f"the embedded test model is not here ({error}); make test fetches it")


def train(tmp_path: Path, *flags: str) -> Path:
    """Run ``agentopt train`` and return the run folder that it printed last."""
    config = tmp_path / "short.toml"
    config.write_text(CONFIG.format(model=MODEL))
    command = [sys.executable, "-m", "ray_jobs.cli", "train", str(config), "--run_dir", str(tmp_path / "runs"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def check_run(run: Path, *, constrained: bool) -> None:
    """What every finished run must hold, whatever the model could do."""
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["n"] == 8
    for side in ("before", "after"):
        low, high = report["test"][side]["ci95"]
        assert low <= report["test"][side]["accuracy"] <= high
    actions = report["actions"]
    assert actions["sampled"] >= 1
    assert actions["applied"] <= actions["verified"] <= actions["legal"] <= actions["sampled"]
    if constrained:
        assert actions["legal"] == actions["sampled"]
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1]
    assert steps[0]["before"]["n"] == steps[0]["after"]["n"] == 8
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    certified = [row for row in rollouts if row["stage"].startswith("validation")]  # if a function was kept
    assert len({row["problem_id"] for row in certified}) <= 12
    assert len({row["problem_id"] for row in rollouts if row not in certified}) == 16
    assert all(row["usage"]["completion_tokens"] > 0 for row in rollouts)


def test_a_short_training_on_a_hosted_engine(tmp_path: Path, model_path: Path) -> None:
    run = train(tmp_path, "--engine.cpu_isa", "avx2")
    check_run(run, constrained=True)
    meta = json.loads((run / "meta.json").read_text())
    assert meta["device"] in ("cpu", "gpu")
    if meta["device"] == "cpu":
        arithmetic = meta["engine"]["speed"]["arithmetic"]
        assert (arithmetic["quantization"], arithmetic["kernel"]) == ("int8", "fbgemm")
        assert arithmetic["reason"] == "the fastest on AVX2"
        log = (run / "run.log").read_text()
        said = ("int8 products (fbgemm)", "expected: about", "the training will take at most about", "under way, ")
        assert [text for text in said if text not in log] == []
        assert log.index("expected: about") < log.index("loading qwen2.5-coder-0.5b into vLLM")
    assert meta["sandbox"]
    again = subprocess.run(
        [sys.executable, "-m", "ray_jobs.cli", "show", str(run)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Held-out problems: 8" in again.stderr


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process group to end, and make it."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_line(text: str, log: Path, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while text not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{text!r} does not come: {log.read_text()[-3000:]}")
        time.sleep(0.2)


class Cluster:
    """A Ray cluster of its own, as ``ray start --head`` makes one, and commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address, self.jobs = f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self.files = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie in it
        self.home = folder / "home"
        self.home.mkdir()
        # Models are found where they are; only what a job writes to the home is looked at.
        cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        self.environment = os.environ | {"HOME": str(self.home), "XDG_CACHE_HOME": cache, "RAY_worker_niceness": "0"}
        self.environment["RAY_AUTH_MODE"] = "disabled"  # Ray may have a token in the real home, and none in this one
        self.environment.pop("RAY_ADDRESS", None)
        self.config = folder / "short.toml"
        self.config.write_text(CONFIG.format(model=MODEL))

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start ``python -m command`` in the background."""
        with (self.folder / log).open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=output, stderr=output, env=self.environment, start_new_session=True,
            )  # fmt: skip

    def head(self) -> subprocess.Popen[bytes]:
        """Start the cluster."""
        flags = ["--head", "--block", "--port", self.address.split(":")[1], "--num-cpus", "2", "--num-gpus", "0"]
        flags += ["--node-ip-address", "127.0.0.1", "--dashboard-port", self.jobs.rsplit(":", 1)[1]]
        flags += ["--object-store-memory", str(100 << 20), "--disable-usage-stats"]
        # Not in Ray's own folder: the address that a killed head leaves there misleads who joins "some cluster".
        flags += ["--temp-dir", str(self.files)]
        return self.start("ray.scripts.scripts", "start", *flags, log="ray.log")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m command`` in the checkout."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True, text=True, timeout=600, check=False, env=self.environment, cwd=ROOT,
        )  # fmt: skip


def test_served_engines_train_for_a_ray_job_and_for_a_command(tmp_path: Path, model_path: Path) -> None:
    cluster = Cluster(tmp_path)
    shared = ["--engine.pool_name", "shared"]
    joining = ["--ray.address", cluster.address, *shared]
    head = cluster.head()
    engines = None
    try:
        wait_for_line("Ray runtime started", tmp_path / "ray.log", head, 120)
        engines = cluster.start("ray_jobs.cli", "serve", str(cluster.config), *joining, log="serve.log")
        wait_for_line("serving", tmp_path / "serve.log", engines, 300)

        submit = ["ray.scripts.scripts", "job", "submit", "--address", cluster.jobs, "--working-dir", str(ROOT), "--"]
        job = ["-m", "ray_jobs.train", str(cluster.config), *shared, "--ray.rollout_workers", "2"]
        done = cluster.run(*submit, sys.executable, *job, "--run_name", "as_a_job")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Ray deletes this working directory; the run is kept in" in done.stdout + done.stderr
        check_run(cluster.home / "runs" / "as_a_job", constrained=True)

        done = cluster.run("ray_jobs.cli", "train", str(cluster.config), *joining, "--run_dir", str(tmp_path / "runs"))
        assert done.returncode == 0, done.stdout + done.stderr
        check_run(Path(done.stdout.strip().splitlines()[-1]), constrained=True)

        end(engines)
        done = cluster.run("ray_jobs.cli", "train", str(cluster.config), *joining, "--run_dir", str(tmp_path / "late"))
        assert done.returncode == 2
        assert "the Ray cluster has no such engines" in done.stderr
    finally:
        if engines is not None:
            end(engines)
        end(head)
        shutil.rmtree(cluster.files, ignore_errors=True)


@pytest.fixture
def server(model_path: Path, tmp_path: Path) -> Iterator[str]:
    """vLLM's own OpenAI-compatible server on loopback."""
    port = free_port()
    from serving import cpu
    from serving.engine_config import EngineConfig
    from serving.vllm_options import engine_environment

    config = EngineConfig(kv_cache_gib=1)
    chosen = cpu.choose(config, cpu.features())
    environment = os.environ | engine_environment(config, cpu=True, cores=cpu.cores())
    quantization = []
    if chosen.kernel is not None:  # our plugin is loaded by vLLM's own server too
        environment[cpu.KERNEL_VARIABLE] = chosen.kernel
        quantization = ["--quantization", cpu.INT8_METHOD]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model_path), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", chosen.dtype, "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "32"),
        *("--max-num-batched-tokens", "512", "--structured-outputs-config", '{"backend": "guidance"}'),
        *quantization,
    ]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process, tmp_path / "server.log", 400)
        yield f"{url}/v1"
    finally:
        end(process)
        log.close()


def test_the_same_config_against_a_server(tmp_path: Path, server: str) -> None:
    # The server reads prompts in chunks; without our plugin a seeded request would kill it on a CPU.
    run = train(tmp_path, "--model.base_url", server)
    check_run(run, constrained=False)
    assert json.loads((run / "meta.json").read_text())["device"] == "endpoint"
