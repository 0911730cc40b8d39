"""Loops per training step, or per row of it: exact distributions, drawn from the seed alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from open_mythos.data.streams import Purpose, stream, uniforms
from open_mythos.errors import ConfigError, did_you_mean
from open_mythos.train.checks import positive, whole


DepthKind = Literal["fixed", "uniform", "poisson", "lognormal_poisson"]
DepthPer = Literal["batch", "sequence"]
Array = NDArray[np.float64]

# The log-normal rate is summed over a grid of +-8 standard deviations. A Poisson count near 64 sees
# the logarithm of its rate to 1/8, so steps of 0.05 resolve it up to sigma 1.5 and beyond.
GRID = np.arange(-160, 161) * 0.05
# Searched range of the rate's logarithm, and the most steps of the search: every other one halves
# the range or the gap, and 60 halvings are the end of double precision.
LOG_RATE_RANGE = (-40.0, 40.0)
SEARCH = 120
# How near the mean must come, relative to itself. It is there in 3 to 12 steps.
NEAR = 1e-14


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """How many loops each training step runs; a batch that fixes its own number goes first.

    Attributes:
        kind: "fixed", "uniform" (on min..max), "poisson" or "lognormal_poisson" (a Poisson whose
            rate is itself log-normal: a longer tail), the last two cut to min..max.
        mean: Loops on average, exactly, after the cut; "fixed": always, so a whole number there.
            "uniform" ignores it.
        min: Fewest loops.
        max: Most loops.
        sigma: "lognormal_poisson": standard deviation of the logarithm of the rate.
        per: What one number is drawn for: each "batch", or each "sequence", of which none is then
            computed longer than it asks for.
        curriculum_steps: Steps in which the mean, and the most loops with it, grow to what is
            declared above, in a straight line; 0 is no curriculum.
        start_mean: Mean of the curriculum's first step; None is depth.min.
        backprop_loops: Only the last so many loops of a step are differentiated, so that memory
            does not grow with depth; None is all of them.
    """

    kind: DepthKind = "fixed"
    mean: float = 4.0
    min: int = 1
    max: int = 16
    sigma: float = 0.5
    per: DepthPer = "batch"
    curriculum_steps: int = 0
    start_mean: float | None = None
    backprop_loops: int | None = None

    def __post_init__(self) -> None:
        whole("depth.min", self.min, 1)
        if self.backprop_loops is not None:
            whole("depth.backprop_loops", self.backprop_loops, 1)
        whole("depth.max", self.max, self.min)
        whole("depth.curriculum_steps", self.curriculum_steps, 0)
        positive("depth.sigma", self.sigma)
        if self.per not in get_args(DepthPer):
            raise ConfigError(
                f"depth.per is {self.per!r}; {did_you_mean(str(self.per), get_args(DepthPer))}"
            )
        if self.kind == "fixed":
            if self.mean < 1 or self.mean != int(self.mean):
                raise ConfigError(
                    f"depth.mean is {self.mean}; with kind 'fixed' it is the number of loops, "
                    "a whole number of at least 1"
                )
        elif self.kind != "uniform" and not self.min < self.mean < self.max:
            raise ConfigError(
                f"depth.mean is {self.mean}; it must lie strictly between depth.min ({self.min}) "
                f"and depth.max ({self.max})"
            )
        self._check_curriculum()

    def _check_curriculum(self) -> None:
        if self.start_mean is None:
            return
        if not self.curriculum_steps:
            raise ConfigError(
                f"depth.start_mean is {self.start_mean}, but depth.curriculum_steps is 0; set the "
                "steps in which the mean grows, or leave start_mean out"
            )
        if not self.fewest <= self.start_mean <= self.declared_mean:
            raise ConfigError(
                f"depth.start_mean is {self.start_mean}; it must lie in {self.fewest} .. "
                f"{self.declared_mean}, from the fewest loops to the mean that it grows to"
            )

    @property
    def declared_mean(self) -> float:
        """Loops on average, behind the curriculum."""
        return (self.min + self.max) / 2 if self.kind == "uniform" else float(self.mean)

    @property
    def fewest(self) -> float:
        """Where a curriculum starts by itself; "fixed" does not know depth.min."""
        return min(float(self.min), self.declared_mean)

    def mean_at(self, step: int | None) -> float:
        """The mean that is declared for a step; None is behind the curriculum."""
        if step is None or step >= self.curriculum_steps:
            return self.declared_mean
        start = self.fewest if self.start_mean is None else self.start_mean
        return start + (self.declared_mean - start) * step / self.curriculum_steps


def sample_depth(config: DepthConfig, seed: int, step: int) -> int:
    """The number of loops of one step: the same on every rank and after every resume."""
    draw = stream(seed, Purpose.DEPTH, step).random(1)
    return _quantiles(distribution(config, step), draw)[0]


def sample_depths(
    config: DepthConfig, seed: int, step: int, rows: Sequence[int] | None, batch_size: int
) -> list[int]:
    """The numbers of loops of a step's rows, one each.

    Row r of a step is sample number step * batch_size + r of the run, and its depth depends on
    that number, the seed and the curriculum alone: any split over ranks and passes sees the same.

    Args:
        config: The distribution.
        seed: Of the run.
        step: Steps done before it.
        rows: Rows that are asked for, each in [0, batch_size); None is all of them, in order.
        batch_size: Rows of a step, over all ranks and passes.
    """
    draws = uniforms(seed, Purpose.ROW_DEPTH, step * batch_size, batch_size)
    wanted = draws if rows is None else draws[np.asarray(rows, dtype=np.int64)]
    return _quantiles(distribution(config, step), wanted)


def deal(depths: Sequence[int], parts: int) -> list[list[int]]:
    """Rows for each of `parts` ranks or passes, dealt like cards so that all have the same work.

    Sorted by depth and dealt to and fro. Every part has its rows with the deepest first, which is
    how the loop wants them, and their depths are alike in all parts; sums of depths differ by no
    more than the largest depth, and counts of rows by no more than one.

    Args:
        depths: Loops of each row.
        parts: How many to deal to.
    """
    order = sorted(range(len(depths)), key=lambda row: -depths[row])
    hands: list[list[int]] = [[] for _ in range(parts)]
    for card, row in enumerate(order):
        lap, seat = divmod(card, parts)
        hands[parts - 1 - seat if lap % 2 else seat].append(row)
    return hands


def expected_depth(config: DepthConfig, step: int | None = None) -> float:
    """Loops of an average step, exactly: what a run's compute is planned with.

    Args:
        config: The distribution.
        step: Where the curriculum stands; None is behind it.
    """
    return sum(depth * share for depth, share in distribution(config, step).items())


def distribution(config: DepthConfig, step: int | None = None) -> dict[int, float]:
    """Every depth that can be drawn, ascending, with its probability.

    The Poisson kinds are conditioned on min..max, and their rate is solved for, so that the mean
    after the cut is the declared one: clipping draws instead would move the mean unseen. While the
    curriculum runs, the mean is that of the step, exactly, and the largest depth grows with it.

    Args:
        config: The distribution.
        step: Where the curriculum stands; None is behind it.
    """
    mean, most = config.mean_at(step), float(config.max)
    if mean != config.declared_mean:
        most = min(config.max * mean / config.declared_mean, most)
    if config.kind == "uniform":
        most = 2 * mean - config.min
    sigma = config.sigma if config.kind == "lognormal_poisson" else 0.0
    return dict(_exact(config.kind, mean, config.min, most, sigma))


@lru_cache(maxsize=256)
def _exact(
    kind: DepthKind, mean: float, least: int, most: float, sigma: float
) -> tuple[tuple[int, float], ...]:
    """Depths and probabilities. Where mean or most is no whole number, its two neighbours mix."""
    if kind == "fixed":
        low, share = int(mean), mean % 1
        return ((low, 1.0 - share), (low + 1, share)) if share else ((low, 1.0),)
    if kind == "uniform":
        width, share = int(most) - least + 1, most % 1
        last = share / (width + 1)
        shares = [(1.0 - share) / width + last] * width + ([last] if share else [])
        return tuple(zip(range(least, least + len(shares)), shares, strict=True))
    depths = np.arange(least, math.ceil(most) + 1, dtype=np.float64)
    weights = with_mean(depths, mean, sigma)
    return tuple((int(k), float(w)) for k, w in zip(depths, weights, strict=True))


def with_mean(depths: Array, mean: float, sigma: float) -> Array:
    """Cut (log-normal) Poisson probabilities whose mean is `mean`.

    The rate's logarithm is found by Newton's method, and by halving the bracket where a step would
    leave it or the last one did not halve the gap.
    """
    low, high = LOG_RATE_RANGE
    log_rate, last = math.log(mean), math.inf
    for _ in range(SEARCH):
        weights, slopes = poisson(depths, log_rate, sigma)
        found = float(weights @ depths)
        gap = found - mean
        if abs(gap) <= NEAR * mean:
            break
        low, high = (log_rate, high) if gap < 0 else (low, log_rate)
        slope = float((weights * slopes) @ (depths - found))
        log_rate -= gap / slope if slope > 0 else math.inf
        if not low < log_rate < high or abs(gap) > last / 2:
            log_rate = (low + high) / 2
        last = abs(gap)
    return weights


def poisson(depths: Array, log_rate: float, sigma: float) -> tuple[Array, Array]:
    """Poisson probabilities at `depths`, renormalised there, whose log rate has deviation `sigma`.

    Returns:
        The probabilities, and the slopes of their logarithms over the log rate, before they are
        renormalised.
    """
    nodes = GRID if sigma else np.zeros(1)
    log_rates = (log_rate + sigma * nodes)[:, None]
    factorials = np.array([math.lgamma(k + 1) for k in depths])
    logs = depths * log_rates - np.exp(log_rates) - factorials - nodes[:, None] ** 2 / 2
    shares = np.exp(logs - logs.max())
    values = shares.sum(0)
    rates: Array = (shares * np.exp(log_rates)).sum(0) / values.clip(np.finfo(np.float64).tiny)
    return values / values.sum(), depths - rates


def _quantiles(depths: dict[int, float], draws: Array) -> list[int]:
    """The depths below whose share of all probability the draws lie."""
    at = np.cumsum(list(depths.values())).searchsorted(draws, side="right")
    # The probabilities may add up to a hair under 1.
    known = list(depths)
    return [known[i] for i in at.clip(max=len(known) - 1).tolist()]
