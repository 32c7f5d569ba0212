"""Whole trainings against endpoints that fail or differ: they go on or end in order, and a resume goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.train_state import TrainState
from ray_jobs.cli import main
from tests.ray_jobs.test_endpoint_training import SHOUT, optimizer
from tests.tools.fake_endpoint import LEARNED, PASSING, Answer, FakeEndpoint, Switch, bomb, completed, refused

KEY = "sk-proj-Zq81LmTx40vRw7Bn"


def agent(body: dict[str, Any]) -> str | dict[str, Any]:
    """An agent that calls ``shout``, natively or in words, wherever it is offered, and answers with the result."""
    texts = [row["content"] or "" for row in body["messages"]]
    said = "\n".join(texts)
    result = re.search(r"<tool_response>\n(.*)\n</tool_response>", texts[-1])
    if body["messages"][-1]["role"] == "tool" or result:
        return f"<answer>{(result[1] if result else texts[-1]).splitlines()[0]}</answer>"
    arguments = json.dumps({"word": re.findall(r"Shout: (\w+)", said)[-1]})
    if "tools" in body:
        call = {"id": "1", "type": "function", "function": {"name": "shout", "arguments": arguments}}
        return {"content": None, "tool_calls": [call]}
    if "You can call these functions" in said:
        return f'<tool_call>\n{{"name": "shout", "arguments": {arguments}}}\n</tool_call>'
    return "<answer>dunno</answer>"


def both(body: dict[str, Any]) -> str | dict[str, Any]:
    return optimizer(body) if body["model"] == "large" else agent(body)


def write_config(folder: Path, url: str, more: str = "") -> Path:
    words = ["ab", "cd", "tree", "house", "xy", "garden"]
    rows = [
        {"question": f"Shout: {word}", "answer": word.upper(), "split": "train" if i < 4 else "test", "grader": "exact"}
        for i, word in enumerate(words)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "run.toml"
    path.write_text(f'''
run_dir = "{folder}/runs"
run_name = "one"
concurrency = 2
[task]
spec = "jsonl:{folder}/problems.jsonl"
n_train = 4
n_test = 2
[model]
name = "small"
base_url = "{url}"
api_key_env = "AGENT_KEY"
max_retries = 1
timeout_s = 20
[optimizer_model]
name = "large"
base_url = "{url}"
api_key_env = "AGENT_KEY"
max_retries = 1
[optimizer]
n_samples = 1
max_actions = 1
max_retries = 0
[agent]
constrain = false
[sandbox]
workers = 1
{more}''')
    return path


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_KEY", KEY)


def run_with(server: FakeEndpoint, switch: Switch | None, *arguments: str | Path) -> int:
    server.switch = switch or (lambda server, body, n: None)
    return main([str(each) for each in arguments])


def rollouts(run: Path) -> list[dict[str, Any]]:
    path = run / "rollouts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_learned(run: Path) -> None:
    state = TrainState.model_validate_json((run / "state.json").read_text())
    assert [each.source for each in state.functions.each()] == [SHOUT]
    assert json.loads((run / "report.json").read_text())["test"]["after"]["accuracy"] == 1.0


def assert_no_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr()
    for text in (
        out.out + out.err,
        *(path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()),
    ):
        assert not [at for at in range(len(KEY) - 7) if KEY[at : at + 8] in text]
    assert "Traceback" not in out.err
    return out.err


GOES_ON = {
    name: switches[name]
    for switches, names in (
        (PASSING, ("E4 429 in 200", "E5 error", "E5 no choices", "D8 bomb")),
        (LEARNED, ("E1 no usage", "E5 old calls", "E6 no tools", "E7", "E9 conversion", "C1 alternate", "C1 in a row")),
    )
    for name in names
}


@pytest.mark.parametrize("name", GOES_ON)
def test_a_training_goes_on(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeEndpoint(both) as server:
        retries = ("--model.max_retries", "6", "--optimizer_model.max_retries", "6")
        assert run_with(server, GOES_ON[name], "train", write_config(tmp_path, server.url), *retries) == 0
    assert_learned(tmp_path / "runs" / "one")
    assert_no_key(tmp_path, capsys)


def once_begun(answer: Answer) -> Switch:
    """Gives ``answer`` for good from the fourth request on."""
    return lambda server, body, n: answer if n >= 3 else None


ENDS = {
    "E12": (refused(403, "Country, region, or territory not supported"), "Country, region, or territory not supported"),
    "401": (refused(401, f"Incorrect API key provided: {KEY}"), "AGENT_KEY is not accepted: Incorrect API key"),
    "quota": (refused(402, "Insufficient Balance"), "Insufficient Balance; the account behind the key in AGENT_KEY"),
    "quota 429": (refused(429, "no", code="insufficient_quota"), "the account behind the key"),
    "E4": (
        Answer(200, {"error": {"code": 429, "message": f"slow down {KEY[:15]}"}}),
        "answered 429 for small: slow down",
    ),
    "E5": (completed("ha", finish_reason="error"), "the reply was broken off"),
    "D7": (Answer(200, {"error": {"message": "x" * 480 + KEY}}), "answered 502"),
    "D8": (Answer(200, bomb(64 << 20), Content_Encoding="gzip"), "longer than 8 MiB"),
    "D8 error": (Answer(500, bomb(64 << 20), Content_Encoding="gzip"), "answered 500"),
    "D13": (Answer(429, {"error": {"message": "later"}}, Retry_After="9" * 30), "it asks to wait"),
    "not found": (refused(404, "The model `small` does not exist", code="model_not_found"), "check model.base_url"),
    "unknown": (refused(400, "nope"), "nope"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_training_ends_in_one_line_and_is_resumed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, words = ENDS[name]
    run = tmp_path / "runs" / "one"
    with FakeEndpoint(both) as server:
        assert run_with(server, once_begun(answer), "train", write_config(tmp_path, server.url)) == 1
        before = rollouts(run)
        assert all(row["stop_reason"] == "answer" for row in before), "nothing broken off is graded"
        line = [line for line in assert_no_key(tmp_path, capsys).splitlines() if line.startswith("agentopt: ")]
        assert len(line) == 1
        assert words in line[0]
        assert run_with(server, None, "resume", run) == 0
    assert_learned(run)
    assert rollouts(run)[: len(before)] == before


REFUSED = {
    "E5 filter": (completed("ye", finish_reason="content_filter"), "refused"),
    "E5 prompt": (refused(400, "The prompt was flagged", code="content_filter"), "refused"),
    "E5 200": (Answer(200, {"error": {"message": "blocked", "code": "content_filter"}}), "refused"),
    "E5 empty": (Answer(200, {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}), "refused"),
    "E10": (Answer(422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096"}), "context"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_prompt_that_is_refused_for_good_is_a_bad_rollout(name: str, tmp_path: Path) -> None:
    answer, reason = REFUSED[name]

    def switch(server: FakeEndpoint, body: dict[str, Any], n: int) -> Answer | None:
        return answer if body["model"] == "small" and "Shout: tree" in json.dumps(body) else None

    with FakeEndpoint(both) as server:
        assert run_with(server, switch, "train", write_config(tmp_path, server.url)) == 0
    stops = {(row["stop_reason"], bool(row["grade"]["reward"])) for row in rollouts(tmp_path / "runs" / "one")}
    assert (reason, False) in stops
    assert ("answer", True) in stops
    assert (reason, True) not in stops


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -(10**9), "completion_tokens": -(10**9)}], ids=["E1", "D13"])
def test_no_budget_is_ignored(usage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "one"
    with FakeEndpoint(both) as server:
        path = write_config(tmp_path, server.url)
        uncounted: Switch = lambda server, body, n: server.say(body, usage)  # noqa: E731
        assert run_with(server, uncounted, "train", path, "--budget.max_tokens_total", "5") == 1
        assert len(server.bodies) <= 2, "what was under way"
        assert "the budget is used up" in capsys.readouterr().err
        assert run_with(server, uncounted, "resume", run) == 1
        assert run_with(server, uncounted, "resume", run, "--budget.max_tokens_total", "1000000") == 0
    assert_learned(run)


@pytest.mark.parametrize(
    ("variable", "value"), [("ALL_PROXY", "socks5://127.0.0.1:1"), ("SSL_CERT_FILE", "/does/not/exist")]
)
def test_e8_a_client_that_cannot_be_made_is_the_users_mistake(
    variable: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["train", str(write_config(tmp_path, "https://server.invalid/v1"))]) == 2
    lines = assert_no_key(tmp_path, capsys).splitlines()
    assert len([line for line in lines if line.startswith("agentopt: ") and f"{variable}={value}" in line]) == 1


def test_e11_a_run_keeps_its_query(tmp_path: Path) -> None:
    with FakeEndpoint(both) as server:
        url = server.url.replace("/v1", "/openai/v1?api-version=preview")
        assert run_with(server, None, "train", write_config(tmp_path, url)) == 0
    assert {path.partition("?")[2] for path in server.paths} == {"api-version=preview"}
    assert {path.partition("?")[0] for path in server.paths} == {"/openai/v1/models", "/openai/v1/chat/completions"}


@pytest.mark.parametrize("key", ["sk-a\nsk-b-4711-sk", "sk-a\r\nX: 4711-sk"])
def test_d7_a_key_with_a_line_break_is_the_users_mistake(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_KEY", key)
    assert main(["train", str(write_config(tmp_path, "http://127.0.0.1:9/v1"))]) == 2
    out = capsys.readouterr()
    assert "the key in the environment variable AGENT_KEY cannot be sent" in out.err
    assert "4711" not in out.err + out.out


@pytest.mark.parametrize(
    ("setting", "secret"),
    [
        ("model.api_key_env", "sk-proj-4711abc"), ("model.api_key_env", "gsk_a1b2c3d4e5f6g7h8"),
        ("model.api_key_env", "4711abc"), ("optimizer_model.api_key_env", "AIzaSyA1b2C3d4E5f6G7h8"),
        ("model.base_url", "https://me:hunter2@host/v1"),
        ("model.base_url", "https://host/v1?key=4711abc"), ("model.base_url", "https://host/v1?api-version=1&sig=4711abc"),
        ("model.base_url", "sk-proj-a1b2c3d4e5f6g7"),
    ],
)  # fmt: skip
def test_d7_a_secret_among_the_settings_is_refused_unseen(
    setting: str, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:9/v1")
    assert main(["train", str(path), f"--{setting}", secret]) == 2
    out = capsys.readouterr()
    assert setting in out.err
    for piece in (secret, "hunter2", "4711abc"):
        assert piece not in out.err + out.out
    assert not (tmp_path / "runs").exists()
