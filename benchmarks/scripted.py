"""A whole training without a model: words to reverse, numbers to double, and a script that plays both roles.

    python -m benchmarks.scripted FOLDER                    train in FOLDER/run, or resume the run there; FOLDER exists
    python -m benchmarks.scripted FOLDER --replicas 2       with the script in two Ray actors, like engines
    python -m benchmarks.scripted FOLDER --replicas 1 --workers 2    and with the rollouts in two others

The script's answers depend only on the request, so runs differ only in what is done to them: fault tests kill this
process, or a part of it, and compare the final run folders. Every request is logged in FOLDER/requests.txt before it is
answered, in order of arrival over all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from agentopt_local.chat import ChatReply, ChatRequest
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run.writer import RunDir
from ray_jobs.config import RunConfig, build

WORDS = ("ab", "cat", "dog", "horse", "zebra", "monkey", "giraffe")
TEST_WORDS = ("ox", "bee", "tiger", "spider")
DOUBLE = 'def double(x: int) -> str:\n    """Return twice x."""\n    return str(2 * x)\n'
REVERSE = 'def reverse(word: str) -> str:\n    """Return word reversed."""\n    return word[::-1]\n'
SHORT_ONLY = REVERSE.replace("return word[::-1]", "return word[::-1] if len(word) < 4 else word")
WORSE = REVERSE.replace("return word[::-1]", "return word")
TOLD = {"action": "add_function", "name": "reverse"}


def rows() -> list[dict[str, Any]]:
    """Words to reverse and numbers to double; there are two functions to learn."""
    spelled = [("train", word) for word in WORDS] + [("test", word) for word in TEST_WORDS]
    counted = [("train", number) for number in range(10, 15)] + [("test", number) for number in range(20, 23)]
    return [
        {"id": f"r-{word}", "kind": "reverse", "question": f"Reverse: {word}", "answer": word[::-1], "split": split}
        for split, word in spelled
    ] + [
        {"id": f"d-{x}", "kind": "double", "question": f"Double: {x}", "answer": str(2 * x), "split": split}
        for split, x in counted
    ]


def plan(prompt: str) -> tuple[dict[str, str], str]:
    """The optimizer's next action, which depends only on its prompt, and the source that goes with it.

    This makes four steps: add a function that is half right, add the other one, make a revision that is worse and is
    rolled back, and make the right revision.
    """
    if "Double: " in prompt:
        return {"action": "add_function", "name": "double"}, DOUBLE
    if "`reverse(" not in prompt:
        return TOLD, SHORT_ONLY
    return {"action": "revise_function", "name": "reverse"}, REVERSE if "did not help" in prompt else WORSE


def optimizer(request: ChatRequest) -> str:
    """The optimizer's reply: a header, a source, or example arguments."""
    header, source = plan(request.messages[0].content)
    assert request.constraint is not None
    if request.constraint.kind == "json_schema":
        last = request.messages[-1].content
        if header["name"] == "double":
            found = re.findall(r"(problem_\d+): Double: (\d+)", last)
            return json.dumps({key: {"x": int(x)} for key, x in found})
        return json.dumps({key: {"word": word} for key, word in re.findall(r"(problem_\d+): Reverse: (\w+)", last)})
    return source if f'"def {header["name"]}(' in request.constraint.value else json.dumps(header)


def agent(request: ChatRequest) -> str:
    """The agent's reply: a call if there is a function for the problem, and then its result."""
    last = request.messages[-1]
    if last.role == "tool":
        return f"<answer>{last.content}</answer>"
    name, _, given = last.content.lower().partition(": ")
    if name not in {tool.name for tool in request.tools}:
        return "<answer>dunno</answer>"
    arguments = {"word": given} if name == "reverse" else {"x": int(given)}
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def brain(request: ChatRequest) -> str:
    """Both roles."""
    return optimizer(request) if (request.conversation or "").startswith("optimizer/") else agent(request)


def config_in(folder: Path, **changes: Any) -> RunConfig:
    """The settings of the training, with the problems written to ``folder``."""
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    values: dict[str, Any] = {
        "task": {"spec": f"jsonl:{path}", "n_train": 12, "n_test": 7, "settings": {"grader": "exact"}},
        "run_dir": str(folder),
        "run_name": "run",
        "concurrency": 4,
        "optimizer": {
            "n_samples": 1,
            "max_actions": 1,
            "max_retries": 0,
            "min_matches": 0,
            "extra_edits": 0,
            "n_alternatives": 0,
        },
        "sandbox": {"workers": 1},
        "trainer": {"max_epochs": 6},
    }
    return build(values | changes, "scripted")


class NotingModel(ScriptedChatModel):
    """The script, which logs every request in a file that several processes can share."""

    def __init__(self, path: Path, latency_s: float) -> None:
        """``path``: one line per request, ``PROCESS SESSION MESSAGES``."""
        super().__init__(brain, latency_s=latency_s)
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Log ``request`` and answer it."""
        os.write(self.file, f"{os.getpid()} {request.conversation} {len(request.messages)}\n".encode())
        return await super().complete(request)

    async def aclose(self) -> None:
        """Close the file. Safe to call twice."""
        if not self.closed:
            os.close(self.file)
        await super().aclose()


async def train_once(run_dir: RunDir, display: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train until the report, with the script in this process or in actors on a Ray cluster."""
    from ray_jobs.runs import read_config
    from ray_jobs.training import train

    make = partial(NotingModel, run_dir.path.parent / "requests.txt", arguments.latency)
    config = read_config(run_dir.path)
    async with AsyncExitStack() as stack:
        if arguments.replicas:
            from ray_jobs.cluster import connect, disconnect
            from ray_jobs.config import RayConfig
            from serving.engine_config import HostedModel
            from serving.pool import host

            connect(RayConfig(address=arguments.address))
            stack.callback(disconnect)
            hosted = HostedModel(model="scripted", device="cpu", replicas=arguments.replicas)
            model: Any = await host(make, config.engine, hosted)
        else:
            model = make()
        stack.push_async_callback(model.aclose)
        return await train(config, run_dir, callbacks=[display], model=model)


def main(argv: list[str] | None = None) -> int:
    """Start the run in FOLDER, or continue it; the exit codes are those of ``agentopt train``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scripted", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds per completion (default: 0.03)")
    parser.add_argument("--replicas", type=int, default=0, help="Ray actors that host the script (default: none)")
    parser.add_argument("--workers", type=int, help="Ray actors for rollouts (default: one per node of several)")
    parser.add_argument("--address", help="Ray cluster to join (default: start one)")
    arguments = parser.parse_args(argv)
    from ray_jobs.commands.running import run_job
    from ray_jobs.runs import new_run
    from ray_jobs.terminal.display import Display

    folder = arguments.folder.resolve()
    made = (folder / "run" / "config.json").exists()
    run_dir = RunDir(folder / "run") if made else new_run(config_in(folder, ray={"rollout_workers": arguments.workers}))
    display = Display()
    return run_job(run_dir, display, train_once(run_dir, display, arguments))


if __name__ == "__main__":
    sys.exit(main())
