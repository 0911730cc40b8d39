"""Whether the router's bias undoes a collapse: a router that sends nearly all to 4 of 32 experts.

    python benchmarks/balance.py --out benchmarks/results/balance-cpu.json
    python benchmarks/balance.py engine.precision=bf16 model.dim=256 model.expert_dim=64 \
        data.batch_size=32 data.seq_len=128 --device cuda --out benchmarks/results/balance-h200.json

Text (the bundled plays), top 4 of 32 experts, a fixed number of loops, 500 steps, once without
balancing and once for each size of the bias step (Recipe.router_bias_step), for each seed. The
skew: the rows of the first four experts get the direction that fits the router's inputs best to
one, times --weights, and their bias starts at --bias. Beside them stand runs from the router as it
is drawn, without balancing and with the last but one of the bias steps. What --out has already is
not run again.

Load is counted over windows of 20 steps, all loops together, as the bias sees it, and loop by loop.
One step of a small batch says little: a word goes to the same experts wherever it stands.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.config.overrides import configure, to_plain
from open_mythos.eval.evaluators import standard_evaluators
from open_mythos.nn.moe.balance import dead_experts, load_entropy, load_peak
from open_mythos.train.build import build_model, find_device
from open_mythos.train.environment import environment
from open_mythos.train.presets import small
from open_mythos.train.recipe import DataConfig, DepthConfig, OptimConfig, Recipe
from open_mythos.train.sources import build_sources
from open_mythos.train.trainer import Parts, train


FAVOURED = 4
WINDOW = 20
MOST_PEAK, MOST_PENALTY = 1.3, 0.005


def recipe(args: argparse.Namespace, seed: int, bias_step: float) -> Recipe:
    model = small(vocab_size=1024, dim=64, max_seq_len=256)
    shape = {"n_experts": 32, "n_experts_per_tok": 4, "expert_dim": 16}
    base = Recipe(
        name="balance",
        model=type(model).from_dict({**model.to_dict(), **shape}),
        data=DataConfig(kind="text", batch_size=8, seq_len=64),
        depth=DepthConfig(kind="fixed", mean=3),
        optim=OptimConfig(lr=5e-3, warmup_steps=20, decay_embeddings=True),
        steps=500,
        eval_every=0,
        save_every=0,
    )
    words = [f"seed={seed}", f"router_bias_step={bias_step}", f"device={args.device}"]
    return configure(base, None, [*words, *args.settings])


@torch.no_grad()
def skew(model: Any, run: Recipe, weights: float, bias: float) -> None:
    """Turn the router towards its first experts, for whatever reaches it in the first batches."""
    ffn, seen = model.recurrent.block.ffn, []
    keep: Callable[..., None] = lambda _, given, __: seen.append(given[0].flatten(0, -2))  # noqa: E731
    handle, source = ffn.router.register_forward_hook(keep), build_sources(run).train
    model.eval()
    for step in range(8):
        model(source.batch(step).ids, int(run.depth.mean))
    handle.remove()
    x = torch.cat(seen)
    towards = torch.linalg.lstsq(x, torch.ones(len(x), 1)).solution.squeeze(-1)
    ffn.router.weight[:FAVOURED] += weights * towards
    ffn.router_bias[:FAVOURED] += bias


def run_once(args: argparse.Namespace, seed: int, bias_step: float, skewed: bool) -> dict[str, Any]:
    run, loads = recipe(args, seed, bias_step), []

    def watch(module: nn.Module, _: Any, output: Any) -> None:
        if module.training:
            loads.append(output.router_load.detach().clone())

    def build(r: Recipe) -> nn.Module:
        model = build_model(r)
        if skewed:
            skew(model, r, args.weights, args.bias)
        model.register_forward_hook(watch)
        return model

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        looks = standard_evaluators(run, build_sources(run))
        result = train(run, Path(folder) / "run", parts=Parts(model=build), evaluators=looks)
    seconds, table = time.perf_counter() - began, torch.stack(loads).cpu()
    assert result.evaluation is not None
    ffn: Any = result.model.recurrent.block.ffn  # type: ignore[union-attr]
    starts = range(0, len(table) - WINDOW + 1, WINDOW)
    first = table[0].sum(0).double()
    return {
        "seed": seed,
        "bias_step": bias_step,
        "skewed": skewed,
        "share_of_favoured_at_first": round(float(first[:FAVOURED].sum() / first.sum()), 4),
        "curve": [{"step": s + WINDOW, **measures(table[s : s + WINDOW])} for s in starts],
        "end": measures(table[-WINDOW:]),
        "peak_of_single_steps": rounded(load_peak(table[-WINDOW:].sum(1)).mean()),
        "bias_spread": rounded(ffn.router_bias.max() - ffn.router_bias.min()),
        "validation_loss": round(result.evaluation.values["validation/loss"], 5),
        "skipped_steps": result.skipped,
        "seconds": round(seconds, 1),
    }


def measures(window: Tensor) -> dict[str, Any]:
    """Of loads (steps, T, E): the window as one, and loop by loop."""
    loops = window.sum(0)
    whole = loops.sum(0)
    return {
        "peak": rounded(load_peak(whole)),
        "dead": int(dead_experts(whole)),
        "entropy": rounded(load_entropy(whole)),
        "peak_by_loop": rounded(load_peak(loops)),
        "dead_by_loop": dead_experts(loops).tolist(),
        "entropy_by_loop": rounded(load_entropy(loops)),
    }


def rounded(values: Tensor) -> Any:
    found = values.double().tolist()
    return [round(v, 4) for v in found] if isinstance(found, list) else round(found, 4)


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per way to run: the worst of the seeds, the mean of their losses.

    The penalty is against the run without balancing of the same start and seed.
    """
    rows = []
    ways = sorted({(r["skewed"], r["bias_step"]) for r in runs}, reverse=True)
    loss = {(r["skewed"], r["bias_step"], r["seed"]): r["validation_loss"] for r in runs}
    for skewed, bias_step in ways:
        found = [r for r in runs if (r["skewed"], r["bias_step"]) == (skewed, bias_step)]
        penalties = [r["validation_loss"] / loss[skewed, 0.0, r["seed"]] - 1 for r in found]
        row = {
            "skewed": skewed,
            "bias_step": bias_step,
            "peak": max(r["end"]["peak"] for r in found),
            "dead": max(r["end"]["dead"] for r in found),
            "peak_of_worst_loop": max(max(r["end"]["peak_by_loop"]) for r in found),
            "validation_loss": round(sum(r["validation_loss"] for r in found) / len(found), 4),
            "penalty": round(max(penalties), 5),
        }
        even = row["peak"] <= MOST_PEAK and row["dead"] == 0
        row["meets_the_bar"] = bool(even and row["penalty"] <= MOST_PENALTY)
        rows.append(row)
    return rows


def write(file: Path, document: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """JSON with one line a run: their curves are long."""
    head = json.dumps(document, indent=1).removesuffix("\n}")
    lines = ",\n".join("  " + json.dumps(run) for run in runs)
    file.write_text(f'{head},\n "runs": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="of the recipe, as key=value; first")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--bias-steps", type=float, nargs="+", default=[0.001, 0.02, 0.05, 0.1])
    parser.add_argument("--weights", type=float, default=8.0)
    parser.add_argument("--bias", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    known = args.out is not None and args.out.is_file()
    runs = json.loads(args.out.read_text(encoding="utf-8"))["runs"] if known else []
    document = {
        "environment": environment(find_device(args.device), 0),
        "recipe": to_plain(recipe(args, 0, 0.0)),
        "skew": {"experts": FAVOURED, "weights": args.weights, "bias": args.bias},
        "window": WINDOW,
        "bar": {"peak": MOST_PEAK, "dead": 0, "penalty": MOST_PENALTY},
    }
    ways = [(True, s) for s in (0.0, *args.bias_steps)]
    ways += [(False, 0.0), (False, args.bias_steps[-2:][0])]
    there = {(r["seed"], r["skewed"], r["bias_step"]) for r in runs}
    for seed, (skewed, bias_step) in product(args.seeds, ways):
        if (seed, skewed, bias_step) in there:
            continue
        runs.append(run_once(args, seed, bias_step, skewed))
        print(json.dumps({k: v for k, v in runs[-1].items() if k != "curve"}), flush=True)
        if args.out:
            write(args.out, {**document, "summary": summary(runs)}, runs)
    for row in summary(runs):
        print(row)


if __name__ == "__main__":
    main()
