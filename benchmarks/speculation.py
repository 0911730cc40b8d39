"""What self-speculation is worth: tokens per second with a draft and without, on a trained model.

    python benchmarks/speculation.py runs/demo-text --out benchmarks/results/speculation-cpu.json
    python benchmarks/speculation.py models/prose-23m --text models/prose-23m/held-out.txt

Every round measures plain decoding and all drafts in turns, on the same prompts of held-out text;
figures are medians over rounds of what each round says against its own plain decoding. Beside wall
time stands CPU time, which a busy machine does not stretch as much. On a GPU plain decoding is
measured as `generate` does it, one CUDA graph per token, and as written; drafts are as written.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from open_mythos.cli.opening import open_checkpoint
from open_mythos.data.corpus import plays_text
from open_mythos.generate.continuation import Ask, Continuations
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.speculate import Draft, Speculation


@dataclass(frozen=True)
class Setting:
    """One way to decode; without a draft, the plain one, in a graph or not."""

    temperature: float
    draft: Draft | None = None
    static: bool = False

    @property
    def label(self) -> str:
        """A line for people."""
        how = "graph" if self.static else "plain"
        if self.draft is not None:
            how = f"{self.draft.rule} {self.draft.loops} loops x {self.draft.tokens}"
        return f"temperature {self.temperature}: {how}"


@dataclass
class Timed:
    """What one pass over the prompts took."""

    wall: float
    cpu: float
    tokens: list[list[int]]
    rounds: int = 0
    drafted: int = 0
    kept: int = 0

    @property
    def count(self) -> int:
        """Tokens written."""
        return sum(map(len, self.tokens))


def plain(model: Any, ask: Ask, n_loops: int, static: bool) -> list[int]:
    """The tokens of one continuation."""
    batch, line = Continuations(model, [ask], n_loops=n_loops, static=static), []
    while batch.going:
        (token,) = batch.step()
        assert token is not None
        line.append(token.token)
    return line


def decode(model: Any, asks: Sequence[Ask], n_loops: int, setting: Setting) -> Timed:
    """All prompts, one after the other."""
    done = Timed(0.0, 0.0, [])
    wall, cpu = time.perf_counter(), time.process_time()
    for ask in asks:
        if setting.draft is None:
            done.tokens.append(plain(model, ask, n_loops, setting.static))
            continue
        text, line = Speculation(model, ask, setting.draft, n_loops=n_loops), []
        while text.going:
            line += [token.token for token in text.step()]
        done.tokens.append(line)
        done.rounds += text.tally.rounds
        done.drafted += text.tally.drafted
        done.kept += text.tally.kept
    done.wall, done.cpu = time.perf_counter() - wall, time.process_time() - cpu
    return done


def row(setting: Setting, runs: Sequence[Timed], against: Sequence[Timed]) -> dict[str, Any]:
    """The medians of a setting beside the plain runs of the same rounds."""

    def speedup(clock: str) -> float:
        return statistics.median(
            (getattr(p, clock) / p.count) / (getattr(r, clock) / r.count)
            for r, p in zip(runs, against, strict=True)
        )

    first = runs[0]
    told = None if setting.draft is None else asdict(setting.draft)
    return {
        "temperature": setting.temperature,
        "draft": told,
        "graph": setting.static,
        "tokens": first.count,
        "tokens_per_s": statistics.median(r.count / r.wall for r in runs),
        "speedup_wall": speedup("wall"),
        "speedup_cpu": speedup("cpu"),
        "kept_share": first.kept / first.drafted if first.drafted else None,
        "tokens_per_pass": first.count / first.rounds if first.rounds else 1.0,
        "same_text": first.tokens == against[0].tokens,
    }


def settings(args: argparse.Namespace, cuda: bool) -> list[Setting]:
    """Plain decoding first at each temperature."""
    found = []
    for heat in args.temperatures:
        found += [Setting(heat), *([Setting(heat, static=True)] if cuda else [])]
        for loops in args.draft_loops:
            for tokens in args.draft_tokens:
                rules = ("coupled", "rejection") if heat else ("coupled",)
                found += [Setting(heat, Draft(loops, tokens, rule)) for rule in rules]
    return found


def prompts(tokenizer: Any, count: int, length: int, file: Path | None) -> list[list[int]]:
    """Pieces of a text; without one, of the last tenth of the plays, which training holds out."""
    if file is None:
        text = plays_text()
        text = text[len(text) * 9 // 10 :]
    else:
        text = file.read_text(encoding="utf-8")
    ids = tokenizer.encode(text)
    step = (len(ids) - length) // count
    return [ids[i * step : i * step + length] for i in range(count)]


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def reals(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--text", type=Path, help="where prompts come from; default: the plays")
    parser.add_argument("--loops", type=int, help="loops of a whole pass; default: the model's")
    parser.add_argument("--draft-loops", type=numbers, default=[1, 2])
    parser.add_argument("--draft-tokens", type=numbers, default=[2, 4])
    parser.add_argument("--temperatures", type=reals, default=[0.0, 1.0])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    opened = open_checkpoint(args.checkpoint, args.device)
    model = opened.model.to(getattr(torch, args.dtype)).eval()
    n_loops = args.loops or model.cfg.max_loop_iters
    starts = prompts(opened.tokenizer, args.prompts, args.prompt_length, args.text)
    cuda = model.embed.weight.is_cuda
    chosen = [s for s in settings(args, cuda) if s.draft is None or s.draft.loops < n_loops]
    runs: dict[Setting, list[Timed]] = {s: [] for s in chosen}
    for turn in range(args.rounds + 1):
        for setting in chosen:
            params = SamplingParams(setting.temperature, seed=7, max_tokens=args.tokens)
            asks = [Ask(p, params, 7, i) for i, p in enumerate(starts)]
            done = decode(model, asks, n_loops, setting)
            if turn:  # the first is warm-up
                runs[setting].append(done)
    rows = []
    for setting in chosen:
        rows.append(row(setting, runs[setting], runs[Setting(setting.temperature)]))
        r = rows[-1]
        kept = "" if r["kept_share"] is None else f"kept {r['kept_share']:.2f}, "
        print(
            f"{setting.label:44s} {r['tokens_per_s']:8.1f} tokens/s, {kept}"
            f"{r['tokens_per_pass']:.2f} tokens a pass, x{r['speedup_wall']:.2f} wall, "
            f"x{r['speedup_cpu']:.2f} CPU, same text: {r['same_text']}"
        )
    if args.out is not None:
        machine = torch.cuda.get_device_name() if cuda else platform.processor() or "CPU"
        about = {"machine": machine, "torch": torch.__version__, "threads": args.threads}
        size = sum(p.numel() for p in model.parameters())
        about |= {"parameters": size, "loops": n_loops, "dtype": args.dtype}
        recipe = None if opened.recipe is None else opened.recipe.name
        about |= {"recipe": recipe, "prompt_length": args.prompt_length, "rounds": args.rounds}
        args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
