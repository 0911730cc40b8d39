"""What a run reports: one record per step and per evaluation, frozen, ready for JSON."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any


# Numbers of a step that no seed fixes: what a machine was seen to take.
MEASURED = ("tokens_per_second", "seconds", "waited", "flops_per_second", "mfu", "memory")


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
        n_loops: Loops that the step was given; where its rows differ, those of the deepest.
        given_loops: Loops that a row was given, on average.
        mean_loops: Loops until a position halted, on average.
        level: Curriculum level of the batch.
        tokens: Positions seen since the run began, this step included.
        scored_share: Share of the step's positions that are scored; the rest is padding, or a
            prompt where answers alone are learnt.
        epoch: Passes over the data since the run began, where the source counts them.
        skipped: Whether no parameter moved: loss or gradient was not finite, or a spike.
        loss_scale: What the loss was multiplied by, in fp16.
        rho_a: Largest entry of the injection's A; None for an injection without one.
        state_rms: Root mean square of the loop state after the last loop.
        state_growth: Factor by which it grows from one loop to the next, on average; None where
            there is one loop.
        residual: |h_T - h_{T-1}| / |h_T| of the last loop: 0 at a fixed point.
        router_entropy: Entropy of the experts' load over that of an even load, mean over loops.
        router_peak: Load of the busiest expert over the mean load, of the worst loop.
        router_dead: Experts that served no position in any loop.
        entropy_by_loop: `router_entropy` of each loop.
        peak_by_loop: `router_peak` of each loop.
        dead_by_loop: Experts that served no position in each loop.
        tokens_per_second: Positions of this step over its wall time, the batch's making included.
        seconds: That time.
        waited: How many of those seconds the host spent on making the batch.
        flops_per_second: FLOPs that the model needs for a step (`training_flops_per_token`) over
            that time, of all devices together.
        mfu: The same over what the devices compute at best; None where nobody states that.
        memory: Most bytes that were allocated on this rank's GPU since the last logged step; on a
            CPU, bytes that the process holds.
    """

    step: int
    loss: float
    terms: dict[str, float] = field(default_factory=dict)
    accuracy: float
    lr: float
    grad_norm: float
    n_loops: int
    given_loops: float | None = None
    mean_loops: float
    level: int = 0
    tokens: int
    scored_share: float | None = None
    epoch: float | None = None
    skipped: bool = False
    loss_scale: float | None = None
    rho_a: float | None = None
    state_rms: float | None = None
    state_growth: float | None = None
    residual: float | None = None
    router_entropy: float | None = None
    router_peak: float | None = None
    router_dead: int | None = None
    entropy_by_loop: list[float] = field(default_factory=list)
    peak_by_loop: list[float] = field(default_factory=list)
    dead_by_loop: list[int] = field(default_factory=list)
    tokens_per_second: float
    seconds: float | None = None
    waited: float | None = None
    flops_per_second: float | None = None
    mfu: float | None = None
    memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """What the evaluators found after a step, each thing under "evaluator/name".

    Attributes:
        step: Steps done.
        values: Numbers.
        texts: Samples.
    """

    step: int
    values: dict[str, float]
    texts: dict[str, str] = field(default_factory=dict)


def to_json(record: StepRecord | EvalRecord) -> dict[str, Any]:
    """A record as one line's worth of JSON; NaN and infinities, which JSON lacks, become null."""
    kind = "step" if isinstance(record, StepRecord) else "eval"
    plain: dict[str, Any] = finite({"kind": kind, **asdict(record)})
    if kind == "eval" and not plain["texts"]:
        del plain["texts"]
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


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    """A step's values without those that no seed fixes: equal in two runs of one recipe."""
    return {key: value for key, value in values.items() if key not in MEASURED}
