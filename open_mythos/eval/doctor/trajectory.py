"""Numbers of a sequence of states: how large they are, how far they move, whether they repeat."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


# A state that moves less than this share of its size in a loop stands still: float32 and 16-bit
# sums of a trained block come to rest at 1e-6 and 1e-2.
STILL = 0.02
# A cycle of p loops brings the state back this much nearer than one loop leaves it.
NEARER = 0.2


def rms(h: Tensor) -> float:
    """Root mean square of a state (..., width), summed in float64."""
    return math.sqrt(float(h.double().square().mean()))


def relative(a: Tensor, b: Tensor) -> float:
    """Distance of two states over the size of the first; 0 where both are zero."""
    distance, size = rms(a - b), rms(a)
    if distance == 0.0:
        return 0.0
    return distance / size if size else math.inf


def sizes(states: Sequence[Tensor]) -> tuple[float, ...]:
    """Root mean square of every state but the one at the start."""
    return tuple(rms(h) for h in states[1:])


def residuals(states: Sequence[Tensor]) -> tuple[float, ...]:
    """|h_t - h_{t-1}| / |h_t| of every loop: 0 at a fixed point."""
    return tuple(relative(after, before) for before, after in pairwise(states))


def period(states: Sequence[Tensor]) -> int | None:
    """Loops after which the state comes back, by its last loops.

    1 is a fixed point; None is neither that nor a cycle of up to a third of the loops. The least
    p counts for which |h_t - h_{t-p}| stays below a fifth of |h_t - h_{t-1}| over the last p loops.
    """
    last = len(states) - 1
    if not all(bool(torch.isfinite(h).all()) for h in states[-2:]):
        return None
    if relative(states[-1], states[-2]) < STILL:
        return 1
    for p in range(2, last // 3 + 1):
        ends = range(last - p + 1, last + 1)
        if all(
            rms(states[t] - states[t - p]) < NEARER * rms(states[t] - states[t - 1]) for t in ends
        ):
            return p
    return None
