"""Depth-wise batching beside full depth, fewer loops for everybody, and waiting for the slowest."""

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from engine_clock import greedy, in_turns, sizes
from torch.nn import functional as F

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.windows import TokenWindows
from open_mythos.engine.engine import Engine
from open_mythos.engine.flight import Run
from open_mythos.engine.lanes import START
from open_mythos.engine.scheduler import Scheduler
from open_mythos.engine.settings import EngineConfig
from open_mythos.eval.calibration import SURE, row_error
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Seen
from open_mythos.nn.loop.exits.registry import CALIBRATED, register_exit


Job = tuple[list[int], int]  # a prompt, and how many tokens follow it


@register_exit
class Drawn(Criterion):
    """Leaves with a chance of `threshold` after every loop, drawn from digits of the state."""

    name = "drawn"
    share = True

    def score(self, seen: Seen, kept: Kept) -> tuple[torch.Tensor, Kept]:
        """Between 0 and 1."""
        return (seen.after.double().sum(-1).abs() * 1e5).frac(), kept


START[Drawn] = ()  # it asks for no number of loops


class Waves(Scheduler):
    """Whoever enters waits until all who entered with him have left, and is computed till then."""

    def begin(self) -> list[Run]:
        """Nobody while somebody is under way."""
        if any(track.flight is not None for track in self.running):
            return []
        self.wished: set[int] = set()
        return super().begin()

    def turned(self, runs: Sequence[Run], turns: int, left: Sequence[Sequence[int]]) -> None:
        """Note who would leave; let all leave at once."""
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


@dataclass(frozen=True)
class Load:
    """What is asked of the engine, and what its answers are judged on.

    Attributes:
        jobs: Prompts and numbers of new tokens.
        scored: Text with targets, that no exit was calibrated on.
    """

    jobs: Sequence[Job]
    scored: Sequence[Batch] = ()


def text_load(args: argparse.Namespace, tokens: Any, cfg: MythosConfig) -> Load:
    """Stretches of a text, and the text itself.

    Args:
        args: Lengths and numbers.
        tokens: (N,) ids; None: prompts of random ones, and no text.
        cfg: The network's, for its vocabulary and positions.
    """
    luck = random.Random(args.seed)

    def drawn(low: int, high: int) -> int:
        return round(math.exp(luck.uniform(math.log(low), math.log(high))))

    jobs = []
    for _ in range(args.requests):
        length = drawn(*args.prompt_tokens)
        if tokens is None:
            prompt = luck.choices(range(cfg.vocab_size), k=length)
        else:
            first = luck.randrange(len(tokens) - length)
            prompt = tokens[first : first + length].tolist()
        jobs.append((prompt, drawn(*args.new_tokens)))
    if tokens is None:
        return Load(jobs)
    windows = TokenWindows(
        tokens,
        seq_len=min(256, cfg.max_seq_len, len(tokens) - 1),
        batch_size=16,
        seed=0,
        vocab_size=cfg.vocab_size,
    )
    return Load(jobs, list(islice(windows.evaluation_batches(), args.batches)))


# -- the price -------------------------------------------------------------------------------------


class Price:
    """What leaving early costs on a text that is read, not written: loss and likeliest tokens."""

    def __init__(self, model: OpenMythos, scored: Sequence[Batch]) -> None:
        """Of this model on these rows."""
        self.model, self.scored = model, scored
        self._full: dict[int, tuple[torch.Tensor, ...]] = {}

    @torch.inference_mode()
    def _read(self, n_loops: int, exit: str | None) -> tuple[torch.Tensor, ...]:
        """By scored position: loss, likeliest token, row, loops."""
        parts: list[list[torch.Tensor]] = [[], [], [], []]
        rows = 0
        for batch in self.scored:
            ids, targets = (
                part.to(self.model.embed.weight.device) for part in (batch.ids, batch.targets)
            )
            output = self.model(ids, n_loops, exit=exit, return_output=True)
            kept = targets != IGNORE
            logits = output.logits[kept].float()
            row = torch.arange(len(ids), device=kept.device)[:, None] + rows
            rows += len(ids)
            parts[0].append(F.cross_entropy(logits, targets[kept], reduction="none").double())
            parts[1].append(logits.argmax(-1))
            parts[2].append(row.expand_as(kept)[kept])
            parts[3].append(output.loops_used[kept])
        return tuple(torch.cat(part).cpu() for part in parts)

    def __call__(self, n_loops: int, exit: str | None) -> dict[str, float]:
        """Loss, its distance from the full depth's with 1.645 standard errors, equal tokens."""
        if not self.scored:
            return {}
        if n_loops not in self._full:
            self._full[n_loops] = self._read(n_loops, None)
        whole = self._full[n_loops]
        loss, likeliest, row, loops = whole if exit is None else self._read(n_loops, exit)
        base = float(whole[0].mean())
        cost = float((loss - whole[0]).mean()) / base
        return {
            "text_loss": float(loss.mean()),
            "text_cost": cost,
            "text_cost_noise": SURE * row_error(loss - whole[0] * (1 + cost), row) / base,
            "text_mean_loops": float(loops.double().mean()),
            "text_same_likeliest": float((likeliest == whole[1]).double().mean()),
            "text_tokens": len(loss),
        }


# -- time ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How the requests are answered."""

    n_loops: int
    exit: str | None = None
    waits: bool = False

    @property
    def batching(self) -> str:
        """Who goes with whom."""
        if self.waits:
            return "waits"
        alike = self.exit is None or self.exit.startswith("fixed:")
        return "together" if alike else "depth-wise"


def ways(args: argparse.Namespace, model: OpenMythos) -> list[Way]:
    """Full depth, each exit, fewer loops for everybody, more at most, and who waits.

    What matters most comes first: a run that is cut off leaves what it had.
    """
    n_loops, (first, *others) = args.n_loops, exits(args, model)
    found = [Way(n_loops), Way(n_loops, first), Way(n_loops, first, waits=True)]
    found += [Way(n_loops, f"fixed:{n}") for n in args.everybody if n < n_loops]
    if args.deeper:  # the same exit, given more loops than it will take
        found += [Way(args.deeper), Way(args.deeper, first)]
    found += [Way(n_loops, name) for name in others]
    return found + [Way(n_loops, name, waits=True) for name in others]


def exits(args: argparse.Namespace, model: OpenMythos) -> list[str]:
    """Those asked for; the calibrated one by its threshold, and by shares and multiples of it."""
    found = []
    for name in args.exits:
        if name != CALIBRATED:
            found.append(name)
            continue
        if model.calibrated is None:
            raise SystemExit(f"{args.model} has no exit.json; run open-mythos calibrate on it")
        rule = model.calibrated.exit
        found += [f"{rule.name}:{rule.threshold * by:.6g}" for by in (1.0, *args.around)]
    return found


def at_every_loop(settings: EngineConfig) -> EngineConfig:
    """The same, without rounds that run on the device alone."""
    known = {field.name for field in fields(settings)}
    return replace(settings, stride=1, **({"resident": 0} if "resident" in known else {}))


class Engines:
    """An engine for each way, one at a time: the cache of each is large."""

    def __init__(self, args: argparse.Namespace, model: OpenMythos, longest: int) -> None:
        """For requests of at most `longest` tokens."""
        self.args, self.model, self.longest = args, model, longest
        self._made: dict[tuple[str, int], Engine] = {}

    def of(self, way: Way) -> Engine:
        """The last one again, if it is of the same kind."""
        kind = way.batching, way.n_loops
        if kind not in self._made:
            self._made.clear()
            changes: dict[str, Any] = {"n_loops": way.n_loops, "gather": self.args.gather}
            if way.batching != "depth-wise":  # all take the same loops, and had better keep step
                changes["gather"] = 1.0
            settings = sizes(self.args, self.longest, self.args.rows, **changes)
            if not way.waits:
                self._made[kind] = Engine(self.model, settings=settings)
                return self._made[kind]
            settings = at_every_loop(settings)  # since its scheduler must be asked after each
            self._made[kind] = Engine(self.model, settings=settings)
            self._made[kind].scheduler = Waves(settings)
        return self._made[kind]


def depth(args: argparse.Namespace, model: OpenMythos, load: Load) -> list[dict[str, Any]]:
    """Every way of answering the same requests: time, loops, and the price."""
    longest = max(len(prompt) + new for prompt, new in load.jobs)
    price, rows = Price(model, load.scored), []
    said: dict[int, list[list[int]]] = {}
    engines = Engines(args, model, longest)

    def run(way: Way) -> dict[str, Any]:
        engine = engines.of(way)

        def work() -> tuple[int, int, int, list[list[int]]]:
            engine.scheduler.pool.forget_all()  # prompts are read again each time
            before, told = engine.stats.totals, {}
            for prompt, new in load.jobs:
                told[engine.add(greedy(prompt, new, way.n_loops, way.exit))] = list[int]()
            for event in engine.run():
                if event.token is not None:
                    told[event.request].append(event.token)
            now = engine.stats.totals
            return (
                now.tokens - before.tokens, now.loops - before.loops, now.turns - before.turns,
                list(told.values()),
            )  # fmt: skip

        if args.warm:
            work()
        ((seconds, (tokens, loops, turns, texts)),) = in_turns(args, [work])
        row: dict[str, Any] = {
            "n_loops": way.n_loops,
            "exit": way.exit,
            "batching": way.batching,
            "seconds": seconds,
            "turns": turns,
            "tokens_per_second": tokens / seconds,
            "mean_loops": loops / tokens,
        }
        if not way.waits:  # what waits is there for its time; its tokens are those of other loops
            want = said.setdefault(way.n_loops, texts)
            row |= alike(texts, want) | price(way.n_loops, way.exit)
        print(row, flush=True)
        return row

    if not args.warm:
        run(Way(args.n_loops))  # once for nothing: caches are warmed
    for way in ways(args, model):
        rows.append(run(way))
        full = next(row for row in rows if row["n_loops"] == way.n_loops and row["exit"] is None)
        rows[-1]["speedup"] = rows[-1]["tokens_per_second"] / full["tokens_per_second"]
        args.save("depth", rows)
    return rows


def alike(texts: Sequence[Sequence[int]], want: Sequence[Sequence[int]]) -> dict[str, float]:
    """Shares of written tokens: equal at their place, and before the first that is not."""
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(texts, want, strict=True)]
    count = sum(map(len, pairs))
    before = 0
    for pair in pairs:
        before += next((i for i, (a, b) in enumerate(pair) if a != b), len(pair))
    same = sum(a == b for pair in pairs for a, b in pair)
    return {"same_tokens": same / count, "same_before_first": before / count}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Tokens per second against the loops that tokens took."""
    import matplotlib  # noqa: PLC0415 -- an extra

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(6, 4))
    shallow = [row for row in rows if row["n_loops"] == rows[0]["n_loops"]]
    # What waits stands over the loops that its exit asks for: what waiting adds is its price.
    asked = {row["exit"]: row["mean_loops"] for row in shallow if row["batching"] != "waits"}
    kinds = (
        ("depth-wise", "o-", "each leaves by itself"),
        ("waits", "s--", "all wait for the slowest"),
        ("together", "^:", "everybody stops at n"),
    )
    for kind, mark, label in kinds:
        points = sorted(
            (asked[row["exit"]], row["tokens_per_second"])
            for row in shallow
            if row["batching"] == kind
        )
        if points:
            axes.plot(*zip(*points, strict=True), mark, label=label)
    axes.set(xlabel="loops per token, mean", ylabel="tokens per second", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")
