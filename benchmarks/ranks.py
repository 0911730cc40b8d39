"""The same training on one GPU and on several, by every layout: tokens/s, memory, losses.

    python benchmarks/ranks.py --ranks 2 --out benchmarks/results/ranks-h200-x2.json

Every rank keeps the rows of the one-GPU run (32 x 1024 of size R at 8 loops), so that perfect
scaling is as many times its tokens/s. Each layout is a run of `open-mythos train`, under torchrun
where it has several ranks; numbers are medians over the last half of its steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from open_mythos.train.checkpoints import RunFolder
from open_mythos.train.environment import environment


def layouts(ranks: int) -> dict[str, tuple[int, list[str]]]:
    """Name -> ranks, and the settings that spread the run over them."""
    return {
        "one": (1, []),
        "fsdp": (ranks, [f"parallel.shard={ranks}"]),
        "hsdp of groups of one": (ranks, []),
        "fsdp + ep": (ranks, [f"parallel.shard={ranks}", f"parallel.expert={ranks}"]),
        "tp": (ranks, [f"parallel.tensor={ranks}"]),
    }


def command(args: argparse.Namespace, ranks: int, settings: list[str], out: Path) -> list[str]:
    readers = 1 if any("tensor" in word for word in settings) else ranks
    start = [sys.executable, "-W", "ignore", "-m"]
    if ranks > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    base = [
        "open_mythos", "train", args.recipe,
        "depth.kind=fixed", "depth.mean=8", f"steps={args.steps}",
        f"data.batch_size={args.rows * readers}", "eval_every=0", "save_every=0", "keep_last=1",
        f"log_every={args.steps}", *args.settings, *settings, "--out", str(out),
    ]  # fmt: skip
    return [*start, *base]


def measure(args: argparse.Namespace, ranks: int, settings: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out, began = Path(folder) / "run", time.perf_counter()
        visible = ",".join(map(str, range(ranks)))
        done = subprocess.run(
            command(args, ranks, settings, out),
            check=False,
            capture_output=True,
            text=True,
            timeout=args.patience,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
        )
        if done.returncode:
            return {"failed": done.stderr[-2500:]}
        lines = RunFolder(out).metrics_file.read_text(encoding="utf-8").splitlines()
        steps = [r for r in map(json.loads, lines) if r["kind"] == "step"]
    half = steps[len(steps) // 2 :]
    return {
        "ranks": ranks,
        "settings": settings,
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in half),
        "mfu": half[-1]["mfu"],
        "memory_gib": max(r["memory"] or 0 for r in half) / 2**30,
        "losses": [r["loss"] for r in steps],
        "samples": [r["tokens_per_second"] for r in half],
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="settings of every run, e.g. model.dim=256")
    parser.add_argument("--recipe", default="text-120m")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=32, help="rows of one rank")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", default="", help="layouts whose name holds this")
    parser.add_argument("--patience", type=float, default=150.0, help="seconds for one layout")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "environment": environment(device, 0),
        "layouts": {},
    }
    for name, (ranks, settings) in layouts(args.ranks).items():
        if args.only not in name:
            continue
        try:
            found["layouts"][name] = measure(args, ranks, settings)
        except subprocess.TimeoutExpired:
            found["layouts"][name] = {"failed": f"no end after {args.patience} s"}
        one = found["layouts"].get("one", {}).get("tokens_per_second")
        row = found["layouts"][name]
        if one and "tokens_per_second" in row:
            row["times_one"] = row["tokens_per_second"] / one
        shown = {k: v for k, v in row.items() if k not in ("losses", "samples")}
        print(name, json.dumps(shown), flush=True)
        if args.out:  # after each: a call that is cut short loses one layout
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
