"""Pulls from a small hub on loopback: what is fetched, what goes on after a break, and what a refusal says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentopt_local.errors import ConfigError
from serving.hub import commit_of, hub_cached, hub_download, list_files
from serving.weight_files import INDEX as INDEX_NAME
from serving.weight_files import is_complete, text_files, weight_files
from tests.tools.fake_hub import FakeRepo, digest, fake_hub

SHARDS = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * (3000 + n) for n in (1, 2)}
INDEX = json.dumps({"metadata": {"total_size": 6003}, "weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()
USED = {
    "config.json": b'{"hidden_size": 8}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "modeling_own.py": b"pass",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    INDEX_NAME: INDEX,
    **SHARDS,
}
UNUSED = {
    "README.md": b"text",
    "original/model-00001-of-00001.safetensors": b"o" * 5000,
    "original/params.json": b"{}",
    "consolidated.safetensors": b"c" * 5000,
    "consolidated.safetensors.index.json": b"{}",
    "model-old.safetensors": b"x" * 5000,
    "model.gguf": b"g" * 5000,
    "pytorch_model.bin": b"p" * 5000,
    "consolidated.00.pth": b"q" * 5000,
    "onnx/model.onnx": b"n" * 5000,
}
FIRST, SECOND = "1" * 40, "2" * 40
ID = "makers/split"


@pytest.fixture
def repo() -> FakeRepo:
    older = {**USED, "config.json": b'{"hidden_size": 4}'}
    return FakeRepo({FIRST: older, SECOND: {**USED, **UNUSED}}, {"main": SECOND, "v1": FIRST})


@pytest.fixture
def endpoint(repo: FakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with fake_hub({ID: repo}) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield address


def test_only_what_vllm_reads_is_fetched(endpoint: str, repo: FakeRepo) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = hub_download(ID, lambda *step: seen.append(step))
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == USED.keys()
    assert {name: (folder / name).read_bytes() for name in USED} == USED
    assert not {name for name, _ in repo.sent} & UNUSED.keys()
    total = sum(len(body) for body in USED.values())
    assert seen[-1] == ("download", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert (hub_cached(ID), commit_of(folder), commit_of(folder.parent)) == (folder, SECOND, None)
    asked = len(repo.sent)
    assert hub_download(ID) == folder
    assert len(repo.sent) == asked, "a second pull fetches nothing"


def test_without_an_index_all_weights_at_the_top_are_read_in_one_format() -> None:
    names = ["config.json", "model.safetensors", "consolidated.safetensors", "onnx/model.safetensors", "params.json"]
    assert weight_files(names, lambda name: "") == ["model.safetensors"]
    assert weight_files(["consolidated.safetensors", "params.json"], lambda name: "") == []
    assert text_files(["tekken.json", "consolidated.safetensors.index.json", "a/b.json", "x.bin"]) == ["tekken.json"]


def test_a_broken_connection_goes_on_in_the_middle(endpoint: str, repo: FakeRepo) -> None:
    repo.break_at = 1234
    folder = hub_download(ID)
    assert is_complete(folder)
    ranges = sorted(asked for name, asked in repo.sent if name in SHARDS)
    assert ranges == ["bytes=0-", "bytes=0-", "bytes=1234-"]


def test_an_interrupted_pull_goes_on_in_the_middle(endpoint: str, repo: FakeRepo, tmp_path: Path) -> None:
    repo.break_at = 1234

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub_download(ID, stop)
    assert hub_cached(ID) is None
    left = {path.stem: path.stat().st_size for path in (tmp_path / "hub").rglob("*.agentopt")}
    assert sum(left.values()) >= 1234
    repo.sent.clear()
    assert is_complete(hub_download(ID))
    sums = {digest(body): name for name, body in SHARDS.items()}
    rest = {name: left.get(each, 0) for each, name in sums.items()}
    wanted = {(name, f"bytes={start}-") for name, start in rest.items() if start < len(SHARDS[name])}
    assert {(name, asked) for name, asked in repo.sent if name in SHARDS} == wanted
    assert not list((tmp_path / "hub").rglob("*.agentopt"))


def test_a_damaged_file_is_removed_and_named(endpoint: str, repo: FakeRepo, tmp_path: Path) -> None:
    name = min(SHARDS)
    partial = tmp_path / "hub" / "models--makers--split" / "blobs" / f"{digest(SHARDS[name])}.agentopt"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"wrong" * 100)
    with pytest.raises(ConfigError, match=rf"{name} arrived damaged and was removed"):
        hub_download(ID)
    assert not partial.exists()
    assert is_complete(hub_download(ID))


def test_a_revision_is_pinned_and_its_commit_known(endpoint: str) -> None:
    folder = hub_download(f"{ID}@v1")
    assert json.loads((folder / "config.json").read_text()) == {"hidden_size": 4}
    assert commit_of(folder) == FIRST
    assert hub_cached(f"{ID}@v1") == hub_cached(f"{ID}@{FIRST}") == folder
    assert hub_cached(ID) is None
    assert commit_of(hub_download(f"{ID}@{SECOND}")) == SECOND
    with pytest.raises(ConfigError, match=rf"makers/split has no revision 'v3'.*{endpoint}/makers/split"):
        hub_download(f"{ID}@v3")


def test_a_gated_model_names_its_page_and_the_variable(
    endpoint: str, repo: FakeRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.gated, repo.token = True, "hf_right"
    with pytest.raises(ConfigError) as refused:
        hub_download(ID)
    assert f"accept its terms at {endpoint}/{ID} and set HF_TOKEN" in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert is_complete(hub_download(ID))


def test_a_model_that_is_not_there_may_be_private(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=rf"no model at {endpoint}/makers/none, or it is private: set HF_TOKEN"):
        hub_download("makers/none")


def test_a_full_disk_is_noticed_before_anything_is_fetched(
    endpoint: str, repo: FakeRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 4000))
    with pytest.raises(ConfigError, match=r"makers/split needs 6,003 more bytes, 4,000 are free"):
        hub_download(ID)
    assert not {name for name, _ in repo.sent} & SHARDS.keys()


def test_a_listing_costs_the_index_alone(endpoint: str, repo: FakeRepo) -> None:
    listing = list_files(ID)
    assert listing.size(".safetensors") == 6003
    assert {name for name, _ in repo.sent} == {INDEX_NAME}
