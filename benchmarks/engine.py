"""What the engine is worth: identity, depth-wise batching, 64 at once, shared prompts.

    python benchmarks/engine.py --parts identity --schedules 1000 --out engine-identity.json
    python benchmarks/engine.py --model FOLDER --halted freeze --exits latent:0.1 latent:0.03 kl \
        --parts depth crowd prefix --device cuda --dtype bfloat16 --out h200.json --plot p.png

identity  Random schedules of a tiny model in float64: arrivals, lengths, loops, exits, prefixes,
          blocks too few for all. Greedy tokens against `model.generate` of each request alone; all
          blocks free at the end.
depth     The same --requests requests (lengths of prompts and answers drawn log-uniformly), all
          there from the start: at full depth; with each exit, depth-wise; and with each exit where
          everybody waits for the slowest of those that entered together, as early exit in a plain
          batch does (its tokens are worth nothing, its time is). Tokens per second, mean loops.
crowd     64 requests of equal length at full depth: the engine beside `model.generate` of one
          batch, which on a GPU replays one CUDA graph per token.
prefix    64 requests that share a prompt of --shared tokens: time to first token, and blocks in
          use at the peak, with sharing and without.

Every time is the best of --repeats. A folder is a checkpoint of the library, or the name of a
preset with random weights, whose exits say little: `drawn:0.4` leaves by chance.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from open_mythos.bench.machine import about
from open_mythos.cli.opening import open_checkpoint
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.presets import PRESETS, preset
from open_mythos.engine.engine import Engine
from open_mythos.engine.flight import Run
from open_mythos.engine.lanes import START
from open_mythos.engine.request import Event, Request
from open_mythos.engine.scheduler import Scheduler
from open_mythos.engine.settings import EngineConfig
from open_mythos.generate.params import SamplingParams
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Seen
from open_mythos.nn.loop.exits.registry import register_exit


# -- identity --------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "vocab_size": 37,
    "dim": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "max_seq_len": 64,
    "max_loop_iters": 3,
    "prelude_layers": 1,
    "coda_layers": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_experts": 5,
    "n_shared_experts": 1,
    "n_experts_per_tok": 2,
    "expert_dim": 6,
    "act_threshold": 0.6,
    "lora_rank": 3,
    "dense_hidden": 24,
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "attn_type": ("gqa", "mla"),
    "halted": ("freeze", "freeze", "continue"),
    "kv": ("per_loop", "per_loop", "first"),
    "readout": ("act", "last", "act_last", "act_sum"),
    "core_layers": (1, 2),
    "core_ffn": ("moe", "dense"),
    "injection": ("lti", "lti_first", "add", "none", "concat_linear", "damped", "hyper"),
    "initial_state": ("input", "zeros", "noise", "learned"),
    "untied_attention": (False, False, True),
    "loop_index": (False, True),
    "loop_lora": (False, True),
    "loop_norm": ("none", "pre", "post", "sandwich"),
    "block_norm": ("pre", "post", "sandwich", "pre_post"),
    "loops_beyond": ("continue", "hold", "cycle"),
}
EXITS = (
    None, "latent:0.3", "acceleration:0.5", "kl:0.05", "entropy:3.0", "stability:1", "act:0.9",
    "gate:0.6", "fixed:2",
)  # fmt: skip


def shaken(seed: int) -> OpenMythos:
    luck = random.Random(seed)
    torch.manual_seed(seed)
    config = MythosConfig(**TINY, **{name: luck.choice(of) for name, of in CHOICES.items()})
    model = OpenMythos(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def schedule(seed: int) -> dict[str, int]:
    """One schedule: requests, those whose tokens differ, blocks left, what was exercised."""
    luck, model = random.Random(-seed - 1), shaken(seed // 4)  # four schedules per model
    size = luck.choice([2, 4])
    sizes = EngineConfig(
        blocks=-(-30 // size) + luck.randint(0, 10),
        block_size=size,
        rows=luck.randint(1, 6),
        chunk=luck.choice([4, 8, 16]),
        n_loops=5,
        share_prefixes=luck.random() < 0.8,
        buckets=luck.choice([(), (), (4, 8, 16, 32)]),
        stride=luck.choice([1, 1, 2, 3]),
    )
    engine, start = Engine(model, settings=sizes), [luck.randrange(37) for _ in range(12)]
    depths = [(luck.randint(1, 5), luck.choice(EXITS)) for _ in range(2)]  # few, to be shared
    arrivals = []
    for _ in range(luck.randint(1, 10)):
        prompt = start[: luck.choice([0, 8, 12, 12])] + luck.choices(
            range(37), k=luck.randint(1, 6)
        )
        sampling = SamplingParams(temperature=0.0, max_tokens=luck.randint(1, 12))
        request = Request(prompt, sampling, *luck.choice(depths))
        arrivals.append((luck.randint(0, 20), request))
    arrivals.sort(key=lambda item: item[0])
    said: dict[int, list[int]] = {}
    asked: dict[int, Request] = {}
    for step in range(10**5):
        while arrivals and arrivals[0][0] <= step:
            request = arrivals.pop(0)[1]
            asked[engine.add(request)] = request
        for event in engine.step():
            said.setdefault(event.request, []).append(-1 if event.token is None else event.token)
        if not arrivals and not engine.busy:
            break
    different = 0
    for number, request in asked.items():
        ids, most = torch.tensor([request.prompt]), request.sampling.max_tokens
        alone = model.generate(ids, most, request.n_loops, 0.0, exit=request.exit)
        different += alone[0, ids.shape[1] :].tolist() != said[number]
    stats = engine.stats
    spared = sum(len(tokens) for tokens in said.values()) * 5 - stats.totals.loops
    return {
        "requests": len(asked),
        "different": different,
        "blocks_left": stats.used,
        "preemptions": stats.preemptions,
        "positions_reused": stats.reused,
        "loops_spared": spared,
    }


def identity(args: argparse.Namespace) -> dict[str, Any]:
    total: dict[str, int] = {}
    for seed in range(args.seed, args.seed + args.schedules):
        for name, value in schedule(seed).items():
            total[name] = total.get(name, 0) + value
        if (seed + 1) % 50 == 0:
            print(f"identity: {seed + 1 - args.seed} schedules, {total}", flush=True)
    return {"schedules": args.schedules, **total}


# -- an exit for models whose own say little -------------------------------------------------------


@register_exit
class Drawn(Criterion):
    """Leaves with a chance of `threshold` after every loop, drawn from digits of the state."""

    name = "drawn"
    share = True

    def score(self, seen: Seen, kept: Kept) -> tuple[torch.Tensor, Kept]:
        return (seen.after.double().sum(-1).abs() * 1e5).frac(), kept


START[Drawn] = ()  # it asks for no number of loops


# -- time ------------------------------------------------------------------------------------------


class Waves(Scheduler):
    """Whoever enters waits until all who entered with him have left, and is computed till then."""

    def begin(self) -> list[Run]:
        if any(track.flight is not None for track in self.running):
            return []
        self.wished: set[int] = set()
        return super().begin()

    def turned(self, runs: Sequence[Run], turns: int, left: Sequence[Sequence[int]]) -> None:
        for run, loops in zip(runs, left, strict=True):
            if all(loops):
                self.wished.add(run.track.id)
        all_do = all(run.track.id in self.wished for run in runs)
        stay = [
            [run.loop + turns if all_do or run.loop + turns >= run.track.n_loops else 0]
            * len(run.lanes)
            for run in runs
        ]
        super().turned(runs, turns, stay)


def load_model(args: argparse.Namespace) -> OpenMythos:
    if args.model in PRESETS:
        torch.manual_seed(args.seed)
        model = OpenMythos(replace(preset(args.model), **args.changes)).eval().to(args.device)
    else:
        model = open_checkpoint(Path(args.model), args.device).model
    if args.halted:
        model.cfg.halted = args.halted
    return model.to(getattr(torch, args.dtype)) if args.dtype else model


def mixed(args: argparse.Namespace, vocab: int) -> list[tuple[list[int], int]]:
    """Prompts and numbers of new tokens."""
    luck = random.Random(args.seed)

    def drawn(low: int, high: int) -> int:
        return round(math.exp(luck.uniform(math.log(low), math.log(high))))

    texts = json.loads(Path(args.prompts).read_text("utf-8")) if args.prompts else []
    jobs = []
    for i in range(args.requests):
        length = drawn(*args.prompt_tokens)
        prompt = texts[i % len(texts)][:length] if texts else luck.choices(range(vocab), k=length)
        jobs.append((prompt, drawn(*args.new_tokens)))
    return jobs


def in_turns(
    args: argparse.Namespace, works: Sequence[Callable[[], Any]]
) -> list[tuple[float, Any]]:
    """Seconds of the best run of each, and what it gave; in turns, since machines drift."""
    found: list[tuple[float, Any]] = [(math.inf, None)] * len(works)
    for _ in range(args.repeats):
        for i, work in enumerate(works):
            synchronise(args)
            start = time.perf_counter()
            said = work()
            synchronise(args)
            seconds = time.perf_counter() - start
            if seconds < found[i][0]:
                found[i] = seconds, said
    return found


def timed(args: argparse.Namespace, work: Callable[[], Any]) -> tuple[float, Any]:
    """The same of one."""
    return in_turns(args, [work])[0]


def synchronise(args: argparse.Namespace) -> None:
    if args.device == "cuda":
        torch.cuda.synchronize()


def sizes(args: argparse.Namespace, longest: int, rows: int = 64, **changes: Any) -> EngineConfig:
    blocks = rows * -(-longest // args.block_size) + rows
    base = EngineConfig(
        blocks=blocks, block_size=args.block_size, rows=rows, chunk=args.chunk,
        n_loops=args.n_loops, stride=args.stride,
    )  # fmt: skip
    return replace(base, **changes)


def greedy(prompt: Sequence[int], new: int, exit: str | None = None) -> Request:
    params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True)
    return Request(prompt, params, exit=exit)


def depth(args: argparse.Namespace, model: OpenMythos) -> list[dict[str, Any]]:
    jobs = mixed(args, model.cfg.vocab_size)
    longest = max(len(prompt) + new for prompt, new in jobs)
    engine = Engine(model, settings=sizes(args, longest))
    rows = []

    def run(exit: str | None, scheduler: type[Scheduler]) -> dict[str, Any]:
        def work() -> tuple[int, int, int]:
            engine.scheduler = scheduler(engine.settings)
            before = engine.stats.totals
            for prompt, new in jobs:
                engine.add(greedy(prompt, new, exit))
            for _ in engine.run():
                pass
            now = engine.stats.totals
            return (
                now.tokens - before.tokens, now.loops - before.loops, now.turns - before.turns
            )  # fmt: skip

        seconds, (tokens, loops, turns) = timed(args, work)
        kind = "waits" if scheduler is Waves else "depth-wise"
        row = {
            "exit": exit, "batching": kind, "seconds": seconds, "turns": turns,
            "tokens_per_second": tokens / seconds, "mean_loops": loops / tokens,
        }  # fmt: skip
        print(row, flush=True)
        return row

    run(None, Scheduler)  # once for nothing: kernels are compiled and caches warmed
    full = run(None, Scheduler)
    rows.append(full)
    for exit in args.exits:
        rows += [run(exit, Scheduler), run(exit, Waves)]
    for row in rows:
        row["speedup"] = row["tokens_per_second"] / full["tokens_per_second"]
    return rows


def crowd(args: argparse.Namespace, model: OpenMythos) -> dict[str, Any]:
    length, new = args.crowd_tokens
    luck = random.Random(args.seed)
    vocab = model.cfg.vocab_size
    prompts = [luck.choices(range(vocab), k=length) for _ in range(64)]
    ids = torch.tensor(prompts, device=model.embed.weight.device)
    changes = {"chunk": max(args.chunk, 64 * length), "gather": 1.0}
    engine = Engine(model, settings=sizes(args, length + new, **changes))

    def served() -> list[list[int]]:
        done = engine.complete([greedy(prompt, new) for prompt in prompts])
        return [list(one.tokens) for (one,) in done]

    def raw(count: int) -> list[list[int]]:
        said = model.generate(ids, count, args.n_loops, 0.0)
        return said[:, length:].tolist()

    for warm in (served, lambda: raw(new)):
        warm()
    works = [served, lambda: raw(new), lambda: raw(1)]
    (seconds, tokens), (alone, want), (first, _) = in_turns(args, works)
    same = sum(a == b for x, y in zip(tokens, want, strict=True) for a, b in zip(x, y, strict=True))
    return {
        "prompt": length,
        "new": new,
        "engine_tokens_per_second": 64 * new / seconds,
        "raw_tokens_per_second": 64 * new / alone,
        "raw_first_token_seconds": first,
        "share": alone / seconds,
        "same_tokens": same / (64 * new),
    }


def prefix(args: argparse.Namespace, model: OpenMythos) -> list[dict[str, Any]]:
    luck, vocab, count = random.Random(args.seed), model.cfg.vocab_size, args.sharers
    start = luck.choices(range(vocab), k=args.shared)
    prompts = [[*start, *luck.choices(range(vocab), k=32)] for _ in range(count)]
    found = []
    for share in (False, True):
        settings = sizes(args, args.shared + 64, count, share_prefixes=share)

        def work(settings: EngineConfig = settings, share: bool = share) -> dict[str, Any]:
            engine, first, peak = Engine(model, settings=settings), {}, 0
            synchronise(args)
            start = time.perf_counter()
            for prompt in prompts:
                engine.add(greedy(prompt, 16))
            while engine.busy:
                events: list[Event] = engine.step()
                now = time.perf_counter() - start
                peak = max(peak, engine.stats.used)
                for event in events:
                    first.setdefault(event.request, now)
            waits = sorted(first.values())
            return {
                "shared_prompts": share,
                "first_token_mean": sum(waits) / len(waits),
                "first_token_median": waits[len(waits) // 2],
                "first_token_last": waits[-1],
                "peak_blocks": peak,
                "peak_bytes": peak * engine.stats.block_bytes,
                "positions_reused": engine.stats.reused,
            }

        seconds, row = timed(args, work)
        found.append({**row, "seconds": seconds})
        print(found[-1], flush=True)
    return found


# -- all together ----------------------------------------------------------------------------------


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib  # noqa: PLC0415 -- an extra

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(6, 4))
    # Both over the loops that the tokens asked for: what waiting adds is its price.
    asked = {row["exit"]: row["mean_loops"] for row in rows if row["batching"] == "depth-wise"}
    for kind, mark in (("depth-wise", "o-"), ("waits", "s--")):
        points = sorted(
            (asked[row["exit"]], row["tokens_per_second"])
            for row in rows
            if row["batching"] == kind or row["exit"] is None
        )
        axes.plot(*zip(*points, strict=True), mark, label=kind)
    axes.set(
        xlabel="loops per token that the exit asks for, mean",
        ylabel="tokens per second",
        ylim=(0, None),
    )
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def arguments() -> argparse.Namespace:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--parts", nargs="+", default=["identity", "depth", "crowd", "prefix"])
    ask.add_argument("--model", default="mythos_nano", help="a model folder, a run, or a preset")
    ask.add_argument("--changes", type=json.loads, default={}, help="JSON onto the preset's config")
    ask.add_argument("--halted", choices=["freeze", "continue"], help="in place of the config's")
    ask.add_argument("--exits", nargs="*", default=["drawn:0.5", "drawn:0.3", "drawn:0.15"])
    ask.add_argument("--n-loops", type=int)
    ask.add_argument("--prompts", help="JSON: a list of lists of token ids; random ones otherwise")
    ask.add_argument("--requests", type=int, default=256)
    ask.add_argument("--prompt-tokens", type=int, nargs=2, default=[16, 256])
    ask.add_argument("--new-tokens", type=int, nargs=2, default=[16, 128])
    ask.add_argument("--crowd-tokens", type=int, nargs=2, default=[64, 128])
    ask.add_argument("--shared", type=int, default=1024)
    ask.add_argument("--sharers", type=int, default=64)
    ask.add_argument("--schedules", type=int, default=1000)
    ask.add_argument("--block-size", type=int, default=16)
    ask.add_argument("--chunk", type=int, default=256)
    ask.add_argument(
        "--stride", type=int, default=1, help="loops between two looks at who has left"
    )
    ask.add_argument("--repeats", type=int, default=2)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--threads", type=int)
    ask.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ask.add_argument("--dtype", help="such as bfloat16; the checkpoint's own otherwise")
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--plot", type=Path)
    return ask.parse_args()


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = about(torch.device(args.device), [], None)
    machine["command"] = " ".join(["python", "benchmarks/engine.py", *sys.argv[1:]])
    found: dict[str, Any] = {"machine": machine, "threads": torch.get_num_threads()}
    if "identity" in args.parts:
        found["identity"] = identity(args)
    model = None
    for name, part in (("depth", depth), ("crowd", crowd), ("prefix", prefix)):
        if name in args.parts:
            model = load_model(args) if model is None else model
            args.n_loops = args.n_loops or model.cfg.max_loop_iters
            found[name] = part(args, model)
            print(json.dumps({name: found[name]}, indent=1), flush=True)
            args.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    args.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    if args.plot and "depth" in found:
        plot(found["depth"], args.plot)


if __name__ == "__main__":
    main()
