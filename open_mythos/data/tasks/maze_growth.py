"""Growing many mazes at once, and the way between any two cells of each."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from open_mythos.data.tasks.split import Flags, Ids


# Right, down, left, up; the opposite of a direction is two further.
MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of an n x n grid, numbered row by row, and the places for a passage.

    Attributes:
        neighbour: (N, 4) the cell in each direction, -1 outside.
        passage: (N, 4) the number of the passage in each direction, -1 outside.
        ends: (P, 2) the two cells of each passage, the smaller first.
    """

    neighbour: Ids
    passage: Ids
    ends: Ids


@dataclass(frozen=True, eq=False)
class Mazes:
    """Mazes, `count` of them, in which exactly one way joins any two cells.

    Attributes:
        passages: (count, N - 1) numbers of the passages that are open, in the order of growth.
        child: (count, N - 1) the cell that each of them added.
        parent: (count, N - 1) the cell that it was added to.
        steps: (count, N, N) length of the way between two cells.
        first: (count, N, N) direction of the first step from one to the other; the diagonal
            means nothing.
    """

    passages: Ids
    child: Ids
    parent: Ids
    steps: npt.NDArray[np.int16]
    first: npt.NDArray[np.int8]


@cache
def grid(side: int) -> Grid:
    """The grid of side x side cells."""
    cells = side * side
    neighbour = np.full((cells, 4), -1)
    passage = np.full((cells, 4), -1)
    ends: list[tuple[int, int]] = []
    for cell in range(cells):
        row, column = divmod(cell, side)
        for direction, (down, right) in enumerate(MOVES):
            if 0 <= row + down < side and 0 <= column + right < side:
                other = cell + down * side + right
                neighbour[cell, direction] = other
                if other > cell:
                    passage[cell, direction] = passage[other, (direction + 2) % 4] = len(ends)
                    ends.append((cell, other))
    return Grid(neighbour, passage, np.array(ends))


def grow(draw: np.random.Generator, side: int, count: int) -> Mazes:
    """Mazes by random depth-first search, which winds: its ways are long and their forks few."""
    plan = grid(side)
    child, parent, direction = _visits(draw, plan, count)
    steps, first = _ways(child, parent, direction, side * side)
    return Mazes(plan.passage[parent, direction], child, parent, steps, first)


def _visits(draw: np.random.Generator, plan: Grid, count: int) -> tuple[Ids, Ids, Ids]:
    """A depth-first search in every row: new cell, from which cell, in which direction."""
    cells = len(plan.neighbour)
    rows = np.arange(count)
    # One more cell, never free, stands for what lies outside.
    free: Flags = np.ones((count, cells + 1), dtype=np.bool_)
    free[:, -1] = False
    stack = np.zeros((count, cells), dtype=np.int64)
    stack[:, 0] = draw.integers(cells, size=count)
    free[rows, stack[:, 0]] = False
    top, done = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    child, parent, direction = (np.zeros((count, cells - 1), dtype=np.int64) for _ in range(3))
    # A search enters each cell once and leaves each but the last one once, at most.
    for _ in range(2 * cells - 2):
        here = stack[rows, top]
        around = plan.neighbour[here]
        chosen = ((1.0 - draw.random((count, 4))) * free[rows[:, None], around]).argmax(axis=1)
        new = around[rows, chosen]
        moves = free[rows, new]
        r, n = rows[moves], new[moves]
        free[r, n] = False
        child[r, done[r]], parent[r, done[r]], direction[r, done[r]] = n, here[r], chosen[r]
        done[r] += 1
        top = np.where(moves, top + 1, np.maximum(top - 1, 0))
        stack[r, top[r]] = n
        if done.min() == cells - 1:
            break
    return child, parent, direction


def _ways(
    child: Ids, parent: Ids, direction: Ids, cells: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int8]]:
    """Lengths and first steps between all cells, extended by one cell of every maze at a time.

    A new cell is one further from everything than the cell it hangs on, and everything finds it
    where it finds that one. What is not there yet gets values too, and is overwritten later.
    """
    count = len(child)
    rows = np.arange(count)
    steps = np.zeros((count, cells, cells), dtype=np.int16)
    first = np.zeros((count, cells, cells), dtype=np.int8)
    for at in range(cells - 1):
        new, old, way = child[:, at], parent[:, at], direction[:, at]
        further = steps[rows, old] + np.int16(1)
        steps[rows, new] = further
        steps[rows, :, new] = further
        steps[rows, new, new] = 0
        first[rows, :, new] = first[rows, :, old]
        first[rows, new] = ((way + 2) % 4).astype(np.int8)[:, None]
        first[rows, old, new] = way
    return steps, first
