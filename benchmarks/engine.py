"""What the engine is worth: identity, depth-wise batching, 64 at once, shared prompts.

    python benchmarks/engine.py --parts identity --schedules 1000 --out engine-identity.json
    python benchmarks/engine.py --model FOLDER --text held-out.txt --exits calibrated \
        --around 0.5 2 --parts depth crowd prefix --out engine.json --plot engine.png

identity  Random schedules of a tiny model in float64: arrivals, lengths, loops, exits, prefixes,
          blocks too few for all. Greedy tokens against `model.generate` of each request alone; all
          blocks free at the end.
depth     The same --requests requests (lengths of prompts and answers drawn log-uniformly), all
          there from the start: at full depth; with fewer loops for everybody (--everybody); with
          each exit, depth-wise; and with each exit where everybody waits for the slowest of those
          that entered together, as early exit in a plain batch does (its tokens are worth nothing,
          its time is). Then full depth and the first exit once more with --deeper loops at most.
          Tokens per second and mean loops; beside them the price: the loss of a text that is read
          with that exit, against full depth, with 1.645 standard errors over its rows, and the
          share of likeliest and of written tokens that are the same.
crowd     64 requests of equal length at full depth: the engine beside `model.generate` of one
          batch, which on a GPU replays one CUDA graph per token.
prefix    64 requests that share a prompt of --shared tokens: time to first token, and blocks in
          use at the peak, with sharing and without.

Every time is the best of --repeats. A folder is a checkpoint of the library, or the name of a
preset with random weights, whose exits say little: `drawn:0.4` leaves by chance. Prompts and the
price come from --text, after the share --text-from of it: calibrate on what lies before.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engine_clock import greedy, in_turns, sizes, synchronise
from engine_depth import depth, plot, text_load
from engine_identity import identity

from open_mythos.bench.machine import about
from open_mythos.cli.opening import open_checkpoint
from open_mythos.config.presets import PRESETS, preset
from open_mythos.data.corpus import corpus_text, encode_corpus
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Event
from open_mythos.engine.settings import EngineConfig
from open_mythos.model.mythos import OpenMythos


def load_model(args: argparse.Namespace) -> tuple[OpenMythos, Any]:
    """The model, and the tokens that prompts are taken from, if there is a text."""
    tokens = None
    if args.model in PRESETS:
        torch.manual_seed(args.seed)
        model = OpenMythos(replace(preset(args.model), **args.changes)).eval().to(args.device)
    else:
        opened = open_checkpoint(Path(args.model), args.device)
        model = opened.model
        if args.text is not None:
            text = corpus_text(args.text)
            tokens = encode_corpus(opened.tokenizer, text[int(len(text) * args.text_from) :])
    if args.halted:
        model.cfg.halted = args.halted
    return model.to(getattr(torch, args.dtype)) if args.dtype else model, tokens


def crowd(args: argparse.Namespace, model: OpenMythos) -> dict[str, Any]:
    """64 requests of equal length, beside a plain batch of them."""
    length, new = args.crowd_tokens
    luck = random.Random(args.seed)
    vocab = model.cfg.vocab_size
    prompts = [luck.choices(range(vocab), k=length) for _ in range(64)]
    ids = torch.tensor(prompts, device=model.embed.weight.device)
    changes = {"chunk": max(args.chunk, 64 * length), "gather": 1.0, "n_loops": args.n_loops}
    settings = sizes(args, length + new, 64, **changes)
    engine = Engine(model, settings=settings)

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
    """Requests that begin alike, with and without sharing what was read."""
    luck, vocab, count = random.Random(args.seed), model.cfg.vocab_size, args.sharers
    start = luck.choices(range(vocab), k=args.shared)
    prompts = [[*start, *luck.choices(range(vocab), k=32)] for _ in range(count)]
    found = []
    for share in (False, True):
        changes = {"share_prefixes": share, "n_loops": args.n_loops}
        settings = sizes(args, args.shared + 64, count, **changes)

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

        ((seconds, row),) = in_turns(args, [work])
        found.append({**row, "seconds": seconds})
        print(found[-1], flush=True)
    return found


# -- all together ----------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--parts", nargs="+", default=["identity", "depth", "crowd", "prefix"])
    ask.add_argument("--model", default="mythos_nano", help="a model folder, a run, or a preset")
    ask.add_argument("--changes", type=json.loads, default={}, help="JSON onto the preset's config")
    ask.add_argument("--halted", choices=["freeze", "continue"], help="in place of the config's")
    ask.add_argument("--exits", nargs="*", default=["drawn:0.5", "drawn:0.3", "drawn:0.15"])
    ask.add_argument("--around", nargs="*", type=float, default=[], help="times the calibrated")
    ask.add_argument("--everybody", nargs="*", type=int, default=[], help="loops for all alike")
    ask.add_argument("--n-loops", type=int, help="full depth; default: the model's")
    ask.add_argument("--deeper", type=int, help="a second full depth")
    ask.add_argument("--text", help="a file to take prompts and the price from")
    ask.add_argument("--text-from", type=float, default=0.5)
    ask.add_argument("--batches", type=int, default=8, help="of 16 x 256 tokens, for the price")
    ask.add_argument("--requests", type=int, default=256)
    ask.add_argument("--prompt-tokens", type=int, nargs=2, default=[16, 256])
    ask.add_argument("--new-tokens", type=int, nargs=2, default=[16, 128])
    ask.add_argument("--crowd-tokens", type=int, nargs=2, default=[64, 128])
    ask.add_argument("--shared", type=int, default=1024)
    ask.add_argument("--sharers", type=int, default=64)
    ask.add_argument("--schedules", type=int, default=1000)
    ask.add_argument("--block-size", type=int, default=16)
    ask.add_argument("--rows", type=int, default=64, help="requests at once, in depth")
    ask.add_argument("--chunk", type=int, default=256)
    ask.add_argument("--gather", type=float, default=0.25)
    ask.add_argument(
        "--stride", type=int, default=1, help="loops between two looks at who has left"
    )
    ask.add_argument("--settings", type=json.loads, default={}, help="JSON onto the EngineConfig")
    ask.add_argument("--repeats", type=int, default=2)
    ask.add_argument("--warm", action="store_true", help="each way once before it counts")
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

    def save(name: str, part: object) -> None:
        found[name] = part
        args.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")

    args.save = save
    if "identity" in args.parts:
        save("identity", identity(args))
    if not {"depth", "crowd", "prefix"} & set(args.parts):
        return
    model, tokens = load_model(args)
    args.n_loops = args.n_loops or model.cfg.max_loop_iters
    save("parameters", sum(parameter.numel() for parameter in model.parameters()))
    parts: dict[str, Callable[[], Any]] = {
        "depth": lambda: depth(args, model, text_load(args, tokens, model.cfg)),
        "crowd": lambda: crowd(args, model),
        "prefix": lambda: prefix(args, model),
    }
    for name, part in parts.items():
        if name in args.parts:
            save(name, part())
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    if args.plot and "depth" in found:
        plot(found["depth"], args.plot)


if __name__ == "__main__":
    main()
