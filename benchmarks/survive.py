"""Kill a run with SIGKILL again and again, resume it each time, and compare it with one left alone.

    python benchmarks/survive.py --kills 10 --out benchmarks/results/survive.json
    python benchmarks/survive.py --kills 10 --ranks 2 --recipe cpu-tiny steps=120 save_every=10

The two ends are compared bit for bit: every tensor of the last checkpoint (weights, optimizer,
generators) and every step's loss, as metrics.jsonl has it. Losses that agree to the last bit in
every step are those of the same data in the same order. Every third kill waits for a save to begin.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from open_mythos.train.checkpoints import RunFolder


def command(args: argparse.Namespace, out: Path, *words: str) -> list[str]:
    start = [sys.executable, "-m"]
    if args.ranks > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={args.ranks}", "-m"]
    settings = ["device=cpu", *args.settings]
    return [*start, "open_mythos", "train", args.recipe, *settings, "--out", str(out), *words]


def saving(out: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any((out / "checkpoints").glob(".*.tmp-*")) if (out / "checkpoints").is_dir() else False


def kill_later(args: argparse.Namespace, out: Path, number: int, draw: random.Random) -> str:
    """Start or resume the run, kill every process of it at a random moment, and say when.

    The clock starts with the first step of this life; every third kill waits for a save instead.
    """
    before, metrics = size(out), RunFolder(out).metrics_file
    process = subprocess.Popen(
        command(args, out, "--resume", "auto"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    in_save, patience = number % 3 == 2, draw.uniform(0, args.most)
    began: float | None = None
    while process.poll() is None:
        if began is None and metrics.is_file() and size(out) != before:
            began = time.perf_counter()
        waited = 0.0 if began is None else time.perf_counter() - began
        if began is not None and (saving(out) if in_save else waited > patience):
            moment = "in a save" if saving(out) else "in a step"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"{moment}, {waited:.2f} s after its first step, {len(losses(out))} steps done"
        time.sleep(0.0005)
    raise SystemExit("the run ended before it was killed; give it more steps=")


def size(out: Path) -> int:
    metrics = RunFolder(out).metrics_file
    return metrics.stat().st_size if metrics.is_file() else 0


def losses(out: Path) -> list[tuple[int, float]]:
    whole = RunFolder(out).metrics_file.read_text(encoding="utf-8").rpartition("\n")[0]
    records = [json.loads(line) for line in whole.splitlines()]
    return [(r["step"], r["loss"]) for r in records if r["kind"] == "step"]


def tensors(out: Path) -> dict[str, Any]:
    """Every tensor of the run's newest checkpoint."""
    newest = list(RunFolder(out).steps().values())[-1]
    return {
        f"{file.name}/{name}": tensor
        for file in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", default=["steps=120", "save_every=10"])
    parser.add_argument("--recipe", default="cpu-tiny")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=2.0, help="seconds of a life, at most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        straight, broken = Path(folder) / "straight", Path(folder) / "broken"
        subprocess.run(command(args, straight), check=True, stderr=subprocess.DEVNULL)
        moments = [kill_later(args, broken, n, draw) for n in range(args.kills)]
        subprocess.run(
            command(args, broken, "--resume", "auto"), check=True, stderr=subprocess.DEVNULL
        )
        ends = [tensors(out) for out in (straight, broken)]
        curves = [losses(out) for out in (straight, broken)]
    found = {
        "command": " ".join(sys.argv),
        "torch": torch.__version__,
        "ranks": args.ranks,
        "recipe": args.recipe,
        "settings": args.settings,
        "kills": moments,
        "steps": len(curves[0]),
        "tensors": len(ends[0]),
        "same_tensors": same(*ends),
        "same_losses": curves[0] == curves[1],
    }
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0 if found["same_tensors"] and found["same_losses"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
