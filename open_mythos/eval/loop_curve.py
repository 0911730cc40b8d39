"""Score against loops: what another loop is worth, and the same by difficulty."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from open_mythos.data.tasks.task import Task
from open_mythos.errors import InputError
from open_mythos.eval.accuracy import BATCHES, accuracy
from open_mythos.eval.perplexity import Score
from open_mythos.train.records import finite


LoopEvaluator = Callable[[nn.Module, int], Score]


@dataclass(frozen=True)
class LoopPoint:
    """One point of a curve.

    Attributes:
        n_loops: Loops.
        loss: Nats per target.
        accuracy: Share of hits.
        n: Targets behind both.
    """

    n_loops: int
    loss: float
    accuracy: float
    n: int

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700.0 else math.inf


@dataclass(frozen=True)
class LoopCurve:
    """Score against loops.

    Attributes:
        name: What was scored.
        points: By loops, ascending.
    """

    name: str
    points: tuple[LoopPoint, ...]

    @property
    def best(self) -> LoopPoint:
        """The point of least loss; of several, the one with the fewest loops."""
        return min(self.points, key=lambda point: (point.loss, point.n_loops))

    def at(self, n_loops: int) -> LoopPoint:
        """The point at a number of loops.

        Raises:
            InputError: If the sweep did not visit it.
        """
        for point in self.points:
            if point.n_loops == n_loops:
                return point
        known = ", ".join(str(p.n_loops) for p in self.points)
        raise InputError(f"the curve has no point at {n_loops} loops; it has {known}")

    def to_json(self) -> dict[str, Any]:
        """Plain values; a loss that is not finite is None."""
        return {"name": self.name, "points": [finite(asdict(p)) for p in self.points]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LoopCurve":
        """The curve that `to_json` wrote."""
        points = [LoopPoint(**{**p, "loss": nan_of(p["loss"])}) for p in values["points"]]
        return cls(values["name"], tuple(points))


@dataclass(frozen=True)
class DepthMap:
    """Accuracy by difficulty and loops: the heat map of a task.

    Attributes:
        name: What was scored.
        difficulties: Rows, ascending (hops, bits).
        loops: Columns, ascending.
        accuracy: `accuracy[row][column]`.
        n: Targets behind each cell.
    """

    name: str
    difficulties: tuple[int, ...]
    loops: tuple[int, ...]
    accuracy: tuple[tuple[float, ...], ...]
    n: int

    def at(self, difficulty: int, n_loops: int) -> float:
        """One cell.

        Raises:
            InputError: If the sweep did not visit it.
        """
        if difficulty not in self.difficulties or n_loops not in self.loops:
            raise InputError(
                f"the map has no cell at difficulty {difficulty}, {n_loops} loops; it has "
                f"difficulties {self.difficulties} and loops {self.loops}"
            )
        row = self.accuracy[self.difficulties.index(difficulty)]
        return row[self.loops.index(n_loops)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DepthMap":
        """The map that `to_json` wrote."""
        return cls(
            name=values["name"],
            difficulties=tuple(values["difficulties"]),
            loops=tuple(values["loops"]),
            accuracy=tuple(tuple(row) for row in values["accuracy"]),
            n=values["n"],
        )


def sweep(
    model: nn.Module, loops: Iterable[int], evaluator: LoopEvaluator, name: str = ""
) -> LoopCurve:
    """Score a model at several numbers of loops.

    Args:
        model: The network.
        loops: Numbers of loops, in any order; each is run once.
        evaluator: (model, n_loops) -> Score, on the same targets each time.
        name: What is scored, for whoever reads the curve.

    Raises:
        InputError: If no number is given, or one is below 1.
    """
    points = []
    for n_loops in check_loops(loops):
        result = evaluator(model, n_loops)
        points.append(LoopPoint(n_loops, result.loss, result.accuracy, result.n_targets))
    return LoopCurve(name, tuple(points))


def depth_map(
    model: nn.Module,
    task: Task,
    difficulties: Sequence[int],
    loops: Iterable[int],
    *,
    batches: int = BATCHES,
    name: str = "",
) -> DepthMap:
    """Accuracy of a model at every difficulty with every number of loops.

    Every cell of a row is scored on the same held-out batches, so differences along it are the
    loops' doing.

    Raises:
        InputError: If there is no difficulty or no number of loops, or one is below 1.
    """
    rows, columns = check_loops(difficulties, "difficulty"), check_loops(loops)
    scores = [[accuracy(model, task, d, n, batches=batches) for n in columns] for d in rows]
    cells = tuple(tuple(s.accuracy for s in row) for row in scores)
    return DepthMap(name, rows, columns, cells, scores[0][0].n_targets)


def check_loops(loops: Iterable[int], what: str = "n_loops") -> tuple[int, ...]:
    """Distinct whole numbers of at least 1, ascending.

    Raises:
        InputError: If there is none, or one is something else.
    """
    numbers = list(loops)
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise InputError(f"{what} is {number!r}; it must be an int of at least 1")
    if not numbers:
        raise InputError(f"no {what} is given; a sweep needs at least one")
    return tuple(sorted(set(numbers)))


def nan_of(value: float | None) -> float:
    """A number read back from JSON; None, which stood for a non-finite one, is NaN."""
    return math.nan if value is None else float(value)
