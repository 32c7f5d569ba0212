"""How fast a report is written, opens and responds, in headless Chromium.

    python -m benchmarks.report                      a run of 10,000 rollouts; JSON on stdout
    python -m benchmarks.report --rollouts 1000 --keep /tmp/made-up-run

The run is synthetic but looks like a real one: kinds of problems, calls, code blocks, tracebacks and long results, at
about 3 kB per rollout. ``open_s`` is the time from the start of the navigation until the curve, the list and a rollout
are drawn and the browser has been idle for a frame. The file is read from disk by a fresh browser each time.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agentopt_local.actions import Action, AddFunction, ReviseFunction
from agentopt_local.chat import Message, ToolCall, Usage
from agentopt_local.comparison import compare, function_results
from agentopt_local.functions import Function, FunctionSet
from agentopt_local.grading import Grade
from agentopt_local.problem import Problem
from agentopt_local.run.report import Report
from agentopt_local.run.writer import RunDir
from agentopt_local.stage import Stage
from agentopt_local.steps import Tried, step_row
from agentopt_local.train_state import Decision, TrainState
from agentopt_local.trajectory import Step, ToolRun, Trajectory
from agentopt_local.update import ActionCounts, Update

KINDS = ("spell_backward", "polynomial_multiplication", "base_conversion", "count_primes", "caesar_cipher", "calendar")
WORDS = (
    "table",
    "river",
    "seven",
    "common",
    "question",
    "answer",
    "letter",
    "number",
    "shift",
    "month",
    "prime",
    "digit",
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
N_STEPS = 16
READY = """() => document.querySelectorAll('.row').length > 5 && document.querySelector('#learning svg .curve')
    && document.querySelector('.turns li')"""
OPENED = """() => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0)))"""
SCROLL = """() => new Promise(done => {
    const list = document.querySelector('.list'), gaps = [];
    let last = performance.now(), frames = 0;
    const step = now => {
        gaps.push(now - last); last = now; list.scrollTop += 400;
        (frames += 1) < 120 ? requestAnimationFrame(step) : done(gaps.slice(2));
    };
    requestAnimationFrame(step);
})"""
CHOOSE = """value => new Promise(done => {
    const input = [...document.querySelectorAll('.filters select')][3], start = performance.now();
    input.value = value; input.dispatchEvent(new Event('change'));
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0));
})"""


def source(kind: str, version: int) -> str:
    """A function for a kind of problem, in the style of a model's n-th version."""
    checks = "".join(f"    if len(text) == {n}:\n        text = text + ' '\n" for n in range(version))
    return (
        f"def solve_{kind}(text: str, base: int = {version + 2}) -> str:\n"
        f'    """Return the answer to a {kind.replace("_", " ")} question.\n\n    Version {version}."""\n'
        f"{checks}    parts = [part.strip() for part in text.split(',')]\n    return ' '.join(reversed(parts))\n"
    )


def made_problems(rng: random.Random, split: str, n: int) -> list[Problem]:
    """``n`` questions of about 300 characters."""
    return [
        Problem(
            id=f"{KINDS[i % len(KINDS)]}-{split[:2]}{i:05x}",
            kind=KINDS[i % len(KINDS)],
            question=" ".join(rng.choices(WORDS, k=45)) + "?",
            answer=str(rng.randrange(10**9)),
        )
        for i in range(n)
    ]


def made_rollout(rng: random.Random, problem: Problem, functions: FunctionSet, skill: float) -> Trajectory:
    """One rollout of one to four turns."""
    right = rng.random() < skill
    steps = []
    for _ in range(rng.randrange(1, 4)):
        name = f"solve_{problem.kind}"
        if name in functions and rng.random() < 0.8:
            given: dict[str, Any] = {"text": " ".join(rng.choices(WORDS, k=12)), "base": rng.randrange(2, 17)}
            message = Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=given),))
        else:
            name, lines = "python", [f"{rng.choice(WORDS)}_{i} = {rng.random():.6f}" for i in range(18)]
            given = {"code": "\n".join(lines)}
            message = Message(role="assistant", content=f"Let me compute.\n```python\n{given['code']}\n```")
        ok = rng.random() < 0.9
        result = (
            " ".join(rng.choices(WORDS, k=60)) if ok else "Error: ValueError: " + " ".join(rng.choices(WORDS, k=30))
        )
        done = ToolRun(name=name, arguments=given, ok=ok, result=result)
        steps.append(Step(message=message, executed=(done,), observations=(Message(role="tool", content=result),)))
    answer = problem.answer if right else str(rng.randrange(10**6))
    ended = rng.random() < 0.93 or right
    if ended:
        steps.append(Step(message=Message(role="assistant", content=f"<answer>{answer}</answer>")))
    tokens = rng.randrange(60, 500)
    return Trajectory(
        problem_id=problem.id,
        functions=functions.fingerprint,
        seed=0,
        steps=tuple(steps),
        answer=answer if ended else None,
        stop_reason="answer" if ended else "max_turns",
        usage=Usage(requests=len(steps), prompt_tokens=9 * tokens, cached_tokens=7 * tokens, completion_tokens=tokens),
        wall_s=rng.random() * 20,
        grade=Grade(
            reward=float(right), reason="correct" if right else f"answered {answer!r}; expected {problem.answer!r}"
        ),
    )


def make_run(folder: Path, n_rollouts: int, *, seed: int = 0) -> None:
    """Write a run folder with about ``n_rollouts`` rollouts, using the program's own writer."""
    rng = random.Random(seed)
    each = max(6, n_rollouts // (N_STEPS + 5))
    train, test = made_problems(rng, "train", each), made_problems(rng, "test", 2 * each)
    run = RunDir(folder, create=True)
    run.write_config({"task": {"spec": f"reasoning_gym:{','.join(KINDS)}", "n_train": each}, "seed": seed})
    run.write_meta({"model": "made-up", "device": "cpu"})
    run.keep_problems("train", train)
    run.keep_problems("test", test)

    def roll_out(functions: FunctionSet, problems: list[Problem], stage: str) -> list[Trajectory]:
        done = [made_rollout(rng, one, functions, 0.12 + 0.75 * (f"solve_{one.kind}" in functions)) for one in problems]
        for trajectory in done:
            run.keep(trajectory, Stage.parse(stage))
        return done

    untested = roll_out(FunctionSet(), test, "test before")
    state = TrainState()
    before = roll_out(state.functions, train, "step 1 before")
    for number in range(1, N_STEPS + 1):
        kind = KINDS[(number - 1) % 7 % len(KINDS)]
        function = Function(source=source(kind, number))
        action: Action = (ReviseFunction if function.name in state.functions else AddFunction)(function=function)
        proposal = Update(
            functions=action.apply(state.functions),
            actions=(action,),
            matches=(f"{rng.randrange(4)}/3",),
            counts=ActionCounts(sampled=9, legal=8, verified=5, applied=1),
            usage=Usage(requests=20, prompt_tokens=20_000, cached_tokens=12_000, completion_tokens=3_000),
        )
        run.keep_proposal(number, 0, proposal)
        after = roll_out(proposal.functions, train, f"step {number} after")
        better = sum(t.correct for t in after) > sum(t.correct for t in before)
        tried = [Tried(0, proposal, after)]
        decision: Decision = "accepted" if better else "rolled_back"
        run.keep_step(step_row(state, decision, tried, spent=proposal, before=before, seconds=61.5))
        if better:
            before = after
            state = state.model_copy(update={"functions": proposal.functions, "accepted": state.accepted + 1})
            run.keep_functions(number, state.functions)
        state = state.model_copy(update={"step": number, "usage": state.usage + proposal.usage})
    run.keep_state(state.model_copy(update={"stopped": "max_epochs"}))
    tested = roll_out(state.functions, test, "test after")
    report = Report(test=compare(test, untested, tested), functions=function_results(state.functions, tested))
    run.write_report("test", report)
    run.close()


def measure(page_file: Path) -> dict[str, float]:
    """Times in a fresh browser: opening (s), frames while scrolling and a filter (ms), a search (s)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(page_file.as_uri(), wait_until="commit")
        page.wait_for_function(READY, polling=20)
        opened = page.evaluate(OPENED)
        gaps = sorted(page.evaluate(SCROLL))
        chosen = [page.evaluate(CHOOSE, value) for value in ("right", "wrong", "")]
        started = time.monotonic()
        page.get_by_placeholder("in questions").fill("valueerror: prime")
        page.wait_for_function("() => /^[0-9].* of/.test(document.querySelector('.status').textContent)"
                               " && location.hash.includes('q=')", polling=20)  # fmt: skip
        searched = time.monotonic() - started
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        browser.close()
    return {
        "open_s": opened / 1000,
        "frame_ms_median": statistics.median(gaps),
        "frame_ms_p95": gaps[int(0.95 * len(gaps))],
        "filter_ms": max(chosen),
        "first_search_s": searched,
        "heap_mb": heap,
    }


def main() -> None:
    """Make a run and its report, and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="make the run in this folder and keep it")
    arguments = parser.parse_args()
    from ray_jobs.commands.report import report

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        make_run(folder, arguments.rollouts)
        started = time.monotonic()
        sys.stdout, out = sys.stderr, sys.stdout
        report([folder])
        sys.stdout = out
        written = time.monotonic() - started
        page_file = (folder / "report.html").resolve()
        runs = [measure(page_file) for _ in range(arguments.repeats)]
        rollouts = (folder / "rollouts.jsonl").read_bytes()
        result = {
            "rollouts": rollouts.count(b"\n"),
            "rollouts_mb": round(len(rollouts) / 1e6, 1),
            "html_mb": round(page_file.stat().st_size / 1e6, 1),
            "write_s": round(written, 2),
            **{name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]},
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
