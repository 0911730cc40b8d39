"""What leaving the batch saves: prompts, decoding and training, beside computing everybody.

    python benchmarks/skipping.py --size cpu --threads 2 --out benchmarks/results/skipping-cpu.json
    python benchmarks/skipping.py --size gpu --device cuda --dtype bfloat16 --out FILE

Random weights, halted "freeze", 16 loops. For prompts and decoding positions leave by an exit that
was told each one's depth: depths are drawn from a geometric distribution cut at 16 loops, of the
means in --means. In training they halt by the config's own halting (readout "act_last"), whose
bias is moved until positions take about so many loops. Each case is run in turns, once with all
positions computed (the loop still ends where nobody goes on), once with those that have halted
taken out of every loop, and once where that is left to the policy (`nn/loop/skipping.py`); times
are the middle of --repeat turns. `share` is FLOPs that ran over those of the full depth.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_mythos.bench.machine import about
from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Seen
from open_mythos.nn.loop.work import metered


LOOPS = 16
WAYS: dict[str, bool | None] = {"whole": False, "apart": True, "policy": None}

# Width, experts, prompts (rows, length), context of decoding, training batch.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 128, "experts": 4, "prompts": [(1, 64)], "context": 64, "batch": (4, 32)},
    "small": {
        "dim": 256,
        "experts": 8,
        "prompts": [(1, 256), (8, 64)],
        "context": 128,
        "batch": (8, 32),
    },
    "cpu": {
        "dim": 512,
        "experts": 8,
        "prompts": [(1, 512), (8, 128)],
        "context": 256,
        "batch": (8, 64),
    },
    "gpu": {
        "dim": 2048,
        "experts": 16,
        "prompts": [(1, 2048), (8, 1024)],
        "context": 2048,
        "batch": (16, 1024),
    },
}
ROWS = (1, 8, 64)


@dataclass
class Told:
    """An exit that knows each position's depth.

    Attributes:
        depths: (B, S) int64.
    """

    depths: Tensor
    packs = True

    def done(self, seen: Seen) -> Tensor:
        """Those whose depth is reached."""
        mine = self.depths
        if seen.places is not None:
            mine = mine.flatten()[seen.places].unsqueeze(0)
        return mine <= seen.loop


def geometric(mean: float) -> Tensor:
    """Chances of 1 .. LOOPS, geometric, of this mean."""
    loops, low, high = torch.arange(1, LOOPS + 1, dtype=torch.float64), -2.0, 2.0
    for _ in range(60):
        rate = (low + high) / 2
        chance = (rate * loops).softmax(0)
        low, high = (rate, high) if float((chance * loops).sum()) < mean else (low, rate)
    return chance


def draw(mean: float, rows: int, length: int, device: torch.device) -> Tensor:
    found = torch.multinomial(geometric(mean), rows * length, replacement=True) + 1
    return found.view(rows, length).to(device)


def build(args: argparse.Namespace, attn: str, ffn: str, **changes: Any) -> OpenMythos:
    size = SIZES[args.size]
    dim = size["dim"]
    cfg = MythosConfig(
        vocab_size=8192,
        dim=dim,
        n_heads=dim // 64,
        n_kv_heads=max(1, dim // 256),
        max_seq_len=4096,
        max_loop_iters=LOOPS,
        prelude_layers=1,
        coda_layers=1,
        attn_type=attn,
        kv_lora_rank=dim // 4,
        q_lora_rank=dim // 2,
        qk_rope_head_dim=32,
        qk_nope_head_dim=32,
        v_head_dim=64,
        n_experts=size["experts"],
        n_experts_per_tok=2,
        n_shared_experts=1,
        expert_dim=dim // 2,
        dense_hidden=4 * dim,
        core_ffn=ffn,
        halted="freeze",
        **{"readout": "last", "loop_lora": False, "loop_index": False, **changes},
    )
    torch.manual_seed(0)
    return OpenMythos(cfg).to(args.device, getattr(torch, args.dtype))


def in_turns(
    args: argparse.Namespace, model: OpenMythos, step: Callable[[int], object]
) -> dict[str, Any]:
    """The middle time of a step each way, and what it computed."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    work: dict[str, Any] = {}
    for turn in range(args.repeat + 1):
        for way, model.recurrent.skip in WAYS.items():
            with metered(model.recurrent) as meter:
                step(turn)
            if turn:  # the first one warms up
                seconds[way].append(meter.seconds)
            work[way] = {**asdict(meter.work), "share": meter.work.share}
    middle = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "ms": {way: 1e3 * value for way, value in middle.items()},
        "least_ms": {way: 1e3 * min(found) for way, found in seconds.items()},
        "faster": {way: middle["whole"] / value for way, value in middle.items()},
        "work": work,
        "mean_loops": work["apart"]["positions"] / (work["apart"]["full_positions"] / LOOPS),
    }


@torch.no_grad()
def prompts(args: argparse.Namespace, model: OpenMythos, mean: float) -> list[dict[str, Any]]:
    rows = []
    for batch, length in SIZES[args.size]["prompts"]:
        ids = torch.randint(8192, (batch, length), device=args.device)
        exits = [Told(draw(mean, batch, length, args.device)) for _ in range(args.repeat + 1)]

        def step(turn: int, ids: Tensor = ids, exits: list[Told] = exits) -> None:
            cache = model.new_cache(*ids.shape)
            model(ids, LOOPS, cache, exit=exits[turn], logits_to_keep=1)

        rows.append({"what": "prompt", "rows": batch, "length": length, "mean": mean})
        rows[-1] |= in_turns(args, model, step)
    return rows


@torch.no_grad()
def decoding(args: argparse.Namespace, model: OpenMythos, mean: float) -> list[dict[str, Any]]:
    context, rows = SIZES[args.size]["context"], []
    for batch in ROWS:
        cache = model.new_cache(batch, context + args.tokens)
        model.recurrent.skip = None
        some = torch.randint(8192, (batch, context), device=args.device)
        model(some, LOOPS, cache, exit="fixed:1", logits_to_keep=1)
        exits = [Told(draw(mean, batch, 1, args.device)) for _ in range(args.tokens)]

        def step(turn: int, cache: Any = cache, exits: list[Told] = exits) -> None:
            cache.truncate(context)
            token = torch.full((cache.batch, 1), turn, device=args.device)
            for rule in exits:
                model(token, LOOPS, cache, exit=rule)

        rows.append({"what": "decode", "rows": batch, "context": context, "mean": mean})
        rows[-1] |= in_turns(args, model, step)
    return rows


def training(args: argparse.Namespace, mean: float, attn: str, ffn: str) -> dict[str, Any]:
    model = build(args, attn, ffn, readout="act_last", act_threshold=0.9).train()
    batch, length = SIZES[args.size]["batch"]
    ids = torch.randint(8192, (batch, length), device=args.device)
    halt = model.recurrent.act.halt
    low, high = -8.0, 2.0
    with torch.no_grad():
        torch.nn.init.normal_(halt.weight, std=2.0 * model.cfg.dim**-0.5)
        for _ in range(12):
            halt.bias.fill_((low + high) / 2)
            used = model(ids, LOOPS, return_output=True).loops_used.double().mean()
            low, high = (low, float(halt.bias)) if used < mean else (float(halt.bias), high)

    def step(_: int) -> None:
        out = model(ids, LOOPS, return_output=True)
        out.logits.float().logsumexp(-1).mean().backward()
        model.zero_grad(set_to_none=True)

    found = {"what": "train", "rows": batch, "length": length, "mean": mean}
    return found | in_turns(args, model, step)


def measure(args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    for attn in args.attn:
        for ffn in args.ffn:
            model = build(args, attn, ffn).eval()
            for mean in args.means:
                found = prompts(args, model, mean) if "prompt" in args.what else []
                found += decoding(args, model, mean) if "decode" in args.what else []
                found += [training(args, mean, attn, ffn)] if "train" in args.what else []
                for row in found:
                    results.append({"attn": attn, "ffn": ffn, **row})
                    print(told(results[-1]), flush=True)
                if args.out is not None:
                    args.out.write_text(json.dumps(run_of(args, results), indent=1) + "\n")


def told(row: dict[str, Any]) -> str:
    ms, work = row["ms"], row["work"]
    return (
        f"{row['attn']} {row['ffn']} {row['what']} x {row['rows']}: {row['mean_loops']:.1f} of "
        f"{LOOPS} loops; ms {ms['whole']:.1f} whole, {ms['apart']:.1f} apart, {ms['policy']:.1f} "
        f"by policy; FLOPs {work['whole']['share']:.0%}, {work['apart']['share']:.0%}, "
        f"{work['policy']['share']:.0%} of the full depth"
    )


def run_of(args: argparse.Namespace, results: list[dict[str, Any]]) -> dict[str, Any]:
    machine = about(torch.device(args.device), [], None)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in
             vars(args).items() if name != "out"}  # fmt: skip
    machine["command"] = "python benchmarks/skipping.py"
    return {"machine": machine, "given": given, "when": time.strftime("%F"), "rows": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--means", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--attn", nargs="+", default=["gqa", "mla"])
    parser.add_argument("--ffn", nargs="+", default=["moe", "dense"])
    parser.add_argument("--what", nargs="+", default=["prompt", "decode", "train"])
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    measure(args, [])


if __name__ == "__main__":
    main()
