"""What a run reports: one record per step and per evaluation, frozen, ready for JSON."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One training step, as it was.

    Attributes:
        step: Steps done, this one included: the first is 1.
        loss: Sum of the loss terms.
        terms: Each term's share of it, weights included.
        accuracy: Share of the scored positions that the largest logit hits.
        lr: Learning rate.
        grad_norm: Norm of all gradients together, before clipping.
        n_loops: Loops that the step was given.
        mean_loops: Loops until a position halted, on average.
        level: Curriculum level of the batch.
        tokens: Positions seen since the run began, this step included.
        tokens_per_second: Positions of this step over its wall time, the batch's making included.
        skipped: Whether no parameter moved: loss or gradient was not finite, or a spike.
        loss_scale: What the loss was multiplied by, in fp16.
        rho_a: Largest entry of the injection's A; None for an injection without one.
        router_entropy: Entropy of the experts' load over that of an even load, mean over loops.
        router_peak: Load of the busiest expert over the mean load, of the worst loop.
        state_rms: Root mean square of the loop state after the last loop.
    """

    step: int
    loss: float
    terms: dict[str, float] = field(default_factory=dict)
    accuracy: float
    lr: float
    grad_norm: float
    n_loops: int
    mean_loops: float
    level: int = 0
    tokens: int
    tokens_per_second: float
    skipped: bool = False
    loss_scale: float | None = None
    rho_a: float | None = None
    router_entropy: float | None = None
    router_peak: float | None = None
    state_rms: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """The evaluators' numbers after a step, each under "evaluator/number"."""

    step: int
    values: dict[str, float]


def to_json(record: StepRecord | EvalRecord) -> dict[str, Any]:
    """A record as one line's worth of JSON; NaN and infinities, which JSON lacks, become null."""
    kind = "step" if isinstance(record, StepRecord) else "eval"
    plain: dict[str, Any] = finite({"kind": kind, **asdict(record)})
    return plain


def finite(value: Any) -> Any:
    """The same tree with every non-finite number replaced by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
