"""The ``agentopt`` command with endpoints for agent and optimizer: two servers on loopback that sometimes fail."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import Usage
from agentopt_local.models.openai import OpenAIChatModel
from agentopt_local.train_state import TrainState
from ray_jobs.config import load_config
from ray_jobs.open_models import Models, open_models

SHOUT = 'def shout(word: str) -> str:\n    """Return word in capitals."""\n    return word.upper()\n'
KEYS = {"AGENT_KEY": "sk-agent-secret-1234", "OPTIMIZER_KEY": "sk-optimizer-secret-5678"}
PROMPT, CACHED, COMPLETION = 100, 40, 10
"""Tokens of every reply."""


def optimizer(body: dict[str, Any]) -> str:
    last = body["messages"][-1]["content"]
    if "Write the complete source" in last:
        return SHOUT
    words = re.findall(r"(problem_\d+): Shout: (\w+)", last)
    if words:
        return json.dumps({key: {"word": word} for key, word in words})
    return '{"action": "add_function", "name": "shout"}'


def agent(body: dict[str, Any]) -> dict[str, Any] | str:
    last = body["messages"][-1]
    if last["role"] == "tool":
        return f"<answer>{last['content']}</answer>"
    if "tools" not in body:
        return "<answer>dunno</answer>"
    arguments = json.dumps({"word": last["content"].split()[-1]})
    return {"id": "1", "type": "function", "function": {"name": "shout", "arguments": arguments}}


class Endpoint(ThreadingHTTPServer):
    """A server on loopback; every ``fault_every``-th request fails, by turns in another way."""

    daemon_threads = True

    def __init__(self, brain: Any, fault_every: int = 0) -> None:
        self.brain, self.fault_every = brain, fault_every
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        self.answered = self.n_faults = 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        server.authorizations.add(self.headers["Authorization"])
        if server.fault_every and len(server.bodies) % server.fault_every == 0:
            server.n_faults += 1
            if server.n_faults % 3 == 0:
                self.close_connection = True
                self.connection.close()
                return
            self.reply(429 if server.n_faults % 3 == 1 else 500, {"error": {"message": "later"}})
            return
        said = server.brain(server.bodies[-1])
        message = {"content": said} if isinstance(said, str) else {"content": None, "tool_calls": [said]}
        details = {"cached_tokens": CACHED}
        usage = {"prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "prompt_tokens_details": details}
        server.answered += 1
        self.reply(200, {"choices": [{"message": {"role": "assistant", **message}}], "usage": usage})

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def endpoints() -> Iterator[tuple[Endpoint, Endpoint]]:
    pair = Endpoint(agent, fault_every=4), Endpoint(optimizer, fault_every=2)
    yield pair
    for server in pair:
        server.shutdown()
        server.server_close()


def write_config(folder: Path, endpoints: tuple[Endpoint, Endpoint], more: str = "") -> Path:
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
base_url = "{endpoints[0].url}"
api_key_env = "AGENT_KEY"
structured = "none"
prices = {{ input = 1000.0, cached = 500.0, output = 2000.0 }}
[optimizer_model]
name = "large"
base_url = "{endpoints[1].url}"
api_key_env = "OPTIMIZER_KEY"
structured = "json_schema"
prices = {{ input = 10000.0, output = 30000.0 }}
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


def agentopt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_jobs.cli", *map(str, arguments)]
    environment = {**os.environ, **KEYS}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_no_key(folder: Path, *outputs: subprocess.CompletedProcess[str]) -> None:
    """No key in any file under ``folder`` or in what was printed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"run.log", "config.json", "rollouts.jsonl", "costs.jsonl"} <= {path.name for path in files}
    texts = [path.read_bytes() for path in files] + [(each.stdout + each.stderr).encode() for each in outputs]
    for secret in KEYS.values():
        assert not [text for text in texts if secret.encode() in text]


def test_agent_and_optimizer_may_be_different_endpoints(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    small, large = endpoints
    done = agentopt("train", write_config(tmp_path, endpoints))
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "one"
    state = TrainState.model_validate_json((run / "state.json").read_text())
    assert [each.source for each in state.functions.each()] == [SHOUT]
    assert {body["model"] for body in small.bodies} == {"small"}
    assert {body["model"] for body in large.bodies} == {"large"}
    assert small.authorizations == {f"Bearer {KEYS['AGENT_KEY']}"}
    assert large.authorizations == {f"Bearer {KEYS['OPTIMIZER_KEY']}"}
    assert small.n_faults >= 3
    assert large.n_faults >= 1
    assert any("response_format" in body for body in large.bodies)

    costs = json.loads((run / "report.json").read_text())["costs"]
    assert costs["agent"]["tokens"]["requests"] == small.answered
    assert costs["optimizer"]["tokens"]["requests"] == large.answered
    each_small = (60 * 1000 + CACHED * 500 + COMPLETION * 2000) / 1e6
    each_large = (PROMPT * 10000 + COMPLETION * 30000) / 1e6
    assert costs["agent"]["cost"] == pytest.approx(small.answered * each_small)
    assert costs["money"] == pytest.approx(small.answered * each_small + large.answered * each_large)
    stages = costs["stages"]
    assert set(stages) == {"noise floor", "training rollouts", "test before", "test placebo", "test after", "proposals"}
    counted = sum((Usage.model_validate(stages[name]["tokens"]) for name in stages), Usage())
    assert counted.requests == small.answered + large.answered
    assert json.loads((run / "meta.json").read_text())["optimizer_model"] == "large"
    assert_no_key(tmp_path, done)


def test_a_used_up_budget_stops_the_run_and_a_larger_one_ends_it(
    tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    config = write_config(tmp_path, endpoints, "[budget]\nmax_cost = 0.9\n")
    stopped = agentopt("train", config)
    run = tmp_path / "runs" / "one"
    assert stopped.returncode == 1
    assert "the budget is used up: " in stopped.stderr
    assert "--budget.max_cost 1.8" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert f"To continue: agentopt resume {run}" in stopped.stdout
    assert not (run / "report.json").exists()
    spent = sum(row["cost"] for row in read_lines(run / "costs.jsonl"))
    assert 0.9 <= spent < 0.9 + 3 * 1.3, "at most what was in flight"
    done_before = {(row["functions"], row["problem_id"], row["seed"]) for row in read_lines(run / "rollouts.jsonl")}

    refused = agentopt("resume", run, "--trainer.max_epochs", "9")
    assert refused.returncode == 2
    assert "only its budget can be changed" in refused.stderr
    again = agentopt("resume", run)
    assert again.returncode == 1, "the same budget is still used up"
    done = agentopt("resume", run, "--budget.max_cost", "100")
    assert done.returncode == 0, done.stderr
    rollouts = [(row["functions"], row["problem_id"], row["seed"]) for row in read_lines(run / "rollouts.jsonl")]
    assert len(rollouts) == len(set(rollouts))
    assert done_before <= set(rollouts)
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["after"]["accuracy"] == 1.0
    assert report["costs"]["money"] == pytest.approx(sum(row["cost"] for row in read_lines(run / "costs.jsonl")))
    assert_no_key(tmp_path, stopped, again, done)


def test_one_model_serves_both_roles_unless_they_differ(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    config = load_config(write_config(tmp_path, endpoints))

    async def opened(**changes: Any) -> Models:
        async with AsyncExitStack() as stack:
            return await open_models(config.model_copy(update=changes), stack, lambda stage, done, total: None)

    two = asyncio.run(opened())
    assert isinstance(two.agent, OpenAIChatModel)
    assert isinstance(two.optimizer, OpenAIChatModel)
    assert (two.agent.model, two.optimizer.model, two.device) == ("small", "large", "endpoint")
    for other in (None, config.model):
        one = asyncio.run(opened(optimizer_model=other))
        assert one.agent is one.optimizer


@pytest.mark.parametrize("url", ["https://me:hunter2@host/v1", "https://host/v1?api-key=hunter2"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    (tmp_path / "run.toml").write_text(f'[task]\nspec = "jsonl:p"\n[optimizer_model]\nname = "m"\nbase_url = "{url}"\n')
    done = agentopt("train", tmp_path / "run.toml")
    assert done.returncode == 2
    assert "optimizer_model.base_url: an address must hold no user, password or query with a secret" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
