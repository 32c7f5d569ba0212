"""README and docs: every command and code block in them is run, or parsed by the program that would run it.

A comment above each block, which readers do not see, says what to do with it::

    <!-- test: file NAME -->        write it to NAME, as the page asks the reader to do
    <!-- test: run -->              run its lines with a shell in the page's folder
    <!-- test: output -->           the last run printed exactly this
    <!-- test: parse -->            the command line (or make) knows its commands, the loader its settings
    <!-- test: commands -->         it lists all commands, in the form that the command line accepts
    <!-- test: usage -->            its flags are in the module's --help
    <!-- test: sweep BASE -->       load it as a sweep over the settings in BASE
    <!-- test: rows NAME -->        like file, and load it as a task's problems
    <!-- test: doctest -->          run it as a Python session
    <!-- test: python -->           run it as a notebook's cell, with a script in place of a model
    <!-- test: install -->          install with pip, without a network, then run the rest
    <!-- test: told COMMAND -->     COMMAND fails with this message; an ellipsis matches any text
    <!-- test: source FILES -->     one of these files contains the message; an ellipsis replaces a value

The blocks of a page share a folder and are processed in order. Commands that need a model get a scripted one on
loopback; otherwise they are run word for word.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import agentopt_local as ao
from agentopt_local.errors import ConfigError
from agentopt_local.run.writer import RunDir
from agentopt_local.tasks.catalog import load_task
from ray_jobs.cli import parser, split_settings
from ray_jobs.config import all_keys, load_config, parse_overrides
from ray_jobs.grid import load_sweep
from tests.tools import example_model

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TESTED = {"README.md", "clusters.md", "models.md", "python.md", "tutorial.md", "statistics.md", "troubleshooting.md"}
"""Pages whose blocks must all have a mark; further pages may have some."""
BLOCK = re.compile(r"(?:^<!-- test: ([^\n]*?) -->\n)?^(`{3,})([a-z]*)\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """One block of a page."""

    mark: str
    language: str
    text: str
    line: int

    @property
    def kind(self) -> str:
        return self.mark.partition(" ")[0]

    @property
    def argument(self) -> str:
        return self.mark.partition(" ")[2]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1] or "", match[3], match[4], text.count("\n", 0, match.start(2)) + 1)
        for match in BLOCK.finditer(text)
    ]  # fmt: skip


# A model


SOURCE = '''def ean13_check_digit(digits: str) -> str:
    """Return the check digit of an EAN-13 number, given its first 12 digits."""
    return str(-sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(digits)) % 10)
'''


def optimizer_says(first: str, last: str) -> str:
    if "Give the arguments with which" in last:
        found = re.findall(r"(problem_\d+): .* (\d{12})\?", last)
        return json.dumps({key: {"digits": digits} for key, digits in found})
    if "Write the complete source of" in last:
        return SOURCE
    return json.dumps({"action": "add_function", "name": "ean13_check_digit"})


def agent_says(last: dict[str, Any], tools: list[dict[str, Any]]) -> str:
    content = last["content"]
    if last["role"] == "tool":
        return f"<answer>{content}</answer>"
    if content.startswith("Output of the code:"):
        return f"<answer>{content.splitlines()[1]}</answer>"
    found = re.search(r"(\d{12})\?", content)
    if found is None or not tools:
        return (
            "No function fits.\n```python\nprint('unknown')\n```\n" if tools else "```python\nprint('unknown')\n```\n"
        )
    call = {"name": "ean13_check_digit", "arguments": {"digits": found[1]}}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


class Model(BaseHTTPRequestHandler):
    """An OpenAI-compatible server with a scripted agent and optimizer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send({"data": [{"id": "scripted", "owned_by": "test"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = body["messages"]
        if messages[0]["role"] == "user":  # an agent's conversation begins with a system message
            text = optimizer_says(messages[0]["content"], messages[-1]["content"])
        else:
            text = agent_says(messages[-1], body.get("tools", []))
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}})

    def _send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@contextlib.contextmanager
def scripted() -> Iterator[None]:
    """The scripted model is the default of all that takes a model."""
    functions = [
        ao.train,
        ao.atrain,
        ao.resume,
        ao.aresume,
        ao.evaluate,
        ao.aevaluate,
        ao.certify,
        ao.acertify,
        ao.credit,
        ao.acredit,
        ao.Run.agent,
    ]
    before = [each.__kwdefaults__["model"] for each in functions]
    try:
        for each in functions:
            each.__kwdefaults__["model"] = example_model.model()
        yield
    finally:
        for each, default in zip(functions, before, strict=True):
            each.__kwdefaults__["model"] = default


class Reader:
    """Somebody who follows a page in a folder of their own."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.printed = ""
        self.cells: dict[str, Any] = {"__name__": "__main__"}
        """What the cells of a page have defined."""
        tools = folder / ".bin"
        tools.mkdir()
        (tools / "python").symlink_to(sys.executable)
        command = tools / "agentopt"
        # The one thing that is not word for word: which model talks, unless the page says.
        command.write_text(
            f'#!/bin/sh\ncase "$1 $*" in "train "*--model.*) ;; "train "*) set -- "$@" --model.base_url {endpoint}'
            f' --model.name scripted;; esac\nexec {shlex.quote(sys.executable)} -m ray_jobs.cli "$@"\n'
        )  # fmt: skip
        command.chmod(0o755)
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": ""}

    def shell(self, text: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            check=False, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=600,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done

    def follow(self, block: Block) -> None:
        getattr(self, f"do_{block.kind}")(block)

    def do_file(self, block: Block) -> None:
        (self.folder / block.argument).write_text(block.text)
        if block.argument.endswith(".toml"):
            load_config(self.folder / block.argument)

    def do_rows(self, block: Block) -> None:
        self.do_file(block)
        problems = load_task(f"jsonl:{self.folder / block.argument}")
        counts = re.findall(r"(\d+) (train|validation|test)", told_by(lambda: problems.problems("train", 999)))
        assert sum(int(n) for n, _ in counts) == len(block.text.splitlines())

    def do_run(self, block: Block) -> None:
        self.printed = self.shell(block.text).stdout

    def do_output(self, block: Block) -> None:
        assert self.printed == block.text

    def do_install(self, block: Block) -> None:
        install, rest = block.text.split("\n", 1)
        words = shlex.split(install)
        assert words[:2] == ["pip", "install"]
        folder = self.folder / words[2].partition("[")[0]
        target = self.folder / ".installed"
        offline = ["-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
        command = [sys.executable, *offline, str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        self.environment["PYTHONPATH"] += f":{target}"
        done = self.shell(rest)
        assert re.search(r"\d+ passed", done.stdout), done.stdout

    def do_doctest(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, self.names, "page", None, block.line)
        told: list[str] = []
        result = doctest.DocTestRunner(verbose=False).run(test, out=told.append, clear_globs=False)
        self.names.update(test.globs)
        assert result.attempted > 0
        assert result.failed == 0, "".join(told)

    names: dict[str, Any] = {}  # noqa: RUF012 - one page has sessions, and one reader reads it

    def do_python(self, block: Block) -> None:
        code = compile(block.text, f"line {block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed), scripted():
            cell = eval(code, self.cells)
            if inspect.iscoroutine(cell):
                asyncio.run(cell)
        self.printed = printed.getvalue()

    def do_parse(self, block: Block) -> None:
        if block.language == "toml":
            path = self.folder / "parsed.toml"
            path.write_text(block.text)
            load_config(path)
            return
        for line in block.text.splitlines():
            check_command(line.partition("  #")[0])

    def do_usage(self, block: Block) -> None:
        words = re.sub(r"[\[\]|]", " ", block.text).split()
        assert words[:2] == ["python", "-m"]
        command = [sys.executable, "-m", words[2], "--help"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=120).stdout
        for word in words[3:]:
            assert not word.startswith("--") or word in shown, f"{words[2]} has no {word}"

    def do_sweep(self, block: Block) -> None:
        (self.folder / Path(block.argument).name).write_text((ROOT / block.argument).read_text())
        path = self.folder / "sweep.toml"
        path.write_text(block.text)
        _, _, trainings = load_sweep(path, self.folder / "sweep")
        assert len(trainings) > 1

    def do_commands(self, block: Block) -> None:
        listed: set[str] = set()
        for line in block.text.splitlines():
            usage = re.split(r"\s{2,}", line)[0]
            listed |= check_usage(usage)
        assert listed == set(subcommands()), "every command is listed"

    def do_told(self, block: Block) -> None:
        done = self.shell(block.argument, check=False)
        assert done.returncode in (1, 2), done.stderr
        assert "Traceback" not in done.stderr
        told = " ".join(done.stderr.replace(str(self.folder) + "/", "").split())
        for line in block.text.splitlines():
            assert pattern_of(line).search(told), f"{line}\nis not in\n{told}"

    def do_source(self, block: Block) -> None:
        texts = [literal for file in block.argument.split() for literal in literals(ROOT / file)]
        for line in block.text.splitlines():
            parts = [part for part in re.split("…", line) if part.strip()]
            found = any(all(part in text for part in parts) for text in texts)
            assert found, f"{line!r} stands in none of {block.argument}"


def told_by(call: Any) -> str:
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


def pattern_of(line: str) -> re.Pattern[str]:
    """What a message with ellipses matches."""
    return re.compile(".*?".join(re.escape(" ".join(part.split())) for part in line.split("…")))


def literals(file: Path) -> list[str]:
    """All texts in a Python file, with an ellipsis for each value in them."""
    texts = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else "…" for each in node.values]
            texts.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


def subcommands() -> dict[str, Any]:
    return dict(next(each.choices for each in parser()._actions if isinstance(each.choices, dict)))


def check_command(line: str) -> None:
    """A command as a reader would type it is understood; ``make`` knows the target."""
    words = shlex.split(line)
    if not words or words[0].startswith("#"):
        return
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in words[1:]:
            assert "=" in target or re.search(rf"^{target}:", makefile, re.MULTILINE), f"make has no {target}"
        return
    if words[0] == "ray":
        check_ray(words[1:])
        return
    assert words[0] == "agentopt", f"who runs this? {line}"
    rest, settings = split_settings(words[1:])
    with contextlib.redirect_stderr(None):
        arguments = parser().parse_args(rest)
    keys = [key for key, _ in parse_overrides(settings)]  # refuses what is not a setting
    assert not keys or hasattr(arguments, "takes_settings"), f"takes no settings: {line}"
    if arguments.command == "train" and (ROOT / arguments.config).is_file():
        load_config(ROOT / arguments.config, settings)


def check_ray(words: list[str]) -> None:
    """Ray has the command and its flags; what a job runs is a module of ours with settings that it takes."""
    from ray.scripts.scripts import cli

    command: Any = cli
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    end = words.index("--") if "--" in words else len(words)
    flags = {option for each in command.params for option in each.opts}
    assert {word for word in words[:end] if word.startswith("--")} <= flags
    if job := words[end + 1 :]:
        assert job[:3] == ["python", "-m", "ray_jobs.train"]
        check_command(shlex.join(["agentopt", "train", *job[3:]]))


def all_help(command: argparse.ArgumentParser) -> str:
    """The help of a command and of the commands below it."""
    below = [
        each for action in command._actions if isinstance(action.choices, dict) for each in action.choices.values()
    ]
    return "\n".join([command.format_help(), *map(all_help, below)])


def check_usage(usage: str) -> set[str]:
    """The command that a line of the list names, after its arguments and flags were found in the command line."""
    words = re.sub(r"[\[\]|]", " ", usage).split()
    assert words[0] == "agentopt"
    commands = subcommands()
    assert words[1] in commands, f"there is no command {words[1]}"
    known = all_help(commands[words[1]])
    for word in words[2:]:
        plain = word.strip(".…")
        if plain and plain not in ("--key", "value"):
            assert re.search(rf"(?<![\w-]){re.escape(plain)}(?![\w-])", known), f"{words[1]} has no {plain}"
    return {words[1]}


# The tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_is_tested(page: Path) -> None:
    found = blocks(page)
    unmarked = [f"{page.name}:{block.line}" for block in found if not block.mark]
    assert unmarked == [] or page.name not in TESTED
    for block in found:
        assert not block.mark or hasattr(Reader, f"do_{block.kind}"), f"{page.name}:{block.line}: {block.mark}"
    fences = len(re.findall(r"^`{3,}", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert 2 * len(found) == fences, "a block was not recognised"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_are_understood(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for code in re.findall(r"`(agentopt [^`]+)`", text):
        line = " ".join(code.split())
        try:
            check_command(line)
        except SystemExit:
            check_usage(line)  # a form, such as `agentopt models list | pull NAME`, or a command alone


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_text_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    sections = {key.split(".")[0] for key in all_keys() if "." in key}
    for code in re.findall(r"`(?:--)?([a-z_]+\.[a-z_]+)(?:[ =][^`]*)?`", text):
        if code.split(".")[0] in sections:
            assert code in all_keys(), f"{page.name}: {code} is not a setting"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, link


@pytest.fixture
def reader(tmp_path: Path, endpoint: str) -> Reader:
    return Reader(tmp_path, endpoint)


@pytest.mark.parametrize("name", ["README.md", "docs/statistics.md", "docs/tutorial.md", "docs/python.md"])
def test_a_page_is_followed_word_for_word(name: str, reader: Reader) -> None:
    for block in blocks(ROOT / name):
        reader.follow(block)
    if name == "docs/tutorial.md":
        report = json.loads((reader.folder / "runs/tutorial/report.json").read_text())
        assert report["functions"][0]["name"] == "ean13_check_digit"
        assert (report["test"]["before"]["accuracy"], report["test"]["after"]["accuracy"]) == (0.0, 1.0)
        second = reader.folder / "runs/second"
        assert (second / "functions/0000/ean13_check_digit.py").read_text() == SOURCE


def test_messages_are_really_told(reader: Reader) -> None:
    """Troubleshooting: the mistakes are made, in a folder with what they need."""
    tutorial = {block.argument: block for block in blocks(ROOT / "docs/tutorial.md") if block.kind == "file"}
    for block in tutorial.values():
        reader.follow(block)
    reader.shell("python make_problems.py")
    broken = reader.folder / "broken"
    broken.mkdir()
    (reader.folder / "broken.jsonl").write_text('{"question": "1?", "answer": 1}\n{"question": "2?", "anwser": 2}\n')
    (broken / "area.py").write_text('def area(r) -> float:\n    """Area."""\n    return r * r\n')
    (broken / "fetch.py").write_text('import socket\n\n\ndef fetch(host: str) -> str:\n    """Get."""\n    return ""\n')
    (broken / "helpers.py").write_text("LIMIT = 3\n")
    config = load_config(reader.folder / "tutorial.toml")
    busy = RunDir(reader.folder / "runs/busy", create=True)
    busy.write_config(config.model_dump(mode="json"))
    try:
        for block in blocks(ROOT / "docs/troubleshooting.md"):
            reader.follow(block)
    finally:
        busy.close()


def test_the_checks_can_fail() -> None:
    for line in (
        "agentopt trian x.toml",
        "agentopt train x.toml --trainer.max_epoch 3",
        "agentopt show x --model.name y",
    ):
        with pytest.raises((SystemExit, AssertionError, ConfigError)):
            check_command(line)
    with pytest.raises(AssertionError, match="has no --dif"):
        check_usage("agentopt show RUN [--dif]")
    assert not pattern_of("a … c").search("a b d")
    assert pattern_of("a … c [x]").search("so a b c [x] d")


def test_the_page_on_python_shows_every_public_name() -> None:
    page = "\n".join(block.text for block in blocks(ROOT / "docs/python.md") if block.kind == "python")
    text = BLOCK.sub("", (ROOT / "docs/python.md").read_text())
    errors = {name for name in ao.__all__ if name.endswith("Error")} | {"TrainedAgent", "Attempt", "Run"}
    for name in set(ao.__all__) - {"__version__"}:
        shown = text if name in errors else page
        assert re.search(rf"\b(?:ao\.{name}\b|{name}\b(?=`))", shown), name
