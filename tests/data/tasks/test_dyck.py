"""Bracket strings against a stack."""

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.dyck import DyckNesting
from open_mythos.errors import InputError


@settings(max_examples=50, deadline=None)
@given(
    kinds=st.integers(2, 6),
    length=st.integers(8, 60),
    difficulty=st.integers(1, 9),
    seed=st.integers(0, 2**40),
)
def test_answers_are_what_a_stack_has_on_top(
    kinds: int, length: int, difficulty: int, seed: int
) -> None:
    task = DyckNesting(kinds=kinds, length=length, batch_size=5)
    batch = task.evaluation_batch(difficulty, seed)
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        stack: list[int] = []
        deepest = 0
        for token, answer in zip(row, wanted, strict=True):
            closes = token >= kinds
            if closes:
                assert stack.pop() == token - kinds
            else:
                stack.append(token)
            deepest = max(deepest, len(stack))
            assert answer == (stack[-1] + kinds if closes and stack else IGNORE)
        assert deepest == difficulty + 1


def test_what_is_asked_was_opened_at_every_depth() -> None:
    batch = DyckNesting(batch_size=50).evaluation_batch(5)
    depths = set()
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        depth = 0
        for token, answer in zip(row, wanted, strict=True):
            depth += 1 if token < 4 else -1
            if answer != IGNORE:
                depths.add(depth)
    assert depths == {1, 2, 3, 4, 5}


def test_no_string_is_in_training_and_evaluation() -> None:
    task = DyckNesting(kinds=2, length=16, batch_size=100, max_level=1)
    trained = {tuple(row) for s in range(60) for row in task.batch(s).ids.tolist()}
    asked = {tuple(row) for s in range(4) for row in task.evaluation_batch(1, s).ids.tolist()}
    # Too few to be split by the count of their kinds alone, so they may meet; two more pairs and
    # they may not.
    assert not task.splits(1)
    assert trained & asked
    longer = DyckNesting(kinds=2, length=24, batch_size=100, max_level=1)
    assert longer.splits(1)
    trained = {tuple(row) for s in range(60) for row in longer.batch(s).ids.tolist()}
    asked = {tuple(row) for s in range(4) for row in longer.evaluation_batch(1, s).ids.tolist()}
    assert not trained & asked


def test_one_kind_is_refused() -> None:
    with pytest.raises(InputError, match="kinds is 1; it must be at least 2"):
        DyckNesting(kinds=1)
