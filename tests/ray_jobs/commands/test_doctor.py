"""The output of ``agentopt doctor`` and ``agentopt models``, the latter with a small hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from agentopt_local.errors import ConfigError
from ray_jobs.commands import checks as module
from ray_jobs.commands.checks import Check
from ray_jobs.commands.doctor import doctor
from ray_jobs.commands.model_files import models_list, models_path, models_pull, show_progress
from tests.tools.servers import serving

ROOT = Path(__file__).parents[3]
GOOD = Check(name="good", status="ok", found="here")
ABSENT = Check(name="absent", status="missing", found="not [installed]", advice="run: make install")


def group(*checks: Check) -> dict[str, Callable[[], list[Check]]]:
    return {"group": lambda: list(checks)}


def test_exit_codes_follow_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(groups=group(GOOD)) == 0
    assert "Training can run here." in capsys.readouterr().out
    assert doctor(groups=group(GOOD, ABSENT.model_copy(update={"required": False}))) == 0
    capsys.readouterr()
    assert doctor(groups=group(GOOD, ABSENT)) == 1
    text = capsys.readouterr().out
    assert "not [installed]" in text
    assert "→ run: make install" in text
    assert "Training cannot run here yet." in text


def test_a_missing_package_is_a_line_and_not_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> list[Check]:
        raise ImportError("No module named 'transformers'")

    assert doctor(json_output=True, groups={"models": broken} | group(GOOD)) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ready"]
    assert [check["name"] for check in report["checks"]] == ["models", "good"]
    assert "transformers" in report["checks"][0]["found"]


def test_packages_are_found_and_tried() -> None:
    assert module.check_package("torch", ("no-such-distribution",), "").status == "missing"
    good = module.check_package("pytest", ("no-such-distribution", "pytest"), "print('imports')")
    assert (good.status, good.found) == ("ok", f"pytest {pytest.__version__}, imports")
    aborting = module.check_package("pytest", ("pytest",), "import os; os.abort()")
    assert aborting.status == "missing"
    raising = module.check_package("pytest", ("pytest",), "raise RuntimeError('operator does not exist')")
    assert "RuntimeError: operator does not exist" in raising.found


def test_what_is_installed_can_be_imported() -> None:
    """Packages for another torch came with a second call of pip once: no engine could start."""
    broken = [
        check for check in module.check_packages() if check.status == "missing" and check.found != "not installed"
    ]
    assert not broken


def test_this_machine_passes_the_cheap_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path / "not" / "there"))
    assert {check.name for check in module.check_machine()} == {"Python", "platform", "CPU cores", "memory", "cache"}
    assert all(check.status != "missing" for check in module.check_machine())
    assert module.check_gpus()[0].name == "GPUs"
    assert [check.name.split()[0] for check in module.check_models()] == ["model"] * 3
    doctor(groups={"sandbox": module.check_sandbox})  # whatever the sandbox finds, it is told
    assert "sandbox" in capsys.readouterr().out
    assert not (tmp_path / "not").exists()


def test_a_machine_below_the_sandbox_minimum_is_not_ready() -> None:
    found = {"seccomp": "not in this kernel", "uid": "not root", "minimum": "seccomp: not in this kernel"}
    checks = {check.name: check for check in module.describe_sandbox(found)}
    assert checks["sandbox: uid"].status == "warning"
    assert checks["sandbox: minimum"].status == "missing"
    assert "sandbox.allow_weak" in checks["sandbox: minimum"].advice
    assert doctor(groups={"sandbox": lambda: list(checks.values())}) == 1
    assert doctor(groups={"sandbox": lambda: module.describe_sandbox({"seccomp": "on", "minimum": "on"})}) == 0


def test_no_nvidia_smi_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = module.check_gpus()
    assert (check.status, check.found) == ("ok", "none: the engine runs on the CPU")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (check,) = module.check_gpus()
    assert check.found == "NVIDIA H200, 143771 MiB"


def test_models_that_are_here_are_printed_and_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path))
    folder = tmp_path / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    assert models_path("smollm2-135m") == 0
    assert models_pull("smollm2-135m") == 0
    assert capsys.readouterr().out == f"{folder}\n{folder}\n"
    assert models_list() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("qwen2.5-coder-1.5b (default)")
    assert lines[2].split() == ["smollm2-135m", "0.3", "GB", "Apache-2.0", str(folder)]
    with pytest.raises(ConfigError, match="nearest: smollm2-135m"):
        models_path("smollm-135m")


def test_without_a_terminal_progress_is_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as progress:
        for done in range(0, 1001, 5):
            progress("download", done * 1_000_000, 1_000_000_000)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0] == "download   0 %  0 of 1,000 MB"
    assert lines[-1] == "download 100 %  1,000 of 1,000 MB"


HUB_FILES = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"not fetched"}
COMMIT = "a" * 40


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as one download needs."""

    def send(self, body: bytes) -> None:
        self.send_response(200)
        headers = {"Content-Length": str(len(body)), "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        for name, value in (headers | {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[1]
        if path.startswith("/api/models/makers/tiny/tree/"):
            sums = {name: hashlib.sha1(body).hexdigest() for name, body in HUB_FILES.items()}
            rows = [{"type": "file", "path": n, "size": len(b), "oid": sums[n]} for n, b in HUB_FILES.items()]
            self.send(json.dumps(rows).encode())
        elif path.startswith("/api/models/makers/tiny"):
            siblings = [{"rfilename": name} for name in HUB_FILES]
            self.send(json.dumps({"id": "makers/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith("/makers/tiny/resolve/") and name in HUB_FILES:
            self.send(HUB_FILES[name])
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        return


def models(command: str, name: str, endpoint: str, home: Path, **env: str) -> str:
    """What ``models_COMMAND(name)`` printed last, in a process of its own: the hub reads its settings once."""
    code = f"""
from agentopt_local.errors import ConfigError
from ray_jobs.commands.model_files import models_path, models_pull
try:
    models_{command}({name!r})
except ConfigError as error:
    print("ConfigError:", error)
"""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "AGENTOPT_CACHE": str(home), "NO_PROXY": "127.0.0.1"}
    env = os.environ | settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"} | env
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[-1]


def test_a_hugging_face_id_is_pulled_from_the_hub_and_then_found_in_its_cache(tmp_path: Path) -> None:
    with serving(FakeHub) as endpoint:
        assert "agentopt models pull makers/tiny" in models("path", "makers/tiny", endpoint, tmp_path)
        folder = Path(models("pull", "makers/tiny", endpoint, tmp_path))
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
        missing = models("pull", "makers/none", endpoint, tmp_path)
        assert missing.startswith("ConfigError: makers/none cannot be had from the Hugging Face hub:")
    assert models("pull", "makers/tiny", endpoint, tmp_path, HF_HUB_OFFLINE="1") == str(folder)


def test_a_hub_that_cannot_be_reached_costs_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    refused = models("pull", "makers/tiny", "http://127.0.0.1:9", tmp_path)
    assert refused.startswith("ConfigError: makers/tiny cannot be had")
    offline = models("pull", "makers/tiny", "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline
    assert time.monotonic() - started < 60
