"""Rows from runs of this library: what their last evaluation found, and what the network is."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from open_mythos.config.budget import parameters
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.laws.points import Row


Metrics = Sequence[Mapping[str, Any]]  # lines of a metrics.jsonl

AT = re.compile(r"loss_at_(\d+)")
JUDGE = "validation"


def curve_rows(run: str, metrics: Metrics, judge: str = JUDGE) -> list[Row]:
    """The last evaluation's loss at every number of loops that it looked at.

    Args:
        run: What the run is called.
        metrics: Its records.
        judge: The evaluator.

    Raises:
        InputError: If no evaluation looked at several depths.
    """
    step, values = _last(run, metrics, judge)
    place = f"the evaluation of {run} at step {step}"
    found = {int(m[1]): loss for name, loss in values.items() if (m := AT.fullmatch(name))}
    if not found:
        raise InputError(
            f"{place} looked at one depth; train with eval_loops=1,2,4,8, or measure with "
            "`open-mythos sweep` and give a CSV"
        )
    return [Row(run, {"loops": n, "loss": loss}, place) for n, loss in sorted(found.items())]


def final_row(
    run: str, metrics: Metrics, cfg: MythosConfig, mean_loops: float, judge: str = JUDGE
) -> Row:
    """The last evaluation's loss at the depth of training, with the network and its tokens.

    Parameters are those that a token meets: of routed experts only the ones that serve it. The
    embedding, which is also the head, counts among those outside the loop.

    Args:
        run: What the run is called.
        metrics: Its records.
        cfg: Its network.
        mean_loops: Loops of training, on average.
        judge: The evaluator.

    Raises:
        InputError: If there is no such evaluation, or no step before it.
    """
    step, values = _last(run, metrics, judge)
    place = f"the evaluation of {run} at step {step}"
    if "loss" not in values:
        raise InputError(f"{place} has no {judge}/loss, but {', '.join(values)}")
    tokens = [r["tokens"] for r in metrics if r.get("kind") == "step" and int(r["step"]) <= step]
    if not tokens:
        raise InputError(f"{place} has no step before it that says how many tokens it had seen")
    count = parameters(cfg)
    looped = float(count.looped - count.inactive)
    return Row(
        run,
        {
            "loss": values["loss"],
            "loops": mean_loops,
            "mean_loops": mean_loops,
            "tokens": float(tokens[-1]),
            "params_once": float(count.active) - looped,
            "params_looped": looped,
        },
        place,
    )


def _last(run: str, metrics: Metrics, judge: str) -> tuple[int, dict[str, float]]:
    """Step and numbers of a judge's last evaluation, by their names without the judge's."""
    judges: dict[str, None] = {}
    for record in reversed(metrics):
        if record.get("kind") != "eval":
            continue
        parts = [(*key.rpartition("/")[::2], value) for key, value in record["values"].items()]
        judges |= dict.fromkeys(who for who, _, _ in parts)
        values = {name: float(v) for who, name, v in parts if who == judge and v is not None}
        if values:
            return int(record["step"]), values
    known = f"it has {', '.join(judges)}" if judges else "it has none at all"
    raise InputError(f"run {run} has no evaluation by {judge!r}; {known}")
