"""The wheel: built, unpacked into an empty folder, and all that docs/examples has run on nothing but its content.

The environment's other packages are used, which pip would install; the source tree is not on the path.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.test_docs import Model

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs/examples"
PACKAGES = ("agentopt_local", "serving", "ray_jobs")
CHECK = """
import sys
from pathlib import Path
target = Path(sys.argv[1])
import agentopt_local as ao, serving, ray_jobs
assert [getattr(ao, name) for name in ao.__all__]
from agentopt_local import prompts
from agentopt_local.reporting.html import report_html
from ray_jobs.config import load_config
assert len(prompts.hashes()) == int(sys.argv[2])
assert "<html" in report_html([])
names = [load_config(each).task.spec for each in sorted((target / "ray_jobs/configs").glob("*.toml"))]
OURS = ("agentopt_local", "serving", "ray_jobs")
ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in OURS]
assert len(ours) > 50
for module in ours:
    assert Path(module.__file__).is_relative_to(target), module.__file__
print(len(names), ao.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "-w", str(folder), str(ROOT))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--target", str(target), str(wheel))
    return target


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--no-index", "--no-deps", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder(tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the examples and the script in place of a model, where Python finds the wheel's content.

    Folders named in PYTHONPATH come before those of an editable installation, which has the source tree.
    """
    for path in (*EXAMPLES.iterdir(), ROOT / "tests/tools/example_model.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*words: str) -> str:
    """What a program prints, run with the wheel's content."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a checkout")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name for name in listed if (ROOT / name).is_file()}
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    for kind in (".md", ".toml", ".js", ".css", ".html", ".txt", ".pyi"):
        assert any(name.endswith(kind) for name in names), kind


def test_what_is_installed_is_used_and_whole(folder: Path, installed: Path) -> None:
    out = python("-c", CHECK, str(installed), str(len(list((ROOT / "agentopt_local/prompts").glob("*.md")))))
    assert out.split()[0] == str(len(list((ROOT / "ray_jobs/configs").glob("*.toml"))))
    assert python("-m", "ray_jobs", "--version").startswith("agentopt ")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("own_task", ["0.0 % (0.0 to 16.1) -> 100.0 %", "def to_roman(number: int) -> str:"]),
        ("partial_credit", ["mean reward 0.0 -> 0.", "words are in their place; expected"]),
    ],
)
def test_a_script_runs(script: str, said: list[str], folder: Path) -> None:
    out = python("-c", f"import example_model, {script}; {script}.main(example_model.model())")
    for text in said:
        assert text in out
    assert [each.name for each in folder.glob("runs/*/report.json")] == ["report.json"]


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_script_with_an_endpoint_runs(folder: Path, endpoint: str) -> None:
    out = python("own_endpoint.py", endpoint, "scripted")
    assert "step 1: accepted, " in out
    assert "requests of the agent, 0.0" in out
    assert "-> 100.0 %" in out


def test_the_notebook_runs(folder: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    notebook = nbformat.read(folder / "quickstart.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert parameters.source.startswith('MODEL = "qwen2.5-coder-1.5b"')
    parameters.source = "import example_model\nMODEL = example_model.model()"
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [
        (output.get("text") or output.get("data", {}).get("text/plain", "")).strip()
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]
    text = "\n".join(outputs)
    assert "step 1: accepted  accuracy 0.00 -> 1.00 on the same 12 problems" in text
    assert "0.0 % (0.0 to 20.4) -> 100.0 % (79.6 to 100.0) on 15 problems" in text
    assert outputs[-3:] == ["'duck bear wolf'", "'no idea'", "PosixPath('quickstart-tools.json')"]
