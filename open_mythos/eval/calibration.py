"""From a budget of quality to each exit's threshold: fitted on one part, held to on another."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from open_mythos.config.budget import flops_per_token
from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import Batch
from open_mythos.errors import InputError
from open_mythos.eval.exit_scores import Answers, ExitScores, answered, watch
from open_mythos.eval.overthinking import Overthinking, overthinking
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Criterion
from open_mythos.nn.loop.work import metered


Metric = Literal["loss", "accuracy"]

# One-sided 95 % of a normal distribution.
SURE = 1.645
# Nothing seen in N trials: with 95 % confidence it is rarer than 3 in N.
RULE_OF_THREE = 3.0
# Real passes that look for a looser threshold between two.
HALVINGS = 3
# Thresholds tried per exit, at even shares of the scores that were seen.
TRIED = 100


@dataclass(frozen=True)
class Trade:
    """What an exit saves, and what it costs.

    Attributes:
        threshold: Of the exit.
        mean_loops: Loops per scored position.
        score: Loss or accuracy.
        cost: Quality lost against full depth, relative to it; negative where it gained.
        bound: The same with its sampling noise: exceeded in one of twenty samples.
        n: Positions.
    """

    threshold: float
    mean_loops: float
    score: float
    cost: float
    bound: float
    n: int


@dataclass(frozen=True)
class Calibrated:
    """One exit, fitted and verified.

    Attributes:
        name: Of the exit.
        curve: Every threshold tried on the first part, from tight to loose.
        fitted: The loosest of them that keeps the budget; None: not even the tightest does.
        verified: The threshold that keeps it in real passes over the second part, as measured
            there; None: none of those tried does.
        work: FLOPs of the verified exit's loops and predictions over those of the full depth, by
            the loops of scored positions: what is saved where everybody who has left is skipped.
        ran: The same as counted while that pass ran, all of its positions and padding included.
    """

    name: str
    curve: tuple[Trade, ...]
    fitted: Trade | None
    verified: Trade | None
    work: float | None
    ran: float | None = None


@dataclass(frozen=True)
class Calibration:
    """All exits beside each other.

    Attributes:
        metric: What the budget is of.
        budget: Largest relative loss of quality.
        n_loops: The full depth.
        full: Score at full depth, on the second part.
        exits: By name.
        oracle: The first right loop of each position, which no exit can know; on the first part.
        overthinking: What more loops did to right answers, on the first part.
        chosen: Name of the exit with the least work.
    """

    metric: Metric
    budget: float
    n_loops: int
    full: float
    exits: Mapping[str, Calibrated]
    oracle: Trade
    overthinking: Overthinking
    chosen: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def calibrate(
    model: OpenMythos,
    fit_on: Sequence[Batch],
    verify_on: Sequence[Batch],
    kinds: Sequence[type[Criterion]],
    *,
    n_loops: int,
    budget: float,
    metric: Metric,
) -> Calibration:
    """Fit the threshold of every exit to a budget, and hold it to that in real passes.

    Thresholds are fitted on scores that one pass at full depth gives. A real exit changes what
    other positions see of the one that left, so that a second part is passed through with it, and
    its threshold tightened until the budget holds there too.

    Args:
        model: The network.
        fit_on: Held-out rows.
        verify_on: Others.
        kinds: The exits.
        n_loops: The full depth.
        budget: Largest relative loss of quality, above 0.
        metric: What the budget is of.

    Raises:
        InputError: If the budget is not above 0, or the rows are too few to tell.
    """
    if not (math.isfinite(budget) and 0.0 < budget < 1.0):
        raise InputError(f"budget is {budget}; it must lie between 0 and 1, as 0.005 for 0.5 %")
    seen = watch(model, fit_on, n_loops, {kind.name: kind(1) for kind in kinds})
    full = answered(model, verify_on, n_loops)
    judge = Judge(metric, budget)
    _enough(judge, full)
    found = {}
    for kind in kinds:
        curve = trade_curve(kind, seen, judge)
        fitted = loosest(curve, budget)

        shares: dict[float, float] = {}

        def real(
            threshold: float,
            kind: type[Criterion] = kind,
            shares: dict[float, float] = shares,
        ) -> Trade:
            with metered(model.recurrent) as meter:
                left = answered(model, verify_on, n_loops, kind(threshold))
            shares[threshold] = meter.work.share
            return judge(threshold, left, full)

        verified = None if fitted is None else tightened(curve, fitted, budget, real)
        work = None if verified is None else work_of(model.cfg, kind, verified.mean_loops, n_loops)
        ran = None if verified is None else shares[verified.threshold]
        found[kind.name] = Calibrated(kind.name, curve, fitted, verified, work, ran)
    able = {name: one.work for name, one in found.items() if one.work is not None}
    return Calibration(
        metric=metric,
        budget=budget,
        n_loops=n_loops,
        full=judge.score(full),
        exits=found,
        oracle=oracle_trade(seen, judge),
        overthinking=overthinking(seen.answers.hit),
        chosen=min(able, key=lambda name: able[name], default=None),
    )


@dataclass(frozen=True)
class Judge:
    """Compares answers with those of the full depth.

    Attributes:
        metric: By what.
        budget: Largest relative loss.
    """

    metric: Metric
    budget: float

    def score(self, answers: Answers) -> float:
        """Loss or accuracy."""
        return float(self._values(answers).mean())

    def _values(self, answers: Answers) -> Tensor:
        return answers.loss if self.metric == "loss" else answers.hit.double()

    def __call__(self, threshold: float, left: Answers, full: Answers) -> Trade:
        """What was saved and lost. The noise is that of rows, whose positions hang together."""
        value, whole = self._values(left), self._values(full)
        lost = value - whole if self.metric == "loss" else whole - value
        base = float(whole.mean())
        cost = float(lost.mean()) / base if base else math.inf
        # Noise of lost - cost * whole: that of a ratio of two means.
        noise = SURE * row_error(lost - cost * whole, full.row) / base if base else math.inf
        if self.metric == "accuracy" and base:
            noise = max(noise, RULE_OF_THREE / len(value) / base)
        return Trade(
            threshold=threshold,
            mean_loops=float(left.loops.double().mean()),
            score=float(value.mean()),
            cost=cost,
            bound=cost + noise,
            n=len(value),
        )


def row_error(values: Tensor, row: Tensor) -> float:
    """Standard error of the mean of values (N,), of which those of one row are not independent."""
    ids, index = row.unique(return_inverse=True)
    if len(ids) < 2:
        return math.inf
    centred = values - values.mean()
    sums = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, index, centred)
    return math.sqrt(float(sums.square().sum()) * len(ids) / (len(ids) - 1)) / len(values)


def _enough(judge: Judge, full: Answers) -> None:
    """Refuse rows of which even an exit that changes nothing could not be told to keep the budget.

    Raises:
        InputError: Saying how large the noise is, or that nothing is right.
    """
    if not judge.score(full):
        raise InputError(
            f"none of {len(full.row)} scored positions is right at full depth, so that no share of "
            "it can be lost; train the model, or give more batches"
        )
    least = judge(0.0, full, full).bound
    if not least <= judge.budget:
        raise InputError(
            f"{len(full.row)} scored positions, {judge.metric} {judge.score(full):.4g} at full "
            f"depth, cannot tell a loss of {judge.budget:.3%}: their noise alone is {least:.3%}; "
            "give more batches, or a larger budget"
        )


# -- fitting -------------------------------------------------------------------------------------


def exit_loops(rule: Criterion, scores: Tensor) -> Tensor:
    """(N,) int64, the loop at which each position leaves, by its scores (T, N)."""
    done = rule.done(scores)
    done = torch.cat((done[:-1], torch.ones_like(done[-1:])))
    return done.int().argmax(0) + 1


def at_loops(answers: Answers, loops: Tensor) -> Answers:
    """The answers of positions that leave after `loops` (N,), from those after every loop."""
    index = (loops - 1).unsqueeze(0)
    # A position that its own readout halts earlier has left with that.
    return replace(
        answers,
        loss=answers.loss.gather(0, index)[0],
        hit=answers.hit.gather(0, index)[0],
        loops=torch.minimum(loops, answers.loops),
    )


def trade_curve(kind: type[Criterion], seen: ExitScores, judge: Judge) -> tuple[Trade, ...]:
    """What every threshold would save and cost, from the tightest to the loosest."""
    scores, full = seen.scores[kind.name], at_depth(seen.answers, seen.n_loops)
    return tuple(
        judge(value, at_loops(seen.answers, exit_loops(kind(value), scores)), full)
        for value in thresholds(kind, scores)
    )


def at_depth(answers: Answers, n_loops: int) -> Answers:
    """The answers of positions that all leave after so many loops."""
    return at_loops(answers, torch.full_like(answers.row, n_loops))


def thresholds(kind: type[Criterion], scores: Tensor) -> list[float]:
    """Thresholds worth trying, from tight to loose: at even shares of the scores (T, N)."""
    if kind.whole:
        return [float(value) for value in range(scores.shape[0], 0, -1)]
    known = scores[scores.isfinite()].double()
    levels = torch.linspace(0.0, 1.0, TRIED, dtype=torch.float64)
    found = torch.quantile(_thinned(known), levels).tolist() if len(known) else [0.0]
    room = {value for value in found if value > 0.0 and not (kind.share and value > 1.0)}
    never = 0.0 if not kind.above else 1.0 if kind.share else 2.0 * max(found) + 1.0
    return sorted({*room, never}, reverse=kind.above)


def _thinned(values: Tensor, most: int = 1_000_000) -> Tensor:
    """At most so many of them, evenly: torch.quantile takes no more than 16 million."""
    return values[:: -(-len(values) // most)]


def loosest(curve: Sequence[Trade], budget: float) -> Trade | None:
    """The last trade that keeps the budget before the first that does not.

    Going from tight to loose and stopping there, no threshold is picked for a lucky sample: each
    is tested only if all tighter ones passed (fixed-sequence testing, as in arXiv 2110.01052).
    """
    kept = None
    for trade in curve:
        if trade.bound > budget:
            break
        kept = trade
    return kept


def tightened(
    curve: Sequence[Trade], fitted: Trade, budget: float, real: Callable[[float], Trade]
) -> Trade | None:
    """A threshold, the fitted one or a tighter one, that keeps the budget for real.

    Steps double: 1, 2, 4 ... thresholds back, the tightest at last. What lies between the first
    that holds and the last that does not is halved a few times.
    """
    place, step, broken = curve.index(fitted), 1, len(curve)
    kept = real(curve[place].threshold)
    while kept.bound > budget and place > 0:
        place, step, broken = max(place - step, 0), 2 * step, place
        kept = real(curve[place].threshold)
    if kept.bound > budget:
        return None
    if curve[place] is fitted:
        return kept
    for _ in range(HALVINGS):
        middle = (place + broken) // 2
        if middle == place:
            break
        trade = real(curve[middle].threshold)
        if trade.bound <= budget:
            place, kept = middle, trade
        else:
            broken = middle
    return kept


def work_of(cfg: MythosConfig, kind: type[Criterion], mean_loops: float, n_loops: int) -> float:
    """FLOPs of so many loops, with a prediction each where the exit asks, over the full depth's."""
    cost = flops_per_token(cfg, 1)
    each = cost.loops + (cost.head if kind.predictions else 0.0)
    return mean_loops * each / (n_loops * cost.loops)


def oracle_trade(seen: ExitScores, judge: Judge) -> Trade:
    """Every position at its first right loop, or at full depth where it is never right."""
    hit = seen.answers.hit.clone()
    hit[-1] = True
    left = at_loops(seen.answers, hit.int().argmax(0) + 1)
    return judge(1.0, left, at_depth(seen.answers, seen.n_loops))
