"""Train a loop on short problems, then ask longer ones with more loops than it was trained with.

    python examples/loops_are_depth.py                  # about a minute on one core
    python examples/loops_are_depth.py --hops 6,16,30,48,96

The problem: each row shows a fresh cycle of 11 states, and asks where k steps along it lead. A pass
with k loops is trained for k up to 6. Prints accuracy for every number of steps and of loops: what
is right stands on the diagonal, far beyond the training. A checkpoint of the run stays in --out.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from open_mythos.data.tasks.task import GeneratedTask
from open_mythos.eval.evaluators import standard_evaluators
from open_mythos.eval.loop_curve import DepthMap, depth_map
from open_mythos.train.console import ConsoleSink
from open_mythos.train.presets import recipe
from open_mythos.train.sources import build_sources
from open_mythos.train.trainer import train


def main(argv: Sequence[str] | None = None) -> DepthMap:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rows", type=int, default=64, help="problems in a step")
    parser.add_argument("--hops", default="1,3,6,16,30,48")
    parser.add_argument("--out", type=Path, default=Path("runs/example-loops"))
    args = parser.parse_args(argv)

    base = recipe("task-pointer")
    plan = replace(
        base, steps=args.steps, eval_every=0, data=replace(base.data, batch_size=args.rows)
    )
    sources = build_sources(plan)
    result = train(
        plan,
        args.out,
        resume="auto",  # run it again, and it goes on where it was
        evaluators=standard_evaluators(plan, sources),
        sinks=[ConsoleSink()],
    )
    task = sources.evaluation
    assert isinstance(task, GeneratedTask)
    hops = [int(word) for word in args.hops.split(",")]
    found = depth_map(result.model, task, hops, hops, batches=2)
    print(f"accuracy on {found.n} answers a cell; chance is {task.chance_at(1):.2f}")
    print("steps \\ loops " + "".join(f"{loops:7d}" for loops in found.loops))
    for asked, row in zip(found.difficulties, found.accuracy, strict=True):
        print(f"{asked:13d} " + "".join(f"{accuracy:7.2f}" for accuracy in row))
    print(f"trained to {plan.data.max_hops} steps; the run is in {args.out}")
    return found


if __name__ == "__main__":
    main()
