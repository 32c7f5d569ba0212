"""``agentopt doctor MODEL``: on pretended cards, for folders and for models on a small hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.cli import main
from ray_jobs.commands import model_fit
from ray_jobs.commands.model_fit import check_engine, check_memory, gpus
from serving.engine_config import EngineConfig
from serving.sizing import GIB, read_facts
from serving.weight_files import INDEX
from tests.tools.fake_hub import FakeRepo, fake_hub

CONFIG = {
    "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 12_288, "vocab_size": 151_936, "max_position_embeddings": 40_960,
}  # fmt: skip
SHARD = "model-00001-of-00001.safetensors"
COMMIT = "c" * 40


class Huge(bytes):
    """Content that says it is larger than it is, as nobody asks for it."""

    def __len__(self) -> int:
        return 16_400_000_000


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRepo]:
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    index = json.dumps({"weight_map": {"a": SHARD}}).encode()
    files = {"config.json": json.dumps(CONFIG).encode(), INDEX: index, SHARD: Huge(b"x")}
    repo = FakeRepo({COMMIT: files}, {"main": COMMIT})
    with fake_hub({"makers/eight": repo}) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        url = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        yield repo


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    code = main(["doctor", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)["checks"]


def test_a_model_on_the_hub_is_weighed_without_its_weights(repo: FakeRepo, capsys: pytest.CaptureFixture[str]) -> None:
    code, (model, card) = doctor(capsys, "makers/eight", "--card", "24")
    assert code == 0
    assert model["found"].startswith("16.4 GB to fetch with: agentopt models pull makers/eight (commit cccccccccccc)")
    assert card["found"].startswith("it fits 21.6 GiB, 0.9 of 24 GiB; weights 15.3 GiB")
    assert {name for name, _ in repo.sent} == {"config.json", INDEX}


def test_what_does_not_fit_names_settings_with_which_it_does(
    repo: FakeRepo, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (_, card) = doctor(capsys, "makers/eight@main", "--card", "16")
    assert (code, card["status"]) == (1, "missing")
    assert card["advice"] == 'it fits with engine.quantization = "fp8"'
    code, (_, card) = doctor(capsys, "makers/eight", "--card", "16", "--engine.quantization", "fp8_per_tensor")
    assert (code, card["status"]) == (0, "ok")
    code, (_, card) = doctor(capsys, "makers/eight", "--card", "40", "--engine.gpu_fraction", "0.2")
    assert code == 1
    assert "tensor_parallel" not in card["advice"]
    code, (_, card) = doctor(capsys, "makers/eight", "--card", "24", "--engine.tensor_parallel_size", "2")
    assert (code, card["status"]) == (0, "warning")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["makers/none"], "there is no model at"),
        (["eight"], "unknown model 'eight'"),
        (["makers/eight", "--trainer.max_epochs", "3"], "takes settings of the engine only"),
        (["makers/eight", "--engine.max_model_len", "3"], "--engine.max_model_len = 3: input should be"),
        (["--card", "24"], "are about a model"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, repo: FakeRepo, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_on_the_cards_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "consolidated.safetensors").write_bytes(bytes(5000))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
    code, (_, cpu) = doctor(capsys, str(tmp_path))
    assert cpu["name"] == "CPU"
    (tmp_path / "nvidia-smi").write_text(
        f"#!{sys.executable}\nprint('NVIDIA H100 80GB HBM3, 81559\\n' * 2 + 'NVIDIA L4, 23034')\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    code, (model, h100, l4) = doctor(capsys, str(tmp_path))
    assert (code, model["found"]) == (0, str(tmp_path))
    assert (h100["name"], l4["name"]) == ("NVIDIA H100 80GB HBM3", "NVIDIA L4")
    assert "max_num_seqs 944" in h100["found"]
    assert "max_model_len 40960" in h100["found"]
    monkeypatch.setattr(model_fit, "resolve", lambda name, allow_fetch: tmp_path)
    engines = check_engine()
    assert [each.name for each in engines] == ["engine on NVIDIA H100 80GB HBM3", "engine on NVIDIA L4"]
    assert all("max_num_seqs 96" in each.found for each in engines), "the demo's own setting"


def test_a_configuration_that_is_not_known_is_no_reason_to_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"n_embd": 8}')
    code, (_, memory) = doctor(capsys, str(tmp_path), "--card", "24")
    assert (code, memory["status"]) == (0, "warning")


def test_a_model_larger_than_the_memory_does_not_run_on_the_cpu() -> None:
    facts = read_facts(CONFIG, 16_400_000_000)
    assert facts is not None
    assert check_memory(facts, EngineConfig(), 32 * GIB).status == "ok"
    refused = check_memory(facts, EngineConfig(), 16 * GIB)
    assert refused.status == "missing"
    assert refused.found.startswith("it needs 21.3 GiB of memory, and there are 16.0")
