"""DyckNesting: brackets of several kinds, asked which one is still open."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.split import Flags, Ids
from open_mythos.data.tasks.task import Examples, GeneratedTask, check_settings


# How likely a bracket opens before the depth is reached that the row is about; afterwards one half.
CLIMB = 0.6


@dataclass(frozen=True, kw_only=True)
class DyckNesting(GeneratedTask):
    """Beginnings of well-formed bracket strings; after a closing bracket, what has to close next.

    Difficulty d: brackets nest d + 1 deep, and every row gets there. After an opening bracket the
    next to close is that one, which needs no stack, and after the last open one nothing is; the
    other positions behind a closing bracket are scored, each on the closing bracket of the
    innermost open pair, which may have been opened long ago, at depth 1 .. d (no shift). That is
    the valid next token of Dyck-k with bounded depth (Hewitt et al. 2020, Yao et al. 2021).

    Ids, with k kinds: i opens kind i, k + i closes it.

    Attributes:
        kinds: k.
        length: Brackets of a row, at least; 8 for each level of nesting, where that is more.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        max_level: Hardest d in training.
        loops_per_level: Loops granted per level of nesting while training; 0: the depth sampler
            decides.
    """

    unit: ClassVar[str] = "depth"

    kinds: int = 4
    length: int = 48
    batch_size: int = 64
    seed: int = 0
    max_level: int = 6
    loops_per_level: int = 0

    def __post_init__(self) -> None:
        check_settings(self, kinds=2, length=8, loops_per_level=0)

    @property
    def vocab_size(self) -> int:
        """Opening and closing brackets."""
        return 2 * self.kinds

    @property
    def words(self) -> tuple[str, ...]:
        """Brackets, as far as there are any; then `5(` and `5)`."""
        more = range(4, self.kinds)
        opening = [*"([{<", *(f"{kind}(" for kind in more)]
        closing = [*")]}>", *(f"{kind})" for kind in more)]
        return (*opening[: self.kinds], *closing[: self.kinds])

    def row_length(self, difficulty: int) -> int:
        """`length`, or eight brackets for each level of nesting."""
        return max(self.length, 8 * (difficulty + 1))

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in k: kinds are uniform and independent."""
        return 1.0 / self.kinds

    def instances(self, difficulty: int) -> int:
        """At least the kinds of the opening brackets, which are half of a row or more."""
        return int(self.kinds ** (self.row_length(difficulty) // 2))

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Bracket strings, and the innermost open kind behind their closing brackets."""
        length = self.row_length(difficulty)
        opens = _walk(draw.random((count, length)), difficulty + 1)
        kinds = draw.integers(self.kinds, size=(count, length))
        ids, targets = np.empty_like(kinds), np.full_like(kinds, IGNORE)
        stack: Ids = np.zeros((count, difficulty + 2), dtype=np.int64)
        depth = np.zeros(count, dtype=np.int64)
        rows = np.arange(count)
        for at in range(length):
            up = opens[:, at]
            ids[:, at] = np.where(up, kinds[:, at], stack[rows, depth] + self.kinds)
            depth += np.where(up, 1, -1)
            # Under a closing bracket what is left on top is what was there before the pair.
            stack[rows[up], depth[up]] = kinds[up, at]
            scored = ~up & (depth > 0)
            targets[scored, at] = stack[rows, depth][scored] + self.kinds
        return Examples(ids, targets, key=ids)


def _walk(chances: np.ndarray[tuple[int, ...], np.dtype[np.float64]], top: int) -> Flags:
    """Whether each bracket opens: a walk between 0 and `top` that touches `top` in every row."""
    count, length = chances.shape
    opens = np.empty((count, length), dtype=np.bool_)
    depth = np.zeros(count, dtype=np.int64)
    reached = np.zeros(count, dtype=np.bool_)
    for at in range(length):
        # One more step down, and the rest of the row would not reach the top.
        late = ~reached & (length - at - 1 <= top - depth)
        likely = chances[:, at] < np.where(reached, 0.5, CLIMB)
        opens[:, at] = (depth == 0) | (depth < top) & (late | likely)
        depth += np.where(opens[:, at], 1, -1)
        reached |= depth == top
    return opens
