"""Let each token leave the loop when it is done: train, find the threshold, see what it saves.

    python examples/early_exit.py                    # about a minute on one core
    python examples/early_exit.py --budget 0.01

Trains the smallest recipe on the bundled plays with random depth, then fits every exit to a budget
of quality on held-out text: the loosest threshold that costs no more than the budget, checked in
real passes over other rows. Prints what each saves, and writes with the one that saves most.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from open_mythos import OpenMythos
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.calibration import Calibration, calibrate
from open_mythos.nn.loop.exits.registry import EXITS
from open_mythos.train.console import ConsoleSink
from open_mythos.train.presets import recipe
from open_mythos.train.sources import build_sources
from open_mythos.train.trainer import train


def main(argv: Sequence[str] | None = None) -> Calibration:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--budget", type=float, default=0.001, help="share of the loss to give")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/example-exit"))
    args = parser.parse_args(argv)

    plan = replace(recipe("cpu-tiny"), steps=args.steps, eval_every=0)
    sources = build_sources(plan)
    result = train(plan, args.out, resume="auto", sinks=[ConsoleSink()])
    model = result.model
    assert isinstance(model, OpenMythos)
    assert isinstance(sources.evaluation, TokenWindows)
    assert sources.tokenizer is not None
    model.eval()

    # Two parts that share no row: one to fit thresholds on, one to hold them to.
    batches = list(islice(sources.evaluation.evaluation_batches(), 2 * args.batches))
    kinds = [EXITS[name] for name in ("latent", "kl", "entropy", "stability")]
    found = calibrate(
        model, batches[::2], batches[1::2], kinds, n_loops=6, budget=args.budget, metric="loss"
    )
    print(f"held-out loss at all {found.n_loops} loops: {found.full:.3f}")
    print("exit        threshold  loops   loss  given   work")
    for name, exit_ in found.exits.items():
        kept = exit_.verified
        if kept is None:
            print(f"{name:10s}  no threshold keeps the budget")
            continue
        print(f"{name:10s}  {kept.threshold:9.3g}  {kept.mean_loops:5.2f}  {kept.score:.3f}  "
              f"{kept.cost:5.2%}  {exit_.work:5.1%}")  # fmt: skip
    chosen = "fixed:6"
    if found.chosen is not None:
        verified = found.exits[found.chosen].verified
        assert verified is not None
        chosen = f"{found.chosen}:{verified.threshold}"
    prompt = torch.tensor([sources.tokenizer.encode("ROMEO:\n")])
    tokens = model.generate(prompt, 40, n_loops=6, temperature=0.8, exit=chosen)
    record = model(tokens, 6, exit=chosen, return_output=True)
    print(f"with exit={chosen!r}; in brackets the loops of tokens that took more than one:")
    words = (sources.tokenizer.decode([token]) for token in tokens[0].tolist())
    used = record.loops_used[0].tolist()
    print("".join(f"{word}[{n}]" if n > 1 else word for word, n in zip(words, used, strict=True)))
    return found


if __name__ == "__main__":
    main()
