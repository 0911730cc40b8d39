"""The shape of a loss curve over loops, seen from the trained depth."""

import math
from typing import Literal

from open_mythos.eval.loop_curve import LoopCurve


CurveShape = Literal["gains", "plateau", "V", "collapse"]


def lost_beyond(curve: LoopCurve, trained: int) -> float:
    """Nats by which the worst deeper pass is worse than the trained depth; NaN counts as lost."""
    here = curve.at(trained).loss
    beyond = [p.loss - here for p in curve.points if p.n_loops > trained]
    if any(math.isnan(loss) for loss in beyond):
        return math.inf
    return max(beyond, default=0.0)


def curve_shape(curve: LoopCurve, trained: int, least: float) -> CurveShape:
    """What other depths are worth.

    "collapse": deeper passes lose. "V": shallower ones do too, so that one depth alone works.
    "gains": deeper ones win. "plateau": none of it.

    Args:
        curve: With a point at the trained depth.
        trained: That depth.
        least: Nats that count as a difference.
    """
    here = curve.at(trained).loss
    before = [p.loss - here for p in curve.points if p.n_loops < trained]
    beyond = [p.loss - here for p in curve.points if p.n_loops > trained]
    if lost_beyond(curve, trained) >= least:
        return "V" if max(before, default=0.0) >= least else "collapse"
    return "gains" if min(beyond, default=0.0) <= -least else "plateau"
