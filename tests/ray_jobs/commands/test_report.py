"""The report of a real run with hostile text everywhere, as a browser shows it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentopt_local.chat import ChatReply, ChatRequest, Usage
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.tool_calls import parse_reply
from ray_jobs.cli import main
from ray_jobs.commands.report import defaults_for, report
from ray_jobs.config import build, load_config
from ray_jobs.runs import new_run, read_config
from ray_jobs.training import train

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "</script><script>window.hacked=1</script><!--<img src=x onerror=window.hacked=2><svg/onload=window.hacked=3>"
SHOUT = f'def shout(word: str) -> str:\n    """Return word in capitals. {HOSTILE}"""\n    return word.upper()\n'
WORDS = {"train": ("ab", "cd", "tree", "house"), "test": ("xy", "garden", "stone")}


def brain(request: ChatRequest) -> str | ChatReply:
    """Learns one function; says hostile things meanwhile."""
    last = request.messages[-1]
    if (request.conversation or "").startswith("optimizer/"):
        assert request.constraint is not None
        if '"def shout(' in request.constraint.value:
            return SHOUT
        if request.constraint.kind == "json_schema":
            words = re.findall(r"(problem_[0-9]+): Shout: (\w+)", last.content)
            return json.dumps({key: {"word": word} for key, word in words})
        return json.dumps({"action": "add_function", "name": "shout"})
    if last.role == "tool":
        return f"<answer>{last.content}</answer>"
    word = last.content.split()[1]
    if request.tools and word == "stone":
        return thinking(request, word)
    call = {"name": "shout", "arguments": {"word": word}}
    return f"<tool_call>{json.dumps(call)}</tool_call>" if request.tools else f"{HOSTILE}\n<answer>{HOSTILE}</answer>"


def thinking(request: ChatRequest, word: str) -> ChatReply:
    """A call after a thought that takes ten tokens of fifteen."""
    call = {"name": "shout", "arguments": {"word": word}}
    message = parse_reply(f"<tool_call>{json.dumps(call)}</tool_call>", request.tools)
    usage = Usage(requests=1, prompt_tokens=9, completion_tokens=15, thought_tokens=10)
    return ChatReply(message=message.model_copy(update={"thought": f"I shout. {HOSTILE}"}), usage=usage)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        {
            "id": f"{word}-{HOSTILE}",
            "kind": f"kind {HOSTILE}",
            "question": f"Shout: {word} {HOSTILE}",
            "answer": word.upper(),
        }
        | {"split": split}
        for split, words in WORDS.items()
        for word in words
    ]
    problems = folder / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "task": {"spec": f"jsonl:{problems}", "n_train": 4, "n_test": 3, "settings": {"grader": "exact"}},
        "run_dir": str(folder),
        "run_name": "run",
        "optimizer": {"n_samples": 1, "max_actions": 1, "max_retries": 0, "min_matches": 0},
        "sandbox": {"workers": 1},
        "agent": {"constrain": False},
        "trainer": {"noise_floor": False},  # the tests count rollouts
        "evaluation": {"baselines": ["untrained"]},
    }
    alone = {"trainer": {"noise_floor": False}, "evaluation": {"baselines": []}}
    run_dir = new_run(build(values | alone, "test"))
    job = train(read_config(run_dir.path), run_dir, model=ScriptedChatModel(brain))
    asyncio.run(job)
    run_dir.close()
    return run_dir.path


# The command


def agentopt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_jobs.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_writes_the_file_and_names_it(run: Path) -> None:
    done = agentopt("report", run)
    assert (done.returncode, done.stdout) == (0, f"{run / 'report.html'}\n"), done.stderr
    assert (run / "report.html").stat().st_size > 50_000


def test_mistakes_are_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ray_jobs.cli import main

    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for arguments, said in [
        ([tmp_path], f"{tmp_path} is not a run folder: it has no config.json"),
        ([run, run], "is given twice"),
        ([run, "--output", tmp_path], "is a folder; name a file"),
        ([run, "--output", tmp_path / "no" / "x.html"], f"there is no folder {tmp_path / 'no'}"),
        ([run, "--output", tmp_path / ("n" * 300)], "File name too long"),
        ([run, "--output", tmp_path / "a\0b"], "no file can have such a name"),
        ([loop], "is not a run folder"),
    ]:
        assert main(["report", *map(str, arguments)]) == 2
        assert said in capsys.readouterr().err


def test_the_settings_shown_repeat_the_run(run: Path, tmp_path: Path) -> None:
    from agentopt_local.reporting.data import run_page
    from agentopt_local.run.reader import read_run

    path, files = tmp_path / "repeat.toml", read_run(run)
    path.write_text(run_page(files, defaults_for(files.config)).summary["toml"])
    left_out = {"run_dir": str(run.parent), "run_name": "run"}
    assert load_config(path).model_copy(update=left_out) == read_config(run)


def test_a_viewer_runs_nothing_that_a_run_folder_names(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named_by_the_run.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "problems.jsonl").unlink()
    config = json.loads((copy / "config.json").read_text())
    config["task"]["settings"] = {"grader": "named_by_the_run:grade"}
    (copy / "config.json").write_text(json.dumps(config))
    report([copy])
    assert "problems.jsonl is missing" in (copy / "report.html").read_text()


def test_what_a_run_folder_says_cannot_control_the_terminal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "a\x1b]0;title\x07\r\u202eb"
    shutil.copytree(run, copy)
    for folder in (copy / "functions").iterdir():
        for file in folder.glob("*.py"):
            file.write_text(file.read_text() + "# \x1b[2J\n")
    for words in (["show", str(copy), "--diff"], ["show", str(copy)], ["report", str(copy)], ["show", f"{copy}c"]):
        main(words)
    shown = "".join(capsys.readouterr())
    assert not re.search("[\x1b\x07\r\u202e]", shown)
    assert "\ufffd[2J" in shown


# The page in a browser


@pytest.fixture(scope="module")
def page(run: Path) -> Iterator[Page]:
    """The report, open; anything that the console says or that leaves the page fails the test that ends it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    report([run])
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(20_000)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request", lambda request: said.append(request.url) if request.url[:5] not in ("file:", "data:") else None
        )
        page.goto((run / "report.html").as_uri())
        page.wait_for_selector(".turns li")
        yield page
        browser.close()
    assert said == []


def new_page(page: Page) -> Page:
    """Another page of the same browser."""
    assert page.context.browser is not None
    return page.context.browser.new_page()


def show(page: Page, fragment: str) -> None:
    """Follow a link inside the report."""
    page.evaluate("fragment => { location.hash = fragment }", fragment)


def status(page: Page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('.status').textContent.startsWith(text)", arg=text)


def test_the_headline_and_the_curve_are_drawn(page: Page) -> None:
    assert page.inner_text("h1").replace("\u202f", " ") == (
        "Accuracy on 3 held‑out problems went from 0 % to 100 %: this may be chance."
    )
    assert "+100.0 points" in page.inner_text("#results .facts")
    assert page.locator("#learning svg .curve").count() == 1
    assert page.locator("#learning .plot .mark.accepted circle").count() == 1
    assert page.locator("#kinds .plot .dot").count() == 2
    assert page.title() == "run · agentopt report"


def test_hostile_text_stays_text(page: Page) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0
    assert HOSTILE in page.inner_text("#functions .description")
    show(page, "outcome=wrong")
    status(page, "7 of 14 rollouts")
    assert page.inner_text(".answers dd >> nth=0") == HOSTILE
    assert HOSTILE in page.inner_text(".said")
    assert HOSTILE in page.inner_text("blockquote")
    assert page.evaluate("window.hacked") is None


def test_a_thought_is_folded_and_its_tokens_are_counted(page: Page) -> None:
    show(page, "stage=test after&q=stone")
    status(page, "1 of 14 rollouts")
    thought = page.locator(".turns .thought")
    assert thought.count() == 1
    assert not thought.locator("p").is_visible()
    assert "(10 in thoughts)" in page.inner_text(".detail .muted >> nth=0")
    thought.locator("summary").click()
    assert thought.locator("p").inner_text() == f"I shout. {HOSTILE}"
    assert page.evaluate("window.hacked") is None
    assert "of them in thoughts" in page.inner_text("#cost .facts")
    heads = page.locator("#cost thead th").all_inner_texts()
    cells = page.locator("#cost tbody tr", has_text="test rollouts").locator("th, td").all_inner_texts()
    assert cells[heads.index("In thoughts")] == "10"
    show(page, "outcome=")


def test_the_policy_refuses_what_a_fault_of_ours_would_let_in(page: Page, run: Path) -> None:
    other = new_page(page)
    other.goto((run / "report.html").as_uri())
    markup = "() => { try { document.body.innerHTML = '<b>'; return 'set' } catch { return 'refused' } }"
    assert other.evaluate(markup) == "refused"
    script = """() => { const added = document.createElement('script');
        try { added.text = 'window.hacked = 4' } catch { return } document.body.append(added) }"""
    other.evaluate(script)
    assert other.evaluate("window.hacked") is None
    assert other.evaluate("fetch('data:,x').then(() => 'sent', () => 'refused')") == "refused"
    other.close()


def test_filters_narrow_the_list_and_the_address_keeps_them(page: Page) -> None:
    show(page, "outcome=")
    status(page, "14 of 14 rollouts")
    page.get_by_label("Function called").select_option("shout")
    status(page, "7 of 14 rollouts, 100")
    page.get_by_label("Stage").select_option("test after")
    status(page, "3 of 14 rollouts")
    assert "stage=test+after" in page.evaluate("location.hash")
    page.get_by_label("Text").fill("GARDEN")
    status(page, "1 of 14 rollouts")
    page.get_by_label("Text").fill("no such text")
    status(page, "No rollout matches")
    page.get_by_role("button", name="Clear").click()
    status(page, "14 of 14 rollouts")


def test_arrow_keys_move_through_the_list(page: Page) -> None:
    show(page, "stage=test after")
    status(page, "3 of 14 rollouts")
    page.locator(".list").focus()
    names = []
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        selected = page.locator(".row[aria-selected=true] .row-name")
        page.wait_for_function("name => document.querySelector('.detail h3').textContent.includes(name)",
                               arg=selected.inner_text().removesuffix("gained"))  # fmt: skip
        names.append(selected.inner_text())
    assert len(set(names)) == 3
    assert names[1] == names[3]
    active = page.locator(".list").get_attribute("aria-activedescendant")
    assert page.locator(".row[aria-selected=true]").get_attribute("id") == active


def test_a_link_to_a_rollout_opens_it(page: Page) -> None:
    show(page, "functions")
    page.locator("#functions details", has_text="solved only with it").locator("summary").first.click()
    link = page.locator("#functions .only a").first
    name = link.inner_text()
    link.click()
    page.wait_for_function("name => document.querySelector('.detail h3').textContent.includes(name)", arg=name)
    assert "test after" in page.inner_text(".detail .muted >> nth=0")


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1280, "dark")])
def test_nothing_is_wider_than_the_window(page: Page, width: int, theme: str) -> None:
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    lightness = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (lightness < 128) == (theme == "dark")
    page.get_by_label("Theme").select_option("light")
    assert page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])") > 128
    page.get_by_label("Theme").select_option("auto")


def test_runs_are_compared_side_by_side(run: Path, page: Page, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"seed": 7}))
    report([run, other], output=tmp_path / "both.html")
    second = new_page(page)
    said: list[str] = []
    second.on("console", lambda message: said.append(message.text))
    second.on("pageerror", lambda error: said.append(str(error)))
    second.goto((tmp_path / "both.html").as_uri() + "#run=1&outcome=wrong")
    second.wait_for_selector("#comparison svg .curve >> nth=1")
    status(second, "7 of 14 rollouts")
    assert second.inner_text("#comparison h1") == "2 runs side by side"
    assert second.locator("#comparison table >> nth=1").locator("tbody tr").all_inner_texts() == ["seed\t0\t7"]
    assert second.locator(".runs input >> nth=1").is_checked()
    second.locator(".runs label >> nth=0").click()
    status(second, "14 of 14 rollouts")
    second.close()
    assert said == []
