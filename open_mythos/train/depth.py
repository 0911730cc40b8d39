"""Loops per training step: exact distributions over min..max, drawn from (seed, step) alone."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from open_mythos.data.streams import Purpose, stream
from open_mythos.train.recipe import DepthConfig


Array = NDArray[np.float64]

# The log-normal rate is summed over a grid of +-8 standard deviations. A Poisson count near 64 sees
# the logarithm of its rate to 1/8, so steps of 0.05 resolve it up to sigma 1.5 and beyond.
GRID = np.arange(-160, 161) * 0.05
# Searched range of the rate's logarithm, and the halvings of it, after which doubles end.
LOG_RATE_RANGE = (-40.0, 40.0)
HALVINGS = 60


def sample_depth(config: DepthConfig, seed: int, step: int) -> int:
    """The number of loops of one step: the same on every rank and after every resume."""
    draw = float(stream(seed, Purpose.DEPTH, step).random())
    total = 0.0
    depths = distribution(config)
    for depth, probability in depths.items():
        total += probability
        if draw < total:
            return depth
    return max(depths)  # the probabilities may add up to a hair under 1


def expected_depth(config: DepthConfig) -> float:
    """Loops of an average step, exactly: what a run's compute is planned with."""
    return sum(depth * probability for depth, probability in distribution(config).items())


@lru_cache(maxsize=256)
def distribution(config: DepthConfig) -> dict[int, float]:
    """Every depth that can be drawn, ascending, with its probability.

    The Poisson kinds are conditioned on min..max, and their rate is solved for, so that the mean
    after the cut is the declared one: clipping draws instead would move the mean unseen.
    """
    if config.kind == "fixed":
        return {int(config.mean): 1.0}
    depths = np.arange(config.min, config.max + 1, dtype=np.float64)
    if config.kind == "uniform":
        weights = np.full(len(depths), 1.0 / len(depths))
    else:
        sigma = config.sigma if config.kind == "lognormal_poisson" else 0.0
        weights = with_mean(depths, config.mean, sigma)
    return {int(k): float(w) for k, w in zip(depths, weights, strict=True)}


def with_mean(depths: Array, mean: float, sigma: float) -> Array:
    """Cut (log-normal) Poisson probabilities whose mean is `mean`, by bisection on the rate."""
    low, high = LOG_RATE_RANGE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float(poisson(depths, middle, sigma) @ depths) < mean:
            low = middle
        else:
            high = middle
    return poisson(depths, (low + high) / 2, sigma)


def poisson(depths: Array, log_rate: float, sigma: float) -> Array:
    """Poisson probabilities at `depths`, renormalised there; the log rate has deviation sigma."""
    nodes = GRID if sigma else np.zeros(1)
    log_rates = (log_rate + sigma * nodes)[:, None]
    factorials = np.array([math.lgamma(k + 1) for k in depths])
    logs = depths * log_rates - np.exp(log_rates) - factorials - nodes[:, None] ** 2 / 2
    values = np.exp(logs - logs.max()).sum(0)
    total: Array = values / values.sum()
    return total
