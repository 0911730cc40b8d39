r"""Whether looping pays on text: one pass, unshared depth, published loops and ours, side by side.

    python benchmarks/depth_text.py --size gpu --corpus data/prose --out runs/depth-text \
        --results benchmarks/results/depth-text.json --jobs 5
    python benchmarks/depth_text.py --size cpu --arms mythos,om05-fixed,om05-random

Every arm sees the same batches in the same order, from the same corpus (training/prose.py, then
`open-mythos data prepare`; without --corpus the bundled plays), for equally many tokens; widths,
blocks around the loop and the blocks of one loop are the same. An arm is one run folder; what is
there already is not trained again, and a run that was stopped goes on. Held-out perplexity is
measured at every number of loops in LOOPS, on the same text.

`--also NAME=ARM:key=value;key=value` adds an arm that differs from another one in some settings.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.config.budget import parameters, training_flops_per_token
from open_mythos.config.designs import design
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import configure, to_plain
from open_mythos.eval.perplexity import score
from open_mythos.eval.text_judge import TextJudge
from open_mythos.train.depth import DepthConfig
from open_mythos.train.environment import environment
from open_mythos.train.recipe import DataConfig, OptimConfig, Recipe
from open_mythos.train.sources import build_sources
from open_mythos.train.trainer import train


LOOPS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths and length of every arm's run.

    Attributes:
        dim: Width; heads are of 64, or of 32 below 256.
        hidden: Of every feed-forward.
        vocab: Rows of the embedding.
        loops: Loops on average, and of the unshared stack the number of its cores.
        batch: Rows of a step.
        seq: Positions of a row.
        steps: Optimizer steps.
        lr: Peak rate.
        tokens: Held-out targets that are scored.
    """

    dim: int
    hidden: int
    vocab: int
    loops: int
    batch: int
    seq: int
    steps: int
    lr: float
    tokens: int


SIZES = {
    "gpu": Size(
        dim=512, hidden=1408, vocab=4096, loops=8, batch=32, seq=512, steps=1640, lr=4e-3,
        tokens=400_000,
    ),
    "cpu": Size(
        dim=128, hidden=384, vocab=1024, loops=4, batch=16, seq=128, steps=400, lr=5e-3,
        tokens=16_384,
    ),
}  # fmt: skip


def network(size: Size) -> MythosConfig:
    """What all arms have in common: one block before the loop, two in it, one behind it.

    Weights start from N(0, 0.02). From 1 / sqrt(dim) and an embedding of unit variance, which tasks
    want, perplexity after 13M tokens was 28 to 44 % higher with Muon, and with AdamW 5 to 34 %
    higher for all arms but the unshared stack (results/depth-text-first-look.json).
    """
    return MythosConfig(
        vocab_size=size.vocab,
        dim=size.dim,
        n_heads=size.dim // (64 if size.dim >= 256 else 32),
        n_kv_heads=size.dim // (128 if size.dim >= 256 else 64),
        attn_type="gqa",
        max_seq_len=size.seq,
        max_output_tokens=size.seq,
        max_loop_iters=size.loops,
        prelude_layers=1,
        core_layers=2,
        coda_layers=1,
        dense_hidden=size.hidden,
        core_ffn="dense",
        rope_theta=10_000.0,
    )


def stack(base: MythosConfig, cores: int) -> MythosConfig:
    """A plain stack: the blocks of so many loops, none of them shared, run once."""
    plain = replace(design("mythos", base), injection="none", loop_norm="none", core_ffn="dense")
    return replace(plain, core_layers=base.core_layers * cores, max_loop_iters=1)


def designed(name: str, base: MythosConfig) -> MythosConfig:
    return replace(design(name, base), core_ffn="dense")


def arms(size: Size) -> dict[str, Recipe]:
    """Name -> run. Depths are drawn around the mean as each design was published, or as ours."""
    base, mean = network(size), size.loops
    once = DepthConfig(kind="fixed", mean=1)
    fixed = DepthConfig(kind="fixed", mean=mean)
    ours = DepthConfig(kind="poisson", mean=mean, min=mean // 2, max=2 * mean)
    uniform = DepthConfig(kind="uniform", min=1, max=2 * mean - 1)
    poisson = DepthConfig(kind="poisson", mean=mean, min=1, max=2 * mean)
    lognormal = DepthConfig(kind="lognormal_poisson", mean=mean, min=1, max=4 * mean)
    plans = {
        "one-pass": (stack(base, 1), once),
        "untied": (stack(base, mean), once),
        "om05-fixed": (designed("om05", base), fixed),
        "om05-random": (designed("om05", base), uniform),
        "parcae": (designed("parcae", base), poisson),
        "huginn": (designed("huginn", base), lognormal),
        "mythos": (replace(designed("mythos", base), loop_lora=True), ours),
    }
    return {
        name: Recipe(
            name=name,
            model=model,
            data=DataConfig(kind="text", batch_size=size.batch, seq_len=size.seq),
            depth=depth,
            optim=OptimConfig(
                kind="muon", lr=size.lr, warmup_steps=100, schedule="linear", final_ratio=0.02
            ),
            router_bias_step=0.0,
            steps=size.steps,
            eval_every=0,
            eval_samples=0,
            save_every=500,
            keep_last=1,
        )
        for name, (model, depth) in plans.items()
    }


def also(known: dict[str, Recipe], word: str) -> tuple[str, Recipe]:
    """NAME=ARM:key=value;key=value as an arm."""
    name, _, rest = word.partition("=")
    base, _, settings = rest.partition(":")
    changed = configure(known[base], None, [part for part in settings.split(";") if part])
    return name, replace(changed, name=name)


def run(recipe: Recipe, folder: Path, tokens: int, threads: int) -> dict[str, Any]:
    """Train one arm, or go on with it, and measure it."""
    if threads:
        torch.set_num_threads(threads)
    done = folder / "result.json"
    if done.is_file():
        found: dict[str, Any] = read_json(done)
        if found["recipe"] == to_plain(recipe):
            return found
    began = time.perf_counter()
    trained = train(recipe, folder, resume="auto")
    if trained.status != "finished" or trained.model is None:
        raise RuntimeError(f"{folder}: {trained.message}")
    seconds = time.perf_counter() - began
    torch.set_float32_matmul_precision("high")
    cfg = recipe.model
    sources = build_sources(recipe)
    assert sources.evaluation is not None
    loops = (1,) if recipe.depth.kind == "fixed" and recipe.depth.mean == 1 else LOOPS
    judge = TextJudge(sources.evaluation, 1, tokens=tokens, tokenizer=sources.tokenizer)  # type: ignore[arg-type]
    losses = {n: score(trained.model, judge.rows(), n).loss for n in loops}
    mean = recipe.depth.declared_mean
    result = {
        "arm": recipe.name,
        "recipe": to_plain(recipe),
        "seed": recipe.seed,
        "parameters": parameters(cfg).total,
        "tokens": recipe.steps * recipe.data.batch_size * recipe.data.seq_len,
        "flops_per_token": training_flops_per_token(cfg, round(mean), recipe.data.seq_len),
        "mean_loops": mean,
        "seconds": round(seconds, 1),
        "training_loss": None if trained.record is None else trained.record.loss,
        "loss": {str(n): loss for n, loss in losses.items()},
        "perplexity": {str(n): math.exp(loss) for n, loss in losses.items()},
    }
    trained.model.to(torch.bfloat16).save_pretrained(folder / "model")
    write_json(done, result)
    return result


def line(found: dict[str, Any]) -> str:
    """A result in a line."""
    numbers = " ".join(f"{n}:{ppl:.2f}" for n, ppl in found["perplexity"].items())
    return (
        f"{found['arm']:>16} {found['parameters'] / 1e6:5.1f}M {found['seconds']:6.0f} s "
        f"train {found['training_loss']:.3f} | {numbers}"
    )


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--corpus", default="")
    parser.add_argument("--arms", default="")
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/depth-text"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of every arm")
    return parser.parse_args()


def runs(args: argparse.Namespace, known: dict[str, Recipe]) -> list[tuple[Recipe, Path]]:
    """The runs that were asked for, each with its folder."""
    common = list(args.settings)
    if args.corpus:
        common.append(f"data.corpus={args.corpus}")
    if args.steps:
        common.append(f"steps={args.steps}")
    if args.size == "gpu":
        common += ["engine.precision=bf16", "engine.compile=true"]
    wanted = args.arms.split(",") if args.arms else list(known)
    return [
        (configure(known[name], None, [*common, f"seed={seed}"]), args.out / name / f"seed-{seed}")
        for seed in map(int, args.seeds.split(","))
        for name in wanted
    ]


def main() -> None:
    args = asked()
    size = SIZES[args.size]
    known = arms(size)
    known |= dict(also(known, word) for word in args.also)
    results = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
        tasks = [
            pool.submit(run, recipe, folder, size.tokens, threads)
            for recipe, folder in runs(args, known)
        ]
        for task in as_completed(tasks):
            try:
                results.append(task.result())
                print(line(results[-1]), flush=True)
            except Exception as error:  # noqa: BLE001 -- the others are still worth having
                print(f"failed: {error!r}", flush=True)
    if args.results:
        order = {name: place for place, name in enumerate(known)}
        results.sort(key=lambda found: (order[found["arm"]], found["seed"]))
        where = environment(torch.device("cuda" if args.size == "gpu" else "cpu"), 0)
        write_json(args.results, {"size": args.size, "environment": where, "arms": results})
        print(json.dumps(str(args.results)))


if __name__ == "__main__":
    main()
