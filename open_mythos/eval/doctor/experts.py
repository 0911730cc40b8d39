"""How evenly experts share the work, from their loads alone."""

import math
from collections.abc import Sequence

from open_mythos.eval.halting import LoopUse


def total_load(use: LoopUse) -> list[float]:
    """Share of each expert over all loops that ran, layer by layer of the core."""
    rows = [row for row in use.expert_load if any(row)]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def load_spread(load: Sequence[float], experts: int, per_token: int) -> float:
    """How evenly the experts of the worst layer are used: 1 is even, 0 as few as may be.

    (exp(H) - k) / (E - k), with H the entropy of a layer's load, E its experts and k of them
    visited by a token.

    Args:
        load: Share or count of each expert, layer by layer.
        experts: Of one layer; more than `per_token`.
        per_token: Experts that a token visits.
    """
    return min(
        (effective(layer) - per_token) / (experts - per_token) for layer in layers(load, experts)
    )


def busiest(load: Sequence[float], experts: int, per_token: int) -> float:
    """Share of the `per_token` busiest experts, of the layer where it is largest."""
    return max(sum(sorted(layer)[-per_token:]) / sum(layer) for layer in layers(load, experts))


def layers(load: Sequence[float], experts: int) -> list[Sequence[float]]:
    """The load of each layer."""
    return [load[first : first + experts] for first in range(0, len(load), experts)]


def effective(load: Sequence[float]) -> float:
    """Number of experts that, used evenly, would have this load's entropy."""
    shares = [x / sum(load) for x in load if x > 0.0]
    return math.exp(-sum(share * math.log(share) for share in shares))
