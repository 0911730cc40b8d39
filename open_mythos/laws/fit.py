"""Fit: the constants of a law that come nearest to points, found with certainty."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from open_mythos.errors import MissingExtraError
from open_mythos.laws.checks import check_fit, check_points
from open_mythos.laws.law import Array, Law
from open_mythos.laws.points import Points


try:
    from scipy.optimize import least_squares, nnls
except ImportError as error:  # scipy is an extra
    raise MissingExtraError("scipy", "laws", "fitting a law") from error


# Where Huber's loss turns from squares to absolute values, in log loss: both papers' value. Noise
# above it would make that a fit by absolute values, which wastes a third of the points, so there
# it is 1.345 standard deviations (95 % of the efficiency of least squares under normal noise).
DELTA = 1e-3
EFFICIENT = 1.345
MAD = 1.4826  # standard deviation of a normal over its median absolute value
# Shapes of the grid that are refined, and how many of them to the last digit.
STARTS = 4
FINISHERS = 2
# Relative changes that end a search; the looser is still far below what noise moves.
TIGHT = 1e-12
LOOSE = 1e-6
STEP = 1e-6  # of the difference quotients by shapes
INSIDE = 1e-9  # of a shape's range: where the solver may start


@dataclass(frozen=True)
class Fit:
    """A law with constants, and how it fits.

    Attributes:
        law: The law.
        points: What it was fitted to.
        constants: Name -> value.
        fitted: Its loss at the points.
        delta: Where Huber's loss turned linear, in log loss.
        jacobian: (points, constants), change of log loss with each internal constant.
    """

    law: Law
    points: Points
    constants: Mapping[str, float]
    fitted: Array
    delta: float
    jacobian: Array

    @property
    def residuals(self) -> Array:
        """Log measured - log fitted: 0.01 is a loss one percent above the law."""
        return np.asarray(np.log(self.points.loss) - np.log(self.fitted))

    @property
    def rms(self) -> float:
        """Root mean square residual, over the degrees of freedom."""
        free = len(self.points) - len(self.law.constants)
        return float(np.sqrt(np.sum(self.residuals**2) / free))

    @property
    def huber(self) -> float:
        """Mean Huber loss at the papers' delta of 1e-3, as they report it."""
        return float(np.mean(huber(self.residuals, DELTA)))


class Problem:
    """A law on given inputs, in coordinates that suit a solver.

    The coordinates are the largest contribution of each term in nats, then the shapes: numbers of
    about one, where the papers' amplitudes span nine orders and trade against the exponents.

    Attributes:
        law: The law.
        points: Where it is evaluated.
    """

    def __init__(self, law: Law, points: Points) -> None:
        self.law = law
        self.points = points
        self.terms = len(law.amplitudes)
        self.low = np.array([0.0] * self.terms + [s.low for s in law.shapes])
        self.high = np.array([np.inf] * self.terms + [s.high for s in law.shapes])

    def relative(self, shapes: Array) -> Array:
        """Terms over their largest value: (terms, points), at most 1."""
        logs = self.law.log_terms(shapes, self.points.inputs)
        return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)))

    def log_loss(self, at: Array) -> Array:
        """Logarithm of the law's loss."""
        loss = at[: self.terms] @ self.relative(at[self.terms :])
        return np.asarray(np.log(np.maximum(loss, np.finfo(float).tiny)))

    def jacobian(self, at: Array) -> Array:
        """(points, coordinates): exact by the amplitudes, central differences by the shapes."""
        relative = self.relative(at[self.terms :])
        loss = np.maximum(at[: self.terms] @ relative, np.finfo(float).tiny)
        columns = [relative.T / loss[:, None]]
        for index in range(self.terms, len(at)):
            step = np.zeros_like(at)
            step[index] = STEP * max(1.0, abs(at[index]))
            rise = self.log_loss(at + step) - self.log_loss(at - step)
            columns.append((rise / (2.0 * step[index]))[:, None])
        return np.concatenate(columns, axis=1)

    def starts(self) -> list[Array]:
        """The best of a grid of shapes, each with the best amplitudes that it allows."""
        found = []
        loss = self.points.loss
        for guess in product(*(shape.guesses for shape in self.law.shapes)):
            # Relative errors are nearly errors of the logarithm, and linear in the amplitudes.
            design = (self.relative(np.array(guess)) / loss).T
            amplitudes, error = nnls(design, np.ones_like(loss))
            found.append((float(error), guess, amplitudes))
        found.sort(key=lambda entry: entry[:2])
        return [np.concatenate([amps, guess]) for _, guess, amps in found[:STARTS]]

    def refine(
        self, start: Array, target: Array, delta: float, loss: str = "huber", tight: float = TIGHT
    ) -> tuple[float, Array]:
        """The nearest minimum, and its cost: the sum of `loss` over log losses `target`."""
        width = np.where(np.isfinite(self.high), self.high - self.low, 1.0)
        found = least_squares(
            lambda at: self.log_loss(at) - target,
            np.clip(start, self.low + INSIDE * width, self.high - INSIDE * width),
            jac=self.jacobian,
            bounds=(self.low, self.high),
            loss=loss,
            f_scale=delta,
            x_scale="jac",
            method="dogbox",  # it reaches bounds, which a floor of nothing is
            ftol=tight,
            xtol=tight,
            gtol=tight,
        )
        return float(found.cost), np.asarray(found.x)

    def constants(self, at: Array) -> dict[str, float]:
        """Coordinates as the law writes its constants."""
        shapes = at[self.terms :]
        peaks = self.law.log_terms(shapes, self.points.inputs).max(axis=1)
        values = [*(at[: self.terms] * np.exp(-peaks)), *shapes]
        return {n: float(v) for n, v in zip(self.law.constants, values, strict=True)}

    def coordinates(self, constants: Mapping[str, float]) -> Array:
        """The other way round."""
        shapes = np.array([constants[shape.name] for shape in self.law.shapes])
        peaks = self.law.log_terms(shapes, self.points.inputs).max(axis=1)
        amplitudes = np.array([constants[name] for name in self.law.amplitudes])
        return np.concatenate([amplitudes * np.exp(peaks), shapes])


def fit(law: Law, points: Points) -> Fit:
    """The constants whose log loss is nearest to the points' in Huber's sense.

    Shapes come from a grid with the best amplitudes for each, and the best few are refined; so
    nothing is random, and there is no start to choose.

    Raises:
        InputError: If the points cannot fix the constants (laws/checks.py).
    """
    check_points(law, points)
    problem = Problem(law, points)
    target = np.log(points.loss)
    # A loss that is smooth and robust from the start, to learn how large the noise is.
    near = [problem.refine(at, target, DELTA, "soft_l1", LOOSE) for at in problem.starts()]
    near.sort(key=lambda found: found[0])
    residuals = target - problem.log_loss(near[0][1])
    delta = max(DELTA, EFFICIENT * spread(residuals, len(law.constants)))
    last = [problem.refine(at, target, delta) for _, at in near[:FINISHERS]]
    best = min(last, key=lambda found: found[0])[1]
    jacobian = problem.jacobian(best)
    check_fit(law, points, best[: problem.terms], jacobian)
    fitted = np.exp(problem.log_loss(best))
    return Fit(law, points, problem.constants(best), fitted, delta, jacobian)


def spread(residuals: Array, constants: int) -> float:
    """Standard deviation of normal noise with such a median, the fitted constants allowed for."""
    free = len(residuals) - constants
    return float(MAD * np.median(np.abs(residuals)) * np.sqrt(len(residuals) / free))


def huber(residuals: Array, delta: float) -> Array:
    """r^2 / 2 up to delta, then delta (|r| - delta / 2)."""
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
