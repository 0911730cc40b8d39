"""MazePath: a maze with one way between any two cells, asked about ways of a given length."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.maze_growth import Mazes, grid, grow
from open_mythos.data.tasks.split import Flags, Ids
from open_mythos.data.tasks.task import Examples, GeneratedTask, check_settings, numbered


Ask = Literal["step", "reach"]


@dataclass(frozen=True, kw_only=True)
class MazePath(GeneratedTask):
    """A fresh maze on a grid of n x n cells, and pairs of cells that are d steps apart in it.

    A row shows the passages, one token each, shuffled, and then for each question its start and its
    goal; the goal's position is scored (no shift).
        "step": the direction of the first step from start to goal. Starts have at least two ways
            out, so that one look at the start leaves half of the answer open; more than one look
            at both coordinates, at most distances, says more.
        "reach": one passage of the maze is walled up; is the goal still reached? Half of the
            questions have that wall on their way, wherever on it, so that nothing less than the
            whole way tells.

    Ids, with P = 2 n (n - 1) places for a passage and N = n * n cells: the passages, P + c for cell
    c, then the answers: right, down, left, up, or no, yes.

    Attributes:
        side: n.
        ask: See above.
        queries: Questions of a row, all about one maze.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        max_level: Longest way in training, in steps.
        loops_per_level: Loops granted per step while training; 0: the depth sampler decides.
    """

    unit: ClassVar[str] = "steps"

    side: int = 5
    ask: Ask = "reach"
    queries: int = 16
    batch_size: int = 64
    seed: int = 0
    max_level: int = 6
    loops_per_level: int = 0

    def __post_init__(self) -> None:
        check_settings(self, side=3, loops_per_level=0)
        self.require(self.max_level)

    @property
    def vocab_size(self) -> int:
        """Passages, cells, answers."""
        return self.answer_offset + (4 if self.ask == "step" else 2)

    @property
    def cell_offset(self) -> int:
        """Id of cell 0."""
        return 2 * self.side * (self.side - 1)

    @property
    def answer_offset(self) -> int:
        """Id of the first answer."""
        return self.cell_offset + self.side**2

    @property
    def words(self) -> tuple[str, ...]:
        """Passages as `3-4`, between cells; cells by number, row by row; answers."""
        passages = tuple(f"{a}-{b}" for a, b in grid(self.side).ends.tolist())
        answers = ("right", "down", "left", "up") if self.ask == "step" else ("no", "yes")
        return passages + numbered(self.side**2) + answers

    @property
    def max_difficulty(self) -> int | None:
        """Two thirds of the cells: at least every fifth maze has a way as long as that."""
        return 2 * self.side**2 // 3

    def row_length(self, difficulty: int) -> int:  # noqa: ARG002 -- the same for all
        """Passages, one less than cells (or two), and two positions for each question."""
        return self.side**2 - (1 if self.ask == "step" else 2) + 2 * self.queries

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in four directions, or in two answers."""
        return 0.25 if self.ask == "step" else 0.5

    def instances(self, difficulty: int) -> int:  # noqa: ARG002 -- the same for all
        """Spanning trees of the grid, by Kirchhoff's theorem; walled up they are no fewer."""
        ends = grid(self.side).ends
        laplacian = np.zeros((self.side**2, self.side**2))
        for a, b in ends:
            laplacian[[a, b], [a, b]] += 1
            laplacian[[a, b], [b, a]] -= 1
        return int(min(np.linalg.det(laplacian[1:, 1:]), 2.0**62))

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Mazes with questions about ways of one length; the split goes by the passages shown."""
        mazes = grow(draw, self.side, count)
        apart = mazes.steps == difficulty
        asked = self._step if self.ask == "step" else self._reach
        return asked(draw, mazes, apart)

    def _step(self, draw: np.random.Generator, mazes: Mazes, apart: Flags) -> Examples:
        """Which way to set out."""
        ways_out = (mazes.steps == 1).sum(axis=2)
        pairs, valid = _pick(draw, apart & (ways_out >= 2)[:, :, None], self.queries)
        count = len(pairs)
        first = mazes.first.reshape(count, -1)
        answers = np.take_along_axis(first, pairs, axis=1).astype(np.int64)
        return self._written(draw, mazes.passages, pairs, answers)._replace(valid=valid)

    def _reach(self, draw: np.random.Generator, mazes: Mazes, apart: Flags) -> Examples:
        """Whether the goal is reached, with one passage walled up."""
        rows = np.arange(len(apart))
        walled = draw.integers(self.side**2 - 1, size=len(apart))
        child, parent = mazes.child[rows, walled], mazes.parent[rows, walled]
        # The wall parts the cells that are nearer to its one side from those nearer to the other.
        beyond = mazes.steps[rows, child] < mazes.steps[rows, parent]
        cut = beyond[:, :, None] != beyond[:, None, :]
        whole, some_whole = _pick(draw, apart & ~cut, self.queries)
        broken, some_broken = _pick(draw, apart & cut, self.queries)
        answers = draw.integers(2, size=whole.shape)
        pairs = np.where(answers == 1, whole, broken)
        left = np.arange(self.side**2 - 1) != walled[:, None]
        shown = mazes.passages[left].reshape(len(apart), -1)
        made = self._written(draw, shown, pairs, answers)
        return made._replace(valid=some_whole & some_broken)

    def _written(self, draw: np.random.Generator, shown: Ids, pairs: Ids, answers: Ids) -> Examples:
        """The tokens of a row: pairs are numbered start * N + goal."""
        questions = np.stack(np.divmod(pairs, self.side**2), axis=-1) + self.cell_offset
        wanted = np.full_like(questions, IGNORE)
        wanted[:, :, 1] = answers + self.answer_offset
        count = len(shown)
        shown = draw.permuted(shown, axis=1)
        key = np.zeros((count, self.cell_offset), dtype=np.int64)
        np.put_along_axis(key, shown, 1, axis=1)
        return Examples(
            ids=np.concatenate([shown, questions.reshape(count, -1)], axis=1),
            targets=np.concatenate(
                [np.full_like(shown, IGNORE), wanted.reshape(count, -1)], axis=1
            ),
            key=key,
        )


def _pick(draw: np.random.Generator, wanted: Flags, size: int) -> tuple[Ids, Flags]:
    """`size` of the flagged pairs of each maze, drawn with replacement, and whether there is one.

    wanted is (count, N, N); a pair is its number in the flattened (N, N). Where there is none, the
    numbers mean nothing.
    """
    flat = wanted.reshape(len(wanted), -1)
    counts = flat.sum(axis=1)
    rank = (draw.random((len(flat), size)) * counts[:, None]).astype(np.int64)
    # All flagged pairs of all mazes one after the other; a last one guards the mazes without.
    listed = np.append(np.flatnonzero(flat) % flat.shape[1], 0)
    start = np.cumsum(counts) - counts
    return listed[start[:, None] + rank], counts > 0
