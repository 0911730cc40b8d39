"""What a heat map says of a design, in one word and a few numbers: a pure function of the map.

Accuracies are compared as shares of what there is to gain: 0 is the floor, 1 is right throughout.
The floor is chance. Where the loops say the difficulty it is, beyond the training, what stopping at
the trained loops would answer, if that is more: f^64 and f^8 of a random map often agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from open_mythos.eval.loop_curve import DepthMap


Kind = Literal["gains", "plateau", "V", "collapse", "chance"]

MEANINGS: dict[Kind, str] = {
    "gains": "more loops than in training solve harder problems than in training",
    "plateau": "more loops than in training change nothing much",
    "V": "accuracy rises with loops, then falls",
    "collapse": "more loops than in training lose what was learnt",
    "chance": "what was trained was not learnt",
}

# From here on a difficulty counts as solved, as in the demo.
SOLVED = 0.95
# Five standard errors of a cell of 2,500 answers: what less is may be chance.
CLEAR = 0.05
# Below this share of what there is to gain nothing was learnt; what falls to less than this share
# of its best has collapsed.
LITTLE, LEFT = 0.1, 0.25
# Harder by this factor at least, for a difficulty solved beyond the training to be a gain.
HARDER = 1.3


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a model was trained on, and what its map is to be read by.

    Attributes:
        difficulty: The hardest in training.
        loops: The most loops in training.
        per_level: Loops that a row is granted for each unit of difficulty, which then is said by
            them alone; 0 where the row says it.
        chance: Difficulty -> accuracy without reading the row.
    """

    difficulty: int
    loops: int
    per_level: int
    chance: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of more loops.

    Attributes:
        kind: See MEANINGS.
        trained: Accuracy at the hardest trained difficulty: with its own loops, or with the best
            number up to the trained one.
        reach: The hardest difficulty up to which all that were asked are solved: with loops of
            their own, or with any number; 0 for none.
        gain: The most that a difficulty beyond the training rose by loops beyond the training.
        fall: What accuracy lost from its best to the most loops, as a share of what is to gain: on
            the mean of difficulties from the trained one on, or on that alone, if it lost more.
        hardest: The hardest difficulty asked.
        far: Accuracy there, with its own loops or the most.
    """

    kind: Kind
    trained: float
    reach: int
    gain: float
    fall: float
    hardest: int
    far: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge(found: DepthMap, trained: Trained) -> Verdict:
    """The verdict on a map; needs the trained difficulty among its rows.

    Raises:
        InputError: If the map lacks a cell that the verdict goes by.
    """
    return _tied(found, trained) if trained.per_level else _free(found, trained)


def own_loops(found: DepthMap, trained: Trained) -> list[tuple[int, float]]:
    """Difficulty and accuracy: with the loops that each is granted, or with the most asked."""
    if not trained.per_level:
        most = found.loops[-1]
        return [(d, found.at(d, most)) for d in found.difficulties]
    granted = ((d, d * trained.per_level) for d in found.difficulties)
    return [(d, found.at(d, n)) for d, n in granted if n in found.loops]


def reach_of(points: Sequence[tuple[int, float]]) -> int:
    """The hardest difficulty up to which every one is solved."""
    reached = 0
    for difficulty, accuracy in points:
        if accuracy < SOLVED:
            break
        reached = difficulty
    return reached


def share(accuracy: float, floor: float) -> float:
    """Accuracy as a share of what there is to gain over a floor; what is below it counts as 0."""
    return max(0.0, (accuracy - floor) / max(1.0 - floor, 1e-9))


def _tied(found: DepthMap, trained: Trained) -> Verdict:
    """Loops say the difficulty: the map is read along the diagonal."""
    points = own_loops(found, trained)
    stop = trained.difficulty * trained.per_level

    def above(difficulty: int, accuracy: float) -> float:
        floor = trained.chance[difficulty]
        if difficulty > trained.difficulty:
            floor = max(floor, found.at(difficulty, stop))
        return share(accuracy, floor)

    curve = {d: above(d, a) for d, a in points}
    best, end = max(curve.values()), list(curve.values())[-1]
    reach = reach_of(points)
    fall = best - end
    if curve[trained.difficulty] < LITTLE:
        kind: Kind = "chance"
    elif reach >= HARDER * trained.difficulty:
        kind = "gains"
    elif fall <= CLEAR:
        kind = "plateau"
    else:
        kind = "collapse" if end < LEFT * best else "V"
    beyond = [a - found.at(d, stop) for d, a in points if d > trained.difficulty]
    return Verdict(
        kind=kind,
        trained=dict(points)[trained.difficulty],
        reach=reach,
        gain=max(beyond, default=0.0),
        fall=fall,
        hardest=points[-1][0],
        far=points[-1][1],
    )


def _free(found: DepthMap, trained: Trained) -> Verdict:
    """The row says the difficulty: the map is read row by row, from the hardest trained on."""
    within = [n for n in found.loops if n <= trained.loops]
    beyond = [n for n in found.loops if n > trained.loops]
    rows = [d for d in found.difficulties if d >= trained.difficulty]

    def mean(n_loops: int) -> float:
        shares = [share(found.at(d, n_loops), trained.chance[d]) for d in rows]
        return sum(shares) / len(shares)

    curve = {n: mean(n) for n in found.loops}
    best, end = max(curve.values()), curve[found.loops[-1]]
    own = max(found.at(trained.difficulty, n) for n in within)
    gains = [
        max(found.at(d, n) for n in beyond) - max(found.at(d, n) for n in within)
        for d in rows[1:]
        if beyond
    ]
    of_trained = [share(found.at(rows[0], n), trained.chance[rows[0]]) for n in found.loops]
    gain = max(gains, default=0.0)
    fall = max(best - end, max(of_trained) - of_trained[-1])
    if share(own, trained.chance[trained.difficulty]) < LITTLE:
        kind: Kind = "chance"
    elif end < LEFT * best:
        kind = "collapse"
    elif fall > CLEAR:
        kind = "V"
    else:
        kind = "gains" if gain >= CLEAR else "plateau"
    return Verdict(
        kind=kind,
        trained=own,
        reach=reach_of([(d, max(found.at(d, n) for n in found.loops)) for d in found.difficulties]),
        gain=gain,
        fall=fall,
        hardest=found.difficulties[-1],
        far=found.at(found.difficulties[-1], found.loops[-1]),
    )
