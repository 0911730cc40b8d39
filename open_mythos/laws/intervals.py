"""Intervals: how far the constants of a fit would move, had the noise fallen otherwise."""

from dataclasses import dataclass

import numpy as np

from open_mythos.errors import InputError, MissingExtraError
from open_mythos.laws.fit import LOOSE, Fit, Problem
from open_mythos.laws.law import Array, Inputs


try:
    from scipy.special import ndtr, stdtrit
except ImportError as error:  # scipy is an extra
    raise MissingExtraError("scipy", "laws", "the intervals of a law") from error


RESAMPLES = 500
LEVEL = 0.95
# As a share of a shape's range: an interval that comes so near to an end is cut off by it.
EDGE = 1e-3
# Of the least loss: a floor below it is none.
NO_FLOOR = 1e-3
# Points for each constant below which the residuals are too few to speak for the noise.
ENOUGH = 2


@dataclass(frozen=True)
class Interval:
    """A range that holds a number with the stated probability.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Bootstrap:
    """A fit, and the constants of as many refits to points with the noise drawn anew.

    Attributes:
        fit: The fit.
        draws: Constant -> its value in every refit.
        level: How often an interval is to hold the truth.
    """

    fit: Fit
    draws: dict[str, Array]
    level: float

    def __len__(self) -> int:
        return len(next(iter(self.draws.values())))

    def intervals(self) -> dict[str, Interval]:
        """Of every constant."""
        return {name: self._middle(values) for name, values in self.draws.items()}

    def derived(self) -> dict[str, tuple[float, Interval]]:
        """What follows from the constants, with the interval that follows from theirs."""
        law = self.fit.law
        every = [law.derived(dict(zip(self.draws, row, strict=True))) for row in self._rows()]
        return {
            name: (value, self._middle(np.array([one[name] for one in every])))
            for name, value in law.derived(self.fit.constants).items()
        }

    def band(self, inputs: Inputs) -> tuple[Array, Array]:
        """Lower and upper end of the law's loss at the inputs, a new point's noise left out."""
        law = self.fit.law
        losses = np.array(
            [law.predict(dict(zip(self.draws, row, strict=True)), inputs) for row in self._rows()]
        )
        low, high = np.quantile(losses, self._ends, axis=0)
        return low, high

    def notes(self) -> list[str]:
        """What a reader should know before trusting the numbers."""
        law, count = self.fit.law, len(self.fit.points)
        said = []
        if count < ENOUGH * len(law.constants):
            said.append(
                f"{count} points for {len(law.constants)} constants: the intervals are rough"
            )
        ranges = self.intervals()
        for shape in law.shapes:
            near = EDGE * (shape.high - shape.low)
            found = ranges[shape.name]
            ends = [
                end
                for end, gap in (
                    (shape.low, found.low - shape.low),
                    (shape.high, shape.high - found.high),
                )
                if gap <= near
            ]
            if ends:
                bound = " and ".join(f"{end:g}" for end in ends)
                said.append(
                    f"the points hardly fix {shape.name}: its interval ends where the search "
                    f"does, at {bound}"
                )
        floor = law.amplitudes[0]
        if ranges[floor].low < NO_FLOOR * self.fit.fitted.min():
            said.append(f"the points hardly fix {floor}: they allow a loss that ends at 0")
        return said

    @property
    def _ends(self) -> tuple[float, float]:
        """Ranks of the ends among the refits, of which wider ones stand for few points.

        A normal quantile becomes Student's of the degrees of freedom (Hesterberg 2015, arXiv
        1411.5279, the expanded percentile interval; its other factor is in the residuals).
        """
        free = len(self.fit.points) - len(self.fit.law.constants)
        low = float(ndtr(stdtrit(free, (1.0 - self.level) / 2.0)))
        return low, 1.0 - low

    def _rows(self) -> list[tuple[float, ...]]:
        return list(zip(*(values.tolist() for values in self.draws.values()), strict=True))

    def _middle(self, values: Array) -> Interval:
        low, high = np.quantile(values, self._ends)
        return Interval(float(low), float(high))


def bootstrap(
    fit: Fit, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Bootstrap:
    """Refit to the fitted losses with residuals drawn from those of the fit, with replacement.

    The inputs stay as they are: they were chosen, and with few points a sample of the points
    themselves would often fix nothing. Residuals are centred, and stretched by the degrees of
    freedom that the fit took. Draw i depends on (seed, i) alone.

    Args:
        fit: The fit.
        resamples: Refits.
        level: How often an interval is to hold the truth.
        seed: Of the draws.

    Raises:
        InputError: If `resamples` is below 1 or `level` not between 0 and 1.
    """
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; it must be at least 1")
    if not 0.0 < level < 1.0:
        raise InputError(f"level is {level}; it must lie between 0 and 1")
    problem = Problem(fit.law, fit.points)
    count = len(fit.points)
    noise = fit.residuals - fit.residuals.mean()
    noise *= np.sqrt(count / (count - len(fit.law.constants)))
    start = problem.coordinates(fit.constants)
    log_fitted = np.log(fit.fitted)
    draws = []
    for index in range(resamples):
        drawn = np.random.default_rng((seed, index)).integers(count, size=count)
        _, at = problem.refine(start, log_fitted + noise[drawn], fit.delta, tight=LOOSE)
        draws.append(problem.constants(at))
    values = {name: np.array([one[name] for one in draws]) for name in fit.law.constants}
    return Bootstrap(fit, values, level)
