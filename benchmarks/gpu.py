"""The engine benchmarks on a GPU, and how much of its memory bandwidth rollouts use.

    python -m benchmarks.gpu        a JSON report; without a GPU it gives the reason and exits with 0

Runs ``benchmarks.rollouts`` (256 at once), ``benchmarks.constraints`` and ``benchmarks.driver``, each as its own
command, and measures the GPU's memory bandwidth with a copy. A decode step reads all weights W and the KV cache of the
batch, B sequences of mean length L at k bytes per token. With X tokens/s in the body of the epoch a step takes B/X, so
the use is (W + B·L·k)·X/B over the bandwidth. The ideal step takes max((W + B·L·k)/bandwidth, 2·P·B/F).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
"""Dense bf16, from the makers' data sheets; looked up by the card's name."""


def gpu_name() -> tuple[str | None, str]:
    """The first GPU's name, or None and the reason."""
    try:
        import torch
    except ImportError:
        return None, "torch is not installed: make install EXTRA=gpu"
    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} sees no GPU"
    return str(torch.cuda.get_device_name(0)), ""


COPY = """
import torch
a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda"); b = torch.empty_like(a)
b.copy_(a); torch.cuda.synchronize()
start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
start.record()
for _ in range(20): b.copy_(a)
end.record(); torch.cuda.synchronize()
print(20 * 2 * a.numel() / (start.elapsed_time(end) / 1000))
"""


def command(*parts: str) -> str:
    """The output of a command of this interpreter; its standard error passes through."""
    done = subprocess.run([sys.executable, *parts], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def model_bytes(folder: Path) -> tuple[int, int]:
    """(bytes of the weights, bytes of KV cache per token) of a bf16 model in a Hugging Face folder."""
    config = json.loads((folder / "config.json").read_text())
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    per_token = 2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * head * 2
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")), per_token


def roofline(rollouts: dict[str, Any], folder: Path, bandwidth: float, flops: float | None) -> dict[str, Any]:
    """Memory-bandwidth use in the body of the epoch, and the ideal tokens per second there."""
    weights, per_token = model_bytes(folder)
    body = rollouts["async"]
    batch = min(body["body_mean_in_flight"], rollouts["concurrency"])
    length = body["mean_prompt_tokens"] + body["mean_reply_tokens"] / 2
    step_bytes = weights + batch * length * per_token
    ideal_s = max(step_bytes / bandwidth, weights * batch / flops if flops else 0.0)  # 2·P·B operations; W = 2·P
    return {
        "weights_bytes": weights,
        "kv_bytes_per_token": per_token,
        "mean_batch": batch,
        "mean_length": round(length, 1),
        "bandwidth_use": round(step_bytes * body["body_tokens_per_s"] / batch / bandwidth, 3),
        "ideal_tokens_per_s": round(batch / ideal_s),
        "of_ideal": round(body["body_tokens_per_s"] * ideal_s / batch, 3),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print a JSON report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--problems", type=int, default=1024)
    parser.add_argument("--concurrency", type=int, default=256)
    arguments = parser.parse_args(argv)
    name, why = gpu_name()
    if name is None:
        print(json.dumps({"skipped": why}))
        return 0
    from serving.model_store import resolve

    folder = resolve(arguments.model, allow_fetch=False)
    bandwidth = float(command("-c", COPY))
    flops = next((value for card, value in BF16_FLOPS.items() if card in name), None)
    sizes = ["--problems", str(arguments.problems), "--concurrency", str(arguments.concurrency)]
    rollouts = json.loads(command("-m", "benchmarks.rollouts", "--model", arguments.model, *sizes))
    report = {
        "gpu": name,
        "copy_bytes_per_s": round(bandwidth),
        "rollouts": rollouts,
        "roofline": roofline(rollouts, folder, bandwidth, flops),
        "constraints": json.loads(command("-m", "benchmarks.constraints", "--model", arguments.model)),
        "driver": json.loads(command("-m", "benchmarks.driver")),
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
