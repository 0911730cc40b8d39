"""`open-mythos retrofit`: a pretrained model's folder to that of a looped network."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from open_mythos.retrofit.folder import save_retrofit
from open_mythos.retrofit.surgery import Plan, retrofit


def run(*, source: Path, plan: Plan, out: Path) -> None:
    """Write the folder, and say which layers went where.

    Raises:
        ConfigError: If our blocks cannot do what the source's do, or the plan does not fit it.
        CheckpointError: If weights are missing or damaged, or `out` is not empty.
    """
    made = retrofit(source, plan)
    tokenizer = save_retrofit(made, out)
    parts = made.cut
    count = sum(p.numel() for p in made.model.parameters())
    say = Console(stderr=True, highlight=False, markup=False).print
    say(f"{source} -> {out}: {count:,} parameters of {made.source.n_layers} layers")
    say(f"prelude {span(parts.prelude)}, loop {span(parts.core)}, coda {span(parts.coda)}")
    left = ", ".join(map(str, parts.dropped))
    without = f" without layers {left}" if left else ""
    if plan.lora_rank is None:
        say(f"one loop is the source{without}")
    else:
        say(
            f"{plan.loops} loops stand for the source{without}: {plan.core} layers of the core "
            f"({plan.shared}), corrected by rank {plan.lora_rank} in every loop"
        )
    if not tokenizer:
        say(f"no tokenizer in {source}; put one beside the weights to read and write text")
    say(f"heal it: open-mythos train retrofit init_from={out} data.corpus=TEXT")


def span(layers: Sequence[int]) -> str:
    """Layers as their first and last."""
    return f"{layers[0]}-{layers[-1]}" if layers else "none"
