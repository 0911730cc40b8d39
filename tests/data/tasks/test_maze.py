"""Questions about mazes against a search over the passages that a row shows."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.streams import Purpose, stream
from open_mythos.data.tasks.maze import Ask, MazePath
from open_mythos.data.tasks.maze_growth import MOVES, grid
from open_mythos.errors import InputError


def search(side: int, passages: list[int], start: int) -> dict[int, int]:
    """Steps to every cell that the shown passages lead to, found by flooding."""
    ends = grid(side).ends.tolist()
    found, steps = {start: 0}, 0
    while True:
        steps += 1
        new = set()
        for number in passages:
            for a, b in (ends[number], ends[number][::-1]):
                if a in found and b not in found:
                    new.add(b)
        if not new:
            return found
        found.update(dict.fromkeys(new, steps))


def read(task: MazePath, row: list[int], wanted: list[int]) -> tuple[list[int], list[list[int]]]:
    """The passages shown, and (start, goal, answer) of every question."""
    shown = len(row) - 2 * task.queries
    assert wanted[: shown + 1] == [IGNORE] * (shown + 1)
    assert set(wanted[shown::2]) == {IGNORE}
    cells = [token - task.cell_offset for token in row[shown:]]
    answers = [token - task.answer_offset for token in wanted[shown + 1 :: 2]]
    return row[:shown], [list(q) for q in zip(cells[::2], cells[1::2], answers, strict=True)]


@settings(max_examples=25, deadline=None)
@given(side=st.integers(3, 6), seed=st.integers(0, 2**40), data=st.data())
def test_the_first_step_brings_the_goal_one_step_nearer(
    side: int, seed: int, data: st.DataObject
) -> None:
    task = MazePath(side=side, ask="step", queries=6, batch_size=2, max_level=1)
    steps = data.draw(st.integers(1, side * side // 2))
    batch = task.evaluation_batch(steps, seed)
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        passages, asked = read(task, row, wanted)
        assert len(set(passages)) == side**2 - 1
        for start, goal, direction in asked:
            from_goal = search(side, passages, goal)
            assert from_goal[start] == steps
            down, right = MOVES[direction]
            assert from_goal[start + down * side + right] == steps - 1
            assert list(search(side, passages, start).values()).count(1) >= 2


@settings(max_examples=25, deadline=None)
@given(side=st.integers(3, 6), seed=st.integers(0, 2**40), data=st.data())
def test_goals_are_reached_unless_the_wall_is_on_the_way(
    side: int, seed: int, data: st.DataObject
) -> None:
    task = MazePath(side=side, queries=6, batch_size=2, max_level=1)
    steps = data.draw(st.integers(1, side * side // 2))
    batch = task.evaluation_batch(steps, seed)
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        passages, asked = read(task, row, wanted)
        assert len(set(passages)) == side**2 - 2
        places = range(len(grid(side).ends))
        for start, goal, reached in asked:
            found = search(side, passages, start)
            assert (goal in found) == reached
            if reached:
                assert found[goal] == steps
            else:
                # With some passage put back, the way is as long as it should be.
                again = (search(side, [*passages, more], start) for more in places)
                assert any(len(a) == side**2 and a[goal] == steps for a in again)


def test_questions_differ_and_answers_are_even() -> None:
    task = MazePath(side=5, queries=16, batch_size=64)
    batch = task.evaluation_batch(5)
    answers: Counter[int] = Counter()
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        _, asked = read(task, row, wanted)
        assert len({(start, goal) for start, goal, _ in asked}) > 3
        answers.update(answer for _, _, answer in asked)
    # 1024 coins: deviation 16.
    assert abs(answers[0] - 512) < 80


@pytest.mark.parametrize("ask", ["step", "reach"])
def test_no_maze_is_in_training_and_evaluation(ask: Ask) -> None:
    task = MazePath(side=4, queries=1, batch_size=250, ask=ask, max_level=2)
    shown = task.row_length(1) - 2

    def mazes(rows: list[list[int]]) -> set[tuple[int, ...]]:
        return {tuple(sorted(row[:shown])) for row in rows}

    trained = mazes([row for s in range(24) for row in task.batch(s).ids.tolist()])
    asked = mazes(task.evaluation_batch(1).ids.tolist())
    assert not trained & asked
    # Without the split some would be: the same number of mazes, drawn from one stream.
    drawn = task.examples(stream(0, Purpose.TRAINING), 1, 6250).key
    assert len(np.unique(drawn, axis=0)) < 6250


@pytest.mark.parametrize("side", [3, 4, 5])
def test_the_longest_way_offered_comes_up(side: int) -> None:
    task = MazePath(side=side, queries=2, batch_size=8, max_level=1)
    assert task.max_difficulty is not None
    assert task.evaluation_batch(task.max_difficulty).scored == 16
    with pytest.raises(InputError, match="steps is 99; this task ends at"):
        task.evaluation_batch(99)


def test_trees_of_a_grid_are_counted() -> None:
    counted = [MazePath(side=side, max_level=1).instances(1) for side in (3, 4)]
    # Spanning trees of the 3 x 3 and 4 x 4 grid graph (OEIS A007341).
    assert counted == pytest.approx([192, 100352], abs=1)
    assert not MazePath(side=3, max_level=1).splits(1)
