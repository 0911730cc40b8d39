"""What exits save on a trained model, and whether the loops they take follow how hard a problem is.

    python benchmarks/exits.py models/text --results benchmarks/results/depth-exits.json
    python benchmarks/exits.py models/tasks --results benchmarks/results/depth-exits.json

RUN is a model folder or a run, on text or on tasks (of a mixture all whose rows say how hard they
are, or those that --task names). Thresholds are fitted to every budget on one part of the held-out
data, loosest first that keeps it with its sampling noise, then held to it in real passes over that
part (eval/calibration.py). What is reported was measured on another part, which nothing was fitted
to, by real passes with positions leaving. `halted` is "freeze", whatever the config says: what has
left is not computed any more.

On text every exit is compared by its scores, and that of least work run. On a task all difficulties
get the same number of loops, as many as the hardest needs, and the exit alone decides; that of
least work is measured difficulty by difficulty. --results is added to: the text, and each task by
its name.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.cli.calibrate import chosen_kinds, depth, parse_budget
from open_mythos.cli.opening import Opened, open_checkpoint
from open_mythos.cli.sweep import own_data, text_windows
from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.tasks.mixed import MixedTasks
from open_mythos.data.tasks.task import GeneratedTask, Task
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError
from open_mythos.eval.accuracy import those_with_room
from open_mythos.eval.calibration import (
    Judge,
    Trade,
    at_depth,
    at_loops,
    exit_loops,
    loosest,
    oracle_trade,
    tightened,
    trade_curve,
    work_of,
)
from open_mythos.eval.exit_scores import Answers, ExitScores, answered, watch
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Criterion
from open_mythos.nn.loop.work import metered
from open_mythos.train.environment import environment


# Difficulties asked, of those with room in the model's rows.
ASKED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Seeds of the held-out rows that thresholds are fitted on, and of those that are reported.
FIT, TEST = 0, 1
# Loops beyond those of the hardest problem, where --loops is not given: an answer comes after about
# as many loops as the difficulty, and rest is seen some six later; products of 32 take more.
SPARE = 16


@dataclass(frozen=True)
class Bench:
    """One model and the data that thresholds are fitted on.

    Attributes:
        model: The network.
        fit: The rows.
        seen: What every exit says of them at every loop.
        kinds: The exits.
        level: (N,) the difficulty of each answer, where they have one: at none of them may an exit
            lose more than one answer, which a mean over all of them would hide.
        tried: Exit and threshold -> what it came to in real passes, the same for every budget.
    """

    model: OpenMythos
    fit: Sequence[Batch]
    seen: ExitScores
    kinds: Sequence[type[Criterion]]
    level: Tensor | None = None
    tried: dict[Criterion, Trade] = field(default_factory=dict)

    @property
    def n_loops(self) -> int:
        return self.seen.n_loops

    def full(self) -> Answers:
        return at_depth(self.seen.answers, self.n_loops)

    def curve(self, kind: type[Criterion], judge: Judge) -> tuple[Trade, ...]:
        return trade_curve(kind, self.seen, judge)

    def kept(self, kind: type[Criterion], judge: Judge) -> Trade | None:
        """The threshold that keeps the judge's budget on the rows it is fitted on, for real."""
        curve, full = self.curve(kind, judge), self.full()
        fitted = loosest(curve, judge.budget)

        def real(threshold: float) -> Trade:
            rule = kind(threshold)
            if rule not in self.tried:
                left = answered(self.model, self.fit, self.n_loops, rule)
                trade = judge(threshold, left, full)
                worst = 0 if self.level is None else most_lost(left.hit, full.hit, self.level)
                self.tried[rule] = trade if worst <= 1 else replace(trade, bound=math.inf)
            return self.tried[rule]

        return None if fitted is None else tightened(curve, fitted, judge.budget, real)

    def chosen(self, judge: Judge) -> tuple[type[Criterion], float] | None:
        """The exit of least work that keeps a budget, and its threshold; `fixed` is none here."""
        able = []
        for kind in self.kinds:
            trade = loosest(self.curve(kind, judge), judge.budget)
            if trade is not None and kind.name != "fixed":
                able.append((self.work(kind, trade.mean_loops), kind.name, kind))
        best: tuple[float, type[Criterion], float] | None = None
        for least, _, kind in sorted(able, key=lambda one: one[:2]):
            if best is not None and best[0] <= least:
                break  # held to the budget for real, thresholds only get tighter
            kept = self.kept(kind, judge)
            if kept is None:
                continue
            work = self.work(kind, kept.mean_loops)
            if best is None or work < best[0]:
                best = work, kind, kept.threshold
        return None if best is None else best[1:]

    def simulated(self, rule: Criterion, judge: Judge) -> Trade:
        """What an exit would save and cost if what has left went on for the others' sake."""
        loops = exit_loops(rule, self.seen.scores[rule.name])
        return judge(rule.threshold, at_loops(self.seen.answers, loops), self.full())

    def work(self, kind: type[Criterion], mean_loops: float) -> float:
        """FLOPs of so many loops and the exit's predictions, over those of the full depth."""
        return work_of(self.model.cfg, kind, mean_loops, self.n_loops)


def most_lost(left: Tensor, full: Tensor, level: Tensor) -> int:
    """Right answers lost, less those won, at the difficulty that loses most."""
    lost = full.long() - left.long()
    return max(int(lost[level == one].sum()) for one in level.unique())


def prefix(seen: ExitScores, n_loops: int) -> ExitScores:
    """The same at fewer loops: what a loop says does not hang on those after it."""
    answers = seen.answers
    cut = replace(
        answers,
        loss=answers.loss[:n_loops],
        hit=answers.hit[:n_loops],
        loops=answers.loops.clamp(max=n_loops),
    )
    return ExitScores({name: scores[:n_loops] for name, scores in seen.scores.items()}, cut)


def plain(trade: Trade) -> dict[str, Any]:
    """A trade for JSON; an infinite bound is None."""
    return {k: v if math.isfinite(v) else None for k, v in asdict(trade).items()}


def curve_json(curve: Sequence[Trade]) -> list[list[float]]:
    """[threshold, mean loops, relative cost] of each threshold tried."""
    return [
        [float(f"{t.threshold:.5g}"), round(t.mean_loops, 4), float(f"{t.cost:.4g}")] for t in curve
    ]


# -- text ----------------------------------------------------------------------------------------


def text_parts(opened: Opened, data: Path | None, tokens: int) -> tuple[list[Batch], list[Batch]]:
    """Every other batch of a held-out text: to fit on, and to report; so many targets each."""
    held_out = own_data(opened) if data is None else text_windows(opened, str(data))
    if not isinstance(held_out, TokenWindows):
        raise InputError(f"{opened.folder} was trained on a task: name one with --task")
    windows = replace(held_out, batch_size=16)
    count = -(-tokens // (16 * windows.seq_len))
    rows = list(islice(windows.evaluation_batches(), 2 * count))
    if len(rows) < 2:
        raise InputError("the held-out text fills one batch; give a longer one with --data")
    return rows[::2], rows[1::2]


def on_text(opened: Opened, args: argparse.Namespace, budgets: Sequence[float]) -> dict[str, Any]:
    """Every exit at every budget and every full depth."""
    fit, test = text_parts(opened, args.data, args.tokens)
    kinds, _ = chosen_kinds(args.exits, opened)
    depths = args.loops or [depth(opened, None, None)]
    model = opened.model
    rules = {kind.name: kind(1) for kind in kinds}
    fitted, fresh = (watch(model, rows, max(depths), rules) for rows in (fit, test))
    found = []
    for n_loops in depths:
        bench = Bench(model, fit, prefix(fitted, n_loops), kinds)
        other = Bench(model, test, prefix(fresh, n_loops), kinds)
        judge = Judge("loss", max(budgets))
        chosen = [text_budget(bench, other, Judge("loss", budget)) for budget in budgets]
        found.append(
            {
                "n_loops": n_loops,
                "full": judge.score(other.full()),
                "oracle": plain(oracle_trade(other.seen, judge)),
                "exits": {kind.name: text_exit(bench, other, kind, budgets) for kind in kinds},
                "kept": [one for one in chosen if one is not None],
            }
        )
        print(text_lines(found[-1]), flush=True)
    return {
        "model": opened.folder.name,
        "data": "held-out text" if args.data is None else args.data.name,
        "fitted_on": len(fitted.answers.row),
        "measured_on": len(fresh.answers.row),
        "depths": found,
    }


def text_exit(
    bench: Bench, other: Bench, kind: type[Criterion], budgets: Sequence[float]
) -> dict[str, Any]:
    """One exit by its scores alone: its curve on fresh text, and what fitted thresholds come to.

    As if what has left went on for the others' sake: one pass answers for every threshold.
    """
    judge = Judge("loss", max(budgets))
    kept = []
    for budget in budgets:
        fitted = loosest(bench.curve(kind, judge), budget)
        if fitted is not None:
            trade = other.simulated(kind(fitted.threshold), judge)
            work = other.work(kind, trade.mean_loops)
            kept.append({"budget": budget, **plain(trade), "work": work})
    return {"curve": curve_json(other.curve(kind, judge)), "kept": kept}


def text_budget(bench: Bench, other: Bench, judge: Judge) -> dict[str, Any] | None:
    """The exit of least work that keeps a budget, run for real on the fresh text."""
    found = bench.chosen(judge)
    if found is None:
        return None
    kind, threshold = found
    with metered(bench.model.recurrent) as meter:
        left = answered(other.model, other.fit, other.n_loops, kind(threshold))
    trade = judge(threshold, left, other.full())
    return {
        "budget": judge.budget,
        "exit": kind.name,
        **plain(trade),
        "work": other.work(kind, trade.mean_loops),
        "ran": meter.work.share,
    }


def text_lines(found: dict[str, Any]) -> str:
    lines = [f"loss {found['full']:.4f} at {found['n_loops']} loops; on text not fitted to:"]
    rows = [("(by its scores) " + name, kept) for name, one in found["exits"].items()
            for kept in one["kept"]]  # fmt: skip
    rows += [("(run) " + kept["exit"], kept) for kept in found["kept"]]
    lines += [
        f"  {name:>28} {kept['threshold']:9.4g}, budget {kept['budget']:.2%}: "
        f"{kept['mean_loops']:.2f} loops, loss {kept['cost']:+.2%}, work {kept['work']:.2f}"
        for name, kept in rows
    ]
    return "\n".join(lines)


# -- tasks ---------------------------------------------------------------------------------------


def task_names(opened: Opened, named: Sequence[str]) -> list[str | None]:
    """The tasks to measure: those named; of a mixture all free ones; the run's own, as None."""
    assert opened.recipe is not None
    if named:
        return list(named)
    task = opened.recipe.data.build_task(seed=0)
    if not isinstance(task, MixedTasks):
        return [None]
    return [name for name, part in task.parts.items() if part.free]


def free_task(task: Task) -> GeneratedTask:
    """The same task.

    Raises:
        InputError: If its rows do not say how hard they are.
    """
    if not (isinstance(task, GeneratedTask) and task.free):
        raise InputError(
            "the loops say how hard this task's rows are, so that no exit can: leave it out"
        )
    return task


def rows_of(task: GeneratedTask, difficulty: int, answers: int, seed: int) -> Batch:
    """Held-out rows with about so many answers, fewer rows the more of them fit side by side."""
    one = replace(task, batch_size=1).evaluation_batch(difficulty, seed)  # type: ignore[call-arg]
    each = int((one.targets != IGNORE).sum())
    rows = -(-answers // each)
    many: Batch = replace(task, batch_size=rows).evaluation_batch(difficulty, seed)  # type: ignore[call-arg]
    return many


def on_task(opened: Opened, args: argparse.Namespace, budgets: Sequence[float]) -> dict[str, Any]:
    """One task: every difficulty at one depth, where the exit alone tells them apart."""
    assert opened.recipe is not None
    task = free_task(opened.recipe.data.build_task(seed=0))
    levels = those_with_room(task, ASKED, opened.model.cfg.max_seq_len)
    n_loops = max(args.loops) if args.loops else levels[-1] + SPARE
    kinds, _ = chosen_kinds(args.exits, opened)
    fit = [rows_of(task, level, args.answers, FIT) for level in levels]
    seen = watch(opened.model, fit, n_loops, {kind.name: kind(1) for kind in kinds})
    counts = [int((batch.targets != IGNORE).sum()) for batch in fit]
    level_of = torch.tensor(levels).repeat_interleave(torch.tensor(counts))
    bench = Bench(opened.model, fit, seen, kinds, level_of)
    test = {level: [rows_of(task, level, args.answers, TEST)] for level in levels}
    full = {level: answered(opened.model, rows, n_loops) for level, rows in test.items()}
    widest = Judge("accuracy", max(budgets))
    curves = {kind.name: curve_json(bench.curve(kind, widest)) for kind in kinds}
    kept = [task_budget(bench, budget, test, full) for budget in budgets]
    return {
        "model": opened.folder.name if opened.recipe.data.kind == "mixed" else opened.recipe.name,
        "unit": task.unit,
        "trained": task.max_level,
        "n_loops": n_loops,
        "chance": {str(level): task.chance_at(level) for level in levels},
        "curves": curves,
        "kept": [one for one in kept if one is not None],
    }


def task_budget(
    bench: Bench, budget: float, test: dict[int, list[Batch]], full: dict[int, Answers]
) -> dict[str, Any] | None:
    """The exit of least work that keeps a budget, and what it does to rows of every difficulty."""
    judge = Judge("accuracy", budget)
    found = bench.chosen(judge)
    if found is None:
        return None
    kind, threshold = found
    rule = kind(threshold)
    left = {level: answered(bench.model, rows, bench.n_loops, rule) for level, rows in test.items()}
    loops = torch.cat([one.loops for one in left.values()]).double()
    level_of = torch.cat([torch.full_like(one.loops, d) for d, one in left.items()]).double()
    means = torch.stack([one.loops.double().mean() for one in left.values()])
    rows = [level_json(level, left[level], full[level]) for level in test]
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("full", "accuracy")}
    return {
        "budget": budget,
        "exit": kind.name,
        "threshold": threshold,
        "mean_loops": sum(row["mean_loops"] for row in rows) / len(rows),
        **mean,
        "lost_points": 100.0 * (mean["full"] - mean["accuracy"]),
        "work": bench.work(kind, float(means.mean())),
        "spearman": {
            "answers": spearman(level_of, loops),
            "levels": spearman(torch.tensor(list(test), dtype=torch.float64), means),
        },
        "levels": rows,
    }


def level_json(level: int, left: Answers, full: Answers) -> dict[str, Any]:
    loops = left.loops.double()
    ends = loops.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return {
        "difficulty": level,
        "answers": len(loops),
        "full": float(full.hit.double().mean()),
        "accuracy": float(left.hit.double().mean()),
        "mean_loops": float(loops.mean()),
        "loops_5": ends[0],
        "loops_95": ends[1],
    }


def spearman(x: Tensor, y: Tensor) -> float:
    """Correlation of ranks, equal values sharing the mean of theirs; 0 where one is constant."""
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (x, y))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale else 0.0


def ranks(values: Tensor) -> Tensor:
    """1, 2 ... by size; equal ones share the mean."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[place]


def task_lines(name: str, found: dict[str, Any]) -> str:
    lines = [f"{name}: {found['n_loops']} loops for all; on rows not fitted to:"]
    for kept in found["kept"]:
        rho = kept["spearman"]
        lines.append(
            f"  {kept['exit']} {kept['threshold']:.4g}, budget {kept['budget']:.2%}: "
            f"{kept['mean_loops']:.1f} loops, accuracy {kept['accuracy']:.4f} of "
            f"{kept['full']:.4f}, Spearman {rho['answers']:.3f} (means {rho['levels']:.3f})"
        )
        lines.append(
            "    "
            + " ".join(
                f"{row['difficulty']}:{row['mean_loops']:.1f} ({row['accuracy']:.3f})"
                for row in kept["levels"]
            )
        )
    if not found["kept"]:
        lines.append("  no exit keeps a budget")
    return "\n".join(lines)


# -- the command ---------------------------------------------------------------------------------


def add(path: Path, key: str, changes: dict[str, Any]) -> None:
    """Put entries into a results file, beside what it has."""
    document = read_json(path) if path.is_file() else {}
    if key == "tasks":
        changes = {**document.get("tasks", {}), **changes}
    write_json(path, {**document, key: changes, "environment": environment(torch.device("cpu"), 0)})


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", action="append", default=[], help="of a mixture; several times")
    parser.add_argument("--budgets", default="0.1%,0.5%,1%")
    parser.add_argument("--loops", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--exits", default="all")
    parser.add_argument("--data", type=Path, help="a text, instead of the one beside the model")
    parser.add_argument("--tokens", type=int, default=8192, help="of text in each part")
    parser.add_argument("--answers", type=int, default=72, help="of each difficulty and part")
    parser.add_argument("--halted", choices=("freeze", "continue"), default="freeze")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--results", type=Path)
    return parser.parse_args()


def main() -> None:
    args, began = asked(), time.perf_counter()
    if args.threads:
        torch.set_num_threads(args.threads)
    budgets = [parse_budget(text) for text in args.budgets.split(",")]
    opened = open_checkpoint(args.run)
    opened.model.cfg.halted = args.halted
    say: Callable[[str], None] = lambda key: print(  # noqa: E731
        f"{key}: {time.perf_counter() - began:.0f} s", flush=True
    )
    recipe = opened.recipe
    if recipe is None or recipe.data.kind == "text":
        found = on_text(opened, args, budgets)
        if args.results:
            add(args.results, "text", found)
        say("text")
        return
    for name in task_names(opened, args.task):
        one = opened.on_task(name)
        found = on_task(one, args, budgets)
        label = name or recipe.name
        print(task_lines(label, found), flush=True)
        if args.results:
            add(args.results, "tasks", {label: found})
        say(label)


if __name__ == "__main__":
    main()
