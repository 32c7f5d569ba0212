"""Does a training survive when its parts are killed? Disturbed scripted trainings against an undisturbed one.

    python -m benchmarks.faults                       every fault; JSON on stdout; minutes
    python -m benchmarks.faults --only driver --kills 20

Each fault hits a real process from outside at a random moment. If the run ends, it is started again until it has a
report. Then the function set, the steps, the scores and the grade of every rollout must equal those of the undisturbed
run, every rollout must be stored once, and no more rollouts and drafts may have been repeated than were in flight when
something was killed. The exit code is 1 if anything differs.

``driver``: SIGKILL of the training process · ``driver_with_engine``: the same with the engine in a Ray actor ·
``engine``: SIGKILL of one of two engine actors · ``lone_engine``: of the only one · ``worker``: SIGKILL of one of two
rollout workers · ``sandbox``: SIGKILL of sandbox processes · ``node``: a Ray node with an engine and a rollout worker
is removed · ``disk``: the disk is full · ``sigint``, ``sigterm``: the run is asked to stop, and must leave no process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "AGENTOPT_FAULTS"
"""An environment variable that identifies the processes of a run."""
LATENCY_S = 0.05
PLACES = 4
"""Rollouts at once: the scripted training's ``concurrency``."""


class Run:
    """A scripted training in a folder, started as often as necessary."""

    def __init__(self, folder: Path, *, replicas: int = 0, workers: int = 0, address: str | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.path = folder / "run"
        self.mark = uuid.uuid4().hex
        self.flags = ["--latency", str(LATENCY_S), "--replicas", str(replicas)]
        self.flags += ["--workers", str(workers)] if workers else []
        self.flags += ["--address", address] if address else []
        self.in_flight: list[int] = []
        """Rollouts and drafts in flight at each kill."""
        self.seen: set[tuple[int, str]] = set()
        """(pid, start time) of all processes that scans have found."""

    def start(self, limit: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
        """Start or continue the training in its own process group. ``limit`` runs in it first."""
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scripted", str(self.folder), *self.flags],
                stdout=output, stderr=output, start_new_session=True, preexec_fn=limit,  # noqa: PLW1509
                env=os.environ | {MARK: self.mark},
            )  # fmt: skip

    def finish(self) -> int:
        """Start again until there is a report; returns the number of starts."""
        for starts in range(1, 10):
            process = self.start()
            try:
                if process.wait(timeout=300) == 0:
                    return starts
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        raise RuntimeError(f"no report after 9 starts: {self.output()}")

    def output(self) -> str:
        """The end of the processes' output."""
        return (self.folder / "output.txt").read_text(errors="replace")[-2000:]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The complete lines of a JSONL file in the run folder."""
        path = self.path / name
        data = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]

    def requests(self) -> list[tuple[int, str, int]]:
        """(process, conversation, messages) of each request so far."""
        path = self.folder / "requests.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), session, int(n)) for pid, session, n in (line.split() for line in lines)]

    def starts(self) -> list[str]:
        """Sessions of rollouts and drafts, once for each time that they were started."""
        return [session for _, session, n in self.requests() if n == (1 if session.startswith("optimizer/") else 2)]

    def note_in_flight(self) -> None:
        """Record how much is in flight: what was started and is not stored yet."""
        started = set(self.starts())
        drafts = {each for each in started if each.startswith("optimizer/")}
        done = {f"{row['functions']}/{row['problem_id']}/{row['seed']}" for row in self.rows("rollouts.jsonl")}
        self.in_flight.append(len(started - drafts - done) + max(0, len(drafts) - len(self.rows("proposals.jsonl"))))

    def progress(self) -> int:
        """How much of the run is stored."""
        return len(self.rows("rollouts.jsonl"))

    def scan(self) -> list[int]:
        """The run's live processes: those with its mark, their children, and those seen before."""
        for pid, parent in processes():
            with contextlib.suppress(OSError):
                marked = self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
                if marked or any(parent == seen for seen, _ in self.seen):  # sandboxes start without an environment
                    self.seen.add((pid, started_at(pid)))
        return [pid for pid, start in self.seen if started_at(pid) == start]

    def result(self) -> dict[str, Any]:
        """The results that must not depend on faults."""
        report = json.loads((self.path / "report.json").read_text())
        steps = [{key: value for key, value in row.items() if key != "seconds"} for row in self.rows("steps.jsonl")]
        grades = {
            f"{row['functions']}/{row['problem_id']}/{row['seed']}": [row["answer"], row["stop_reason"], row["grade"]]
            for row in self.rows("rollouts.jsonl")
        }
        return {
            "state": json.loads((self.path / "state.json").read_text()),
            "steps": steps,
            "test": report["test"],
            "functions": report["functions"],
            "grades": dict(sorted(grades.items())),
        }

    def verdict(self, expected: dict[str, Any]) -> dict[str, Any]:
        """The figures of a finished disturbed run; ``wrong`` names what differs."""
        result = self.result()
        stored = Counter((row["functions"], row["problem_id"], row["seed"]) for row in self.rows("rollouts.jsonl"))
        starts = self.starts()
        rework = len(starts) - len(set(starts))
        wrong = [key for key in expected if result[key] != expected[key]]
        if set(stored.values()) != {1}:
            wrong.append("a rollout was stored twice")
        if rework > sum(self.in_flight):
            wrong.append("more was repeated than was in flight")
        return {"rework": rework, "in_flight_at_kills": self.in_flight, "rollouts": len(stored), "wrong": wrong}


def processes() -> list[tuple[int, int]]:
    """(process, parent) of all processes, parents first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.append((int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])))
    return sorted(found)


def started_at(pid: int) -> str:
    """When a process started, in ticks since the machine booted; empty if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0) -> bool:
    """Whether ``condition`` became true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def at_random(run: Run, process: subprocess.Popen[bytes], generator: random.Random, total: int) -> bool:
    """Wait for a random moment before the end of the run; False if the process ended first."""
    target = generator.randint(run.progress(), total)
    wait_for(lambda: run.progress() >= target or process.poll() is not None)
    time.sleep(generator.uniform(0, 4 * LATENCY_S))
    return process.poll() is None


def driver(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """SIGKILL of the training process, ``kills`` times in total, over as many trainings as that takes."""
    verdicts: list[dict[str, Any]] = []
    left: list[int] = []
    done = 0
    while done < kills:
        run = Run(folder / f"driver{len(verdicts)}")
        here = 0
        while done < kills and here < 7:  # seven kills in one training, then a fresh one
            process = run.start()
            # sometimes during the start, otherwise during rollouts
            early = generator.random() < 0.2
            if early:
                time.sleep(generator.uniform(0, 2.5))
            if not early and not at_random(run, process, generator, run.progress() + 12):
                break
            run.scan()
            process.kill()
            process.wait()
            run.note_in_flight()
            here, done = here + 1, done + 1
        run.finish()
        verdicts.append(run.verdict(expected))
        wait_for(lambda run=run: not run.scan(), 15)  # type: ignore[misc]
        left += run.scan()
    wrong = [each for verdict in verdicts for each in verdict["wrong"]]
    rework = sum(verdict["rework"] for verdict in verdicts)
    flight = sum(sum(verdict["in_flight_at_kills"]) for verdict in verdicts)
    wrong += ["processes were left running"] if left else []
    return {"kills": done, "trainings": len(verdicts), "rework": rework, "in_flight": flight, "wrong": wrong}


def driver_with_engine(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """SIGKILL of a training process whose engine runs in a Ray actor; Ray's own agents end after about 70 s."""
    run = Run(folder / "driver_with_engine", replicas=1)
    process = run.start()
    hit = at_random(run, process, generator, 40)
    run.scan()
    process.kill()
    process.wait()
    run.note_in_flight()
    actors = {pid for pid, _, _ in run.requests()}
    wrong = [] if wait_for(lambda: not any(map(started_at, actors)), 15) else ["the engine outlived its driver"]
    run.finish()
    verdict = run.verdict(expected)
    return {"kills": int(hit), **verdict, "wrong": wrong + left_over(run, verdict["wrong"], 120)["wrong"]}


def engine(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """SIGKILL of one of two engine actors, at most twice; the training continues."""
    return engines(Run(folder / "engine", replicas=2), expected, generator, min(kills, 2))


def lone_engine(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """SIGKILL of the only engine actor; the run waits for its restart."""
    return engines(Run(folder / "lone_engine", replicas=1), expected, generator, 1)


def worker(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """SIGKILL of one of two rollout workers, at most twice; the training continues."""
    run = Run(folder / "worker", replicas=1, workers=2)
    return kill_some(run, expected, generator, min(kills, 2), lambda: [pid for pid in run.scan() if is_worker(pid)])


def is_worker(pid: int) -> bool:
    """Whether a process is a rollout worker, judging by the title that Ray gives it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::WorkerActor")
    except OSError:
        return False


def engines(run: Run, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """Kill processes that have answered requests; the training must not end."""

    def answering() -> list[int]:
        return [pid for pid in dict.fromkeys(pid for pid, _, _ in run.requests()) if started_at(pid)]

    return kill_some(run, expected, generator, kills, answering)


def kill_some(
    run: Run, expected: dict[str, Any], generator: random.Random, kills: int, victims: Callable[[], list[int]]
) -> dict[str, Any]:
    """SIGKILL of one of ``victims`` at each of some random moments; the training must not end."""
    process = run.start()
    done = 0
    while done < kills and at_random(run, process, generator, run.progress() + 30):
        if found := victims():
            run.scan()
            run.note_in_flight()
            os.kill(generator.choice(found), signal.SIGKILL)
            done += 1
    code = process.wait(timeout=300)
    verdict = run.verdict(expected) if code == 0 else {"wrong": [f"the run ended with {code}: {run.output()}"]}
    return {"kills": done, **verdict, **left_over(run, verdict["wrong"])}


def sandbox(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """SIGKILL of sandbox processes, one after another; the training continues."""
    run = Run(folder / "sandbox")
    process = run.start()
    killed = 0
    while killed < kills and at_random(run, process, generator, run.progress() + 8):
        victims = [pid for pid in run.scan() if pid != process.pid]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(generator.choice(victims), signal.SIGKILL)
                killed += 1
    code = process.wait(timeout=300)
    verdict = run.verdict(expected) if code == 0 else {"wrong": [f"the run ended with {code}: {run.output()}"]}
    return {"kills": killed, **verdict, **left_over(run, verdict["wrong"])}


def node(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """Two Ray nodes with an engine and a rollout worker each; the second is removed in the middle."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        second = cluster.add_node(**NODE)
        run = Run(folder / "node", replicas=2, address=cluster.address)
        process = run.start()
        hit = at_random(run, process, generator, 40)
        workers = sum(is_worker(pid) for pid, _ in processes())
        if hit:
            # It takes a second, in which more attempts start; each can lose its worker and its engine.
            run.in_flight.append(2 * PLACES)
            cluster.remove_node(second, allow_graceful=False)
        code = process.wait(timeout=300)
    finally:
        cluster.shutdown()
    verdict = run.verdict(expected) if code == 0 else {"wrong": [f"the run ended with {code}: {run.output()}"]}
    verdict["wrong"] += [] if workers == 2 or not hit else [f"{workers} rollout workers on two nodes"]
    return {"kills": int(hit), "processes": len({pid for pid, _, _ in run.requests()}), **verdict}


NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}


def disk(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """No file can grow beyond a limit, as on a full disk; later there is room again."""
    run = Run(folder / "disk")
    size = generator.randint(8_000, 40_000)
    process = run.start(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    code = process.wait(timeout=120)
    run.note_in_flight()
    output = run.output()
    run.in_flight[-1] += 1  # the rollout or draft whose line did not fit was finished
    wrong = [] if code == 1 and "cannot be written" in output and "agentopt resume" in output else [f"{code}: {output}"]
    wrong += ["a traceback"] if "Traceback" in output else []
    run.finish()
    verdict = run.verdict(expected)
    return {"limit_bytes": size, **verdict, "wrong": wrong + verdict["wrong"]}


def sigint(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """Ctrl-C in a terminal: the whole process group receives the signal."""
    return stopped(Run(folder / "sigint", replicas=1), expected, generator, signal.SIGINT, whole_group=True)


def sigterm(folder: Path, expected: dict[str, Any], generator: random.Random, kills: int) -> dict[str, Any]:
    """A scheduler asks the training process to end, twice."""
    return stopped(Run(folder / "sigterm", replicas=1), expected, generator, signal.SIGTERM, whole_group=False)


def stopped(
    run: Run, expected: dict[str, Any], generator: random.Random, number: int, *, whole_group: bool
) -> dict[str, Any]:
    """Send a signal twice, check that no process is left, and continue the run."""
    process = run.start()
    hit = at_random(run, process, generator, 40)
    run.scan()
    for _ in range(2):
        if whole_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        time.sleep(0.2)
        if process.poll() is not None:
            break
    code = process.wait(timeout=120)
    run.note_in_flight()
    wrong = [] if hit and code == 130 and "agentopt resume" in run.output() else [f"{code}: {run.output()}"]
    wrong += left_over(run, [])["wrong"]
    run.finish()
    verdict = run.verdict(expected)
    return {**verdict, "wrong": wrong + verdict["wrong"]}


def left_over(run: Run, wrong: list[str], grace_s: float = 15) -> dict[str, Any]:
    """``wrong``, plus any processes that are left after ``grace_s`` seconds."""
    if wait_for(lambda: not run.scan(), grace_s):
        return {"wrong": wrong}
    names = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:80] for pid in run.scan()]
    return {"wrong": [*wrong, f"processes are still running: {names}"]}


FAULTS = {
    each.__name__: each
    for each in (driver, driver_with_engine, engine, lone_engine, worker, sandbox, node, disk, sigint, sigterm)
}


def main(argv: list[str] | None = None) -> int:
    """Run the faults and print a JSON report. 1 if anything differs from the undisturbed run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(FAULTS), help=f"the faults to try, of {','.join(FAULTS)}")
    parser.add_argument("--kills", type=int, default=20, help="kills of the driver and of sandboxes (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",")
    if unknown := sorted(set(names) - set(FAULTS)):
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(FAULTS)}")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="agentopt-faults-") as temporary:
        folder = Path(temporary)
        undisturbed = Run(folder / "undisturbed")
        if undisturbed.finish() != 1:
            raise RuntimeError(f"the undisturbed run did not end: {undisturbed.output()}")
        expected = undisturbed.result()
        for name in names:
            started = time.monotonic()
            generator = random.Random(f"{arguments.seed}/{name}")
            report[name] = FAULTS[name](folder, expected, generator, arguments.kills)
            report[name]["seconds"] = round(time.monotonic() - started, 1)
            print(f"{name}: {report[name]}", file=sys.stderr)
    report["ok"] = not any(each["wrong"] for each in report.values())
    print(json.dumps(report, indent=2))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
