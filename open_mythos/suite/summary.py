"""Cells of one task and design taken together: mean, least and most over their seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from open_mythos.eval.loop_curve import DepthMap
from open_mythos.suite.beyond import Beyond, beyond, most_lost
from open_mythos.suite.cell import CellResult
from open_mythos.suite.plan import Cell
from open_mythos.suite.verdict import Kind, Trained, Verdict, judge, own_loops


@dataclass(frozen=True)
class Spread:
    """A number over seeds."""

    mean: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of some numbers, at least one."""
        return cls(sum(values) / len(values), min(values), max(values))

    def __str__(self) -> str:
        """The mean, and in brackets from where to where, unless that is nowhere."""
        alone = f"{self.least:.3f}" == f"{self.most:.3f}"
        return f"{self.mean:.3f}" + ("" if alone else f" ({self.least:.3f} to {self.most:.3f})")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A design on a task.

    Attributes:
        problem: The task.
        design: The design.
        trained: What it was trained on.
        verdicts: By seed.
        own: Difficulty -> accuracy, with loops of its own or the most asked.
        map: Mean over seeds.
        at: Loops -> accuracy at the hardest trained difficulty.
        beyond: What each seed answers beyond its training.
    """

    problem: str
    design: str
    trained: Trained
    verdicts: Mapping[int, Verdict]
    own: Mapping[int, Spread]
    map: DepthMap
    at: Mapping[int, Spread]
    beyond: tuple[Beyond, ...]

    @property
    def kinds(self) -> dict[Kind, int]:
        """How many seeds came to each verdict, the commonest first."""
        found = [verdict.kind for verdict in self.verdicts.values()]
        return {kind: found.count(kind) for kind in sorted(set(found), key=found.count)[::-1]}

    @property
    def reach(self) -> tuple[int, int]:
        """The hardest difficulty solved, in the worst and the best seed."""
        reached = [verdict.reach for verdict in self.verdicts.values()]
        return min(reached), max(reached)

    @property
    def over_chance(self) -> dict[int, Spread]:
        """Times the trained difficulty -> accuracy there as a share of what is to gain."""
        factors = self.beyond[0].over_chance
        return {f: Spread.of([one.over_chance[f] for one in self.beyond]) for f in factors}

    @property
    def lost(self) -> float | None:
        """What the worst seed loses by four times the loops that a problem needs."""
        return most_lost(self.beyond)

    def to_json(self) -> dict[str, Any]:
        """The numbers without the maps, which the cells have."""
        return {
            "task": self.problem,
            "design": self.design,
            "kinds": self.kinds,
            "solved_up_to": {"least": self.reach[0], "most": self.reach[1]},
            "over_chance": {f"{f}x": asdict(spread) for f, spread in self.over_chance.items()},
            "lost_by_looping_on": self.lost,
            "accuracy": {d: asdict(spread) for d, spread in self.own.items()},
        }


def summarise(results: Sequence[tuple[Cell, CellResult]]) -> list[Summary]:
    """A summary for each task and design that has a result, in the order of the cells."""
    groups: dict[tuple[str, str], list[tuple[Cell, CellResult]]] = {}
    for cell, result in results:
        groups.setdefault((cell.problem, cell.design), []).append((cell, result))
    return [_summary(group) for group in groups.values()]


def _summary(group: Sequence[tuple[Cell, CellResult]]) -> Summary:
    first = group[0][0]
    trained = first.trained
    maps = [result.map for _, result in group]
    own = [dict(own_loops(found, trained)) for found in maps]
    loops = maps[0].loops
    return Summary(
        problem=first.problem,
        design=first.design,
        trained=trained,
        verdicts={cell.seed: judge(result.map, trained) for cell, result in group},
        own={d: Spread.of([points[d] for points in own]) for d in own[0]},
        map=mean_map(maps),
        at={n: Spread.of([found.at(trained.difficulty, n) for found in maps]) for n in loops},
        beyond=tuple(beyond(found, trained) for found in maps),
    )


def mean_map(maps: Sequence[DepthMap]) -> DepthMap:
    """The mean of maps of one shape."""
    first = maps[0]
    rows = zip(*(found.accuracy for found in maps), strict=True)
    cells = tuple(
        tuple(sum(values) / len(values) for values in zip(*row, strict=True)) for row in rows
    )
    total = sum(found.n for found in maps)
    return DepthMap(first.name, first.difficulties, first.loops, cells, total)
