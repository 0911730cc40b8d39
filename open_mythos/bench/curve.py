"""A straight line through measurements, and how straight they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from open_mythos.errors import InputError


@dataclass(frozen=True)
class Line:
    """The least-squares line y = intercept + slope x.

    Attributes:
        slope: Growth of y for one of x.
        intercept: y at x = 0.
        r2: Share of y's variance that the line explains; 1 also where y does not vary.
    """

    slope: float
    intercept: float
    r2: float


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit a line.

    Raises:
        InputError: Of fewer than three points, which any line fits too well.
    """
    if len(x) != len(y) or len(x) < 3:
        raise InputError(f"{len(x)} x and {len(y)} y are no curve; measure at least three points")
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    slope, intercept = np.polyfit(xs, ys, 1)
    missed = float(((ys - intercept - slope * xs) ** 2).sum())
    spread = float(((ys - ys.mean()) ** 2).sum())
    return Line(float(slope), float(intercept), 1.0 if spread == 0 else 1 - missed / spread)
