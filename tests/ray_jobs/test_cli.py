"""The ``agentopt`` command as a user sees it: exit codes, standard output and error, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TASK = '[task]\nspec = "jsonl:{problems}"\nn_train = {n_train}\nn_test = 2\n'
JOB = '''
"""``agentopt train`` with a scripted model: python job.py CONFIG SECONDS_PER_REQUEST."""

import json
import re
import sys
from pathlib import Path

from agentopt_local.models.scripted import ScriptedChatModel
from ray_jobs.commands.running import run_job
from ray_jobs.config import load_config
from ray_jobs.terminal.display import Display
from ray_jobs.runs import new_run
from ray_jobs.training import train

SHORT = 'def shout(word: str) -> str:\\n    """Return word in capitals."""\\n    return word.upper()[:2]\\n'
RIGHT = SHORT.replace("[:2]", "")


def brain(request):
    last = request.messages[-1]
    if request.conversation.startswith("optimizer/"):
        revise = "`shout(" in request.messages[0].content
        if '"def shout(' in request.constraint.value:
            return RIGHT if revise else SHORT
        if request.constraint.kind == "json_schema":
            words = re.findall(r"(problem_[0-9]+): Shout: (\\w+)", last.content)
            return json.dumps({key: {"word": word} for key, word in words})
        return json.dumps({"action": "revise_function" if revise else "add_function", "name": "shout"})
    if last.role == "tool":
        return f"<answer>{last.content}</answer>"
    call = {"name": "shout", "arguments": {"word": last.content.split()[-1]}}
    return f"<tool_call>{json.dumps(call)}</tool_call>" if request.tools else "<answer>dunno</answer>"


config = load_config(Path(sys.argv[1]))
run_dir = new_run(config)
print("started", flush=True)
display = Display()
model = ScriptedChatModel(brain, latency_s=float(sys.argv[2]))
sys.exit(
    run_job(run_dir, display, train(config, run_dir, callbacks=[display], model=model))
)
'''


def agentopt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_jobs.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def write_config(folder: Path, *, n_train: int = 4, more: str = "") -> Path:
    """A configuration with its problems, whose runs are made in ``folder``/runs."""
    words = ["ab", "cd", "tree", "house", "xy", "garden"]
    splits = ["train"] * 4 + ["test"] * 2
    problems = folder / "problems.jsonl"
    rows = [
        {"question": f"Shout: {word}", "answer": word.upper(), "split": split, "grader": "exact"}
        for word, split in zip(words, splits, strict=True)
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = folder / "run.toml"
    head = f'run_dir = "{folder / "runs"}"\nrun_name = "one"\nconcurrency = 2\n'
    tail = "[optimizer]\nn_samples = 1\nmax_actions = 1\nmax_retries = 0\nextra_edits = 0\nhold_back = false\n"
    tail += "[sandbox]\nworkers = 1\n"
    tail += '[trainer]\nacceptance = "mean"\n'  # with so few problems all are shown
    config.write_text(head + TASK.format(problems=problems, n_train=n_train) + tail + more)
    return config


def start_job(config: Path, latency_s: float) -> subprocess.Popen[str]:
    script = config.parent / "job.py"
    script.write_text(JOB)
    command = [sys.executable, str(script), str(config), str(latency_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """A finished run: its folder, and what the command wrote to its outputs."""
    config = write_config(tmp_path_factory.mktemp("run"))
    with start_job(config, 0.0) as job:
        out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    yield config.parent / "runs" / "one", out, err


# The user's mistakes


def test_a_typo_is_told_before_anything_starts(tmp_path: Path) -> None:
    config = write_config(tmp_path, more="max_epoch = 3\n")
    done = agentopt("train", config)
    assert done.returncode == 2
    assert done.stderr == f"agentopt: {config}: trainer.max_epoch is not a setting; did you mean trainer.max_epochs?\n"
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_a_wrong_flag_is_told(tmp_path: Path) -> None:
    done = agentopt("train", write_config(tmp_path), "--trainer.max_epoch", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--trainer.max_epoch is not a setting; did you mean trainer.max_epochs?" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = agentopt("train", tmp_path / "rum.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"rum.toml does not exist; did you mean {config}?" in done.stderr


def test_an_unknown_model_is_told_before_a_folder_is_made(tmp_path: Path) -> None:
    done = agentopt("train", write_config(tmp_path), "--model.name", "qwen2.5-coder-1.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "qwen2.5-coder-1.5" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["resume", "evaluate", "show"])
def test_a_folder_that_is_no_run_is_told(command: str, tmp_path: Path) -> None:
    done = agentopt(command, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} is not a run folder: it has no config.json" in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is written into a folder that is not ours"


def test_a_task_that_does_not_load_leaves_no_run_behind(tmp_path: Path) -> None:
    config = write_config(tmp_path, n_train=99)
    done = agentopt("train", config, "--model.base_url", "http://127.0.0.1:9/v1")
    assert done.returncode == 2
    assert "has only 4 distinct train problems, not 99" in done.stderr
    assert "To continue" not in done.stdout
    assert not (tmp_path / "runs").exists()


# A run


def test_a_run_ends_with_its_report_and_its_folder_last(run: tuple[Path, str, str]) -> None:
    folder, out, err = run
    lines = out.splitlines()
    assert lines[0] == "started"
    assert lines[1] == "Held-out problems: 2 (split test, the same ones before and after)"
    assert Path(lines[-1]) == folder
    assert "shout(word: str) -> str" in out
    assert "Actions: 2 sampled, 2 legal, 2 verified, 2 applied" in out
    assert "step 1: accepted  accuracy 0.00 -> 0.50 on the same 4 problems  [add shout]" in err
    assert "step 2: accepted  accuracy 0.50 -> 1.00 on the same 4 problems  [revise shout]" in err
    assert "test before: 2/2" in err
    log = (folder / "run.log").read_text()
    assert "step 2: accepted" in log


def test_show_prints_the_functions_and_nothing_else_on_stdout(run: tuple[Path, str, str]) -> None:
    done = agentopt("show", run[0])
    assert done.returncode == 0
    scope: dict[str, object] = {}
    exec(done.stdout, scope)  # the scripted source above
    shout = scope["shout"]
    assert callable(shout)
    assert shout("tree") == "TREE"
    assert "Held-out problems: 2" in done.stderr


def test_show_diff_tells_what_each_step_changed(run: tuple[Path, str, str]) -> None:
    done = agentopt("show", run[0], "--diff")
    assert done.returncode == 0
    first, second = done.stdout.split("# step 2\n")
    assert first.startswith("# step 1\n--- /dev/null\n+++ b/shout.py\n")
    assert "+    return word.upper()[:2]" in first
    assert second.startswith("--- a/shout.py\n+++ b/shout.py\n")
    assert "-    return word.upper()[:2]\n+    return word.upper()\n" in second


def test_resuming_a_run_whose_model_is_not_here_is_told(run: tuple[Path, str, str]) -> None:
    config = json.loads((run[0] / "config.json").read_text())
    other = run[0].parent / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config | {"model": {"name": "no/such-model-here"}}))
    done = agentopt("resume", other)
    assert done.returncode == 2
    assert "no/such-model-here" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_continue(number: signal.Signals, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    folder = tmp_path / "runs" / "one"
    with start_job(config, 0.4) as job:
        deadline = time.monotonic() + 60
        while not (folder / "rollouts.jsonl").exists():
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        job.send_signal(number)
        out, err = job.communicate(timeout=60)
    assert job.returncode == 130
    assert out.splitlines()[-1] == f"To continue: agentopt resume {folder}"
    assert "Traceback" not in err
    assert "interrupted" in err
    assert not (folder / "report.json").exists()
    assert (folder / "rollouts.jsonl").read_bytes().endswith(b"\n")


# Help


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--help"], ["train", "resume", "evaluate", "certify", "show", "grade", "doctor", "models"]),
        (["train", "--help"], ["CONFIG", "--trainer.max_epochs 3", "ray_jobs/configs/"]),
        (["show", "--help"], ["RUN", "--diff"]),
        (["certify", "--help"], ["RUN", "--against", "untrained", "--n", "--alpha"]),
        (["models", "--help"], ["list", "pull", "path"]),
    ],
)
def test_help_is_given(arguments: list[str], parts: list[str]) -> None:
    done = agentopt(*arguments)
    assert done.returncode == 0
    for part in parts:
        assert part in done.stdout


@pytest.mark.parametrize("arguments", [[], ["trian", "x.toml"], ["train"], ["show", "x", "--dif", "y", "z"]])
def test_a_wrong_command_line_is_a_users_mistake(arguments: list[str]) -> None:
    done = agentopt(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "agentopt" in done.stderr
