"""How far beyond its training a model answers, over chance, and what it loses by looping on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from open_mythos.eval.loop_curve import DepthMap
from open_mythos.suite.verdict import SOLVED, Trained, own_loops, share


# Times the hardest trained difficulty; and times the loops that a problem needs.
FACTORS, ON = (2, 4), 4
# A row needs the fewest loops that come to within a point of its best.
WITHIN = 0.01


@dataclass(frozen=True)
class Beyond:
    """What a map says of difficulties that no training had.

    Attributes:
        over_chance: Factor -> accuracy at so many times the trained difficulty, as a share of what
            there is to gain over chance; with loops of its own, or the most asked.
        needed: Difficulty -> loops that it needs, of those solved from the trained one on.
        lost: The most accuracy that one of them loses from those loops to four times as many; None
            where loops are told, or none is asked with so many.
    """

    over_chance: dict[int, float]
    needed: dict[int, int]
    lost: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def beyond(found: DepthMap, trained: Trained) -> Beyond:
    """Read a map so."""
    own = dict(own_loops(found, trained))
    asked = {factor: factor * trained.difficulty for factor in FACTORS}
    over = {f: share(own[d], trained.chance[d]) for f, d in asked.items() if d in own}
    if trained.per_level:
        return Beyond(over, {}, None)
    hard = [d for d in found.difficulties if d >= trained.difficulty]
    needed = {d: n for d in hard if (n := needed_loops(found, d))}
    losses = [
        found.at(d, n) - found.at(d, ON * n) for d, n in needed.items() if ON * n in found.loops
    ]
    return Beyond(over, needed, max(0.0, *losses) if losses else None)


def needed_loops(found: DepthMap, difficulty: int) -> int:
    """The fewest loops asked that come to within a point of the row's best; 0 if none solves it."""
    best = max(found.at(difficulty, n) for n in found.loops)
    if best < SOLVED:
        return 0
    return next(n for n in found.loops if found.at(difficulty, n) >= best - WITHIN)


def most_lost(seeds: Sequence[Beyond]) -> float | None:
    """What the worst of several seeds loses; None where none says."""
    return max((one.lost for one in seeds if one.lost is not None), default=None)
