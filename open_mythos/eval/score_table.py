"""ScoreTable: scores of tasks against loops, by whoever scored them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class ScoreTable:
    """Task -> metric -> loops -> value.

    Attributes:
        scores: The values.
    """

    scores: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)

    def note(self, task: str, n_loops: int, values: Mapping[str, float]) -> None:
        """Keep what a task scored at a number of loops."""
        for metric, value in values.items():
            self.scores.setdefault(task, {}).setdefault(metric, {})[n_loops] = float(value)

    @property
    def loops(self) -> list[int]:
        """Numbers of loops, ascending."""
        return sorted({n for by in self.scores.values() for of in by.values() for n in of})

    def rows(self) -> list[tuple[str, str, list[float | None]]]:
        """(task, metric, values by loops), in the order in which they were noted."""
        return [
            (task, metric, [of.get(n) for n in self.loops])
            for task, by in self.scores.items()
            for metric, of in by.items()
        ]

    def to_json(self) -> dict[str, dict[str, dict[str, float]]]:
        """Plain values, loops as strings."""
        return {
            task: {metric: {str(n): of[n] for n in sorted(of)} for metric, of in by.items()}
            for task, by in self.scores.items()
        }
