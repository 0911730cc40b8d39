"""Records as tagged numbers: one tag for each curve of a dashboard, in groups."""

from open_mythos.train.records import EvalRecord, StepRecord


GIB = 2**30
# group/name -> the record's field; numbers that a record has not are left out.
TAGS = {
    "train/loss": "loss",
    "train/accuracy": "accuracy",
    "train/grad_norm": "grad_norm",
    "train/lr": "lr",
    "train/loss_scale": "loss_scale",
    "train/level": "level",
    "train/epoch": "epoch",
    "train/tokens": "tokens",
    "train/scored_share": "scored_share",
    "train/skipped": "skipped",
    "loop/given": "given_loops",
    "loop/used": "mean_loops",
    "loop/rho_a": "rho_a",
    "loop/state_rms": "state_rms",
    "loop/state_growth": "state_growth",
    "loop/residual": "residual",
    "router/entropy": "router_entropy",
    "router/peak": "router_peak",
    "router/dead": "router_dead",
    "speed/tokens_per_second": "tokens_per_second",
    "speed/seconds": "seconds",
    "speed/waited": "waited",
    "speed/flops_per_second": "flops_per_second",
    "speed/mfu": "mfu",
}
BY_LOOP = ("entropy_by_loop", "peak_by_loop", "dead_by_loop")


def step_scalars(record: StepRecord, *, by_loop: bool = True) -> dict[str, float]:
    """The numbers of a step by tag; loss terms where there is more than one.

    Args:
        record: The step.
        by_loop: Whether to add what each loop's experts served, as "router_entropy/loop_01" and so
            on: at eight loops as many numbers as all the others.
    """
    fields = vars(record)
    found = {t: float(fields[f]) for t, f in TAGS.items() if fields[f] is not None}
    if record.memory is not None:
        found["speed/memory_gib"] = record.memory / GIB
    if len(record.terms) > 1:
        found |= {f"train/{name}": value for name, value in record.terms.items()}
    for name in BY_LOOP if by_loop else ():
        group = f"router_{name.removesuffix('_by_loop')}"
        found |= {f"{group}/loop_{i:02}": float(v) for i, v in enumerate(fields[name], start=1)}
    return found


def eval_scalars(record: EvalRecord) -> dict[str, float]:
    """The numbers of an evaluation by tag, in a group of its own: "eval/validation/loss"."""
    return {f"eval/{name}": value for name, value in record.values.items()}
