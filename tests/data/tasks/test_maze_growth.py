"""Mazes against a search, breadth first, that knows only the open passages."""

from collections import deque

import numpy as np
import pytest

from open_mythos.data.tasks.maze_growth import MOVES, grid, grow


def distances(open_ways: dict[int, set[int]], start: int) -> dict[int, int]:
    """Steps from a cell to every cell that can be reached."""
    found, ahead = {start: 0}, deque([start])
    while ahead:
        here = ahead.popleft()
        for there in open_ways[here] - found.keys():
            found[there] = found[here] + 1
            ahead.append(there)
    return found


def ways(side: int, passages: list[int]) -> dict[int, set[int]]:
    """Which cells lie beside which, from the passages alone."""
    ends = grid(side).ends
    found: dict[int, set[int]] = {cell: set() for cell in range(side * side)}
    for a, b in ends[passages].tolist():
        found[a].add(b)
        found[b].add(a)
    return found


@pytest.mark.parametrize("side", [2, 3, 4, 7])
def test_a_grid_has_a_passage_between_all_neighbours_and_no_others(side: int) -> None:
    plan = grid(side)
    beside = {
        frozenset((a, b))
        for a in range(side**2)
        for b in range(side**2)
        if abs(a // side - b // side) + abs(a % side - b % side) == 1
    }
    assert {frozenset(pair) for pair in plan.ends.tolist()} == beside
    assert len(plan.ends) == 2 * side * (side - 1)
    for cell in range(side**2):
        for direction, (down, right) in enumerate(MOVES):
            row, column = cell // side + down, cell % side + right
            inside = 0 <= row < side and 0 <= column < side
            assert plan.neighbour[cell, direction] == (row * side + column if inside else -1)
            if inside:
                number = plan.passage[cell, direction]
                assert set(plan.ends[number].tolist()) == {cell, row * side + column}
            else:
                assert plan.passage[cell, direction] == -1


@pytest.mark.parametrize("side", [2, 3, 5])
def test_ways_are_as_long_as_a_search_finds_them_and_begin_where_they_should(side: int) -> None:
    mazes = grow(np.random.default_rng(), side, 6)
    plan = grid(side)
    for maze in range(6):
        passages = mazes.passages[maze].tolist()
        assert len(set(passages)) == side**2 - 1
        beside = ways(side, passages)
        for a in range(side**2):
            found = distances(beside, a)
            assert found == dict(enumerate(mazes.steps[maze, a].tolist()))
            for b in set(range(side**2)) - {a}:
                towards = int(plan.neighbour[a, mazes.first[maze, a, b]])
                assert towards in beside[a]
                assert distances(beside, towards)[b] == found[b] - 1
        for number, child, parent in zip(
            passages, mazes.child[maze].tolist(), mazes.parent[maze].tolist(), strict=True
        ):
            assert set(plan.ends[number].tolist()) == {child, parent}


def test_no_direction_is_preferred() -> None:
    mazes = grow(np.random.default_rng(0), 4, 4000)
    counts = np.bincount(mazes.passages.ravel(), minlength=24) / 4000
    assert counts.sum() == pytest.approx(15)
    # A quarter turn, or a mirror, makes a corner's passage another corner's: eight of a kind.
    ends = grid(4).ends
    corner = [n for n, (a, b) in enumerate(ends.tolist()) if {a, b} & {0, 3, 12, 15}]
    assert len(corner) == 8
    # Deviation 0.008 at most: five of them.
    assert np.ptp(counts[corner]) < 0.056
