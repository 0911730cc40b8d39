from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.errors import ConfigError, InputError
from open_mythos.parallel.spread import Spread
from open_mythos.train.passes import count_scored, plan_step
from open_mythos.train.recipe import Recipe


Sized = Callable[[int, int], Recipe]


@pytest.fixture
def sized(tiny: Recipe) -> Sized:
    """A recipe of so many rows a step, so many of them at once."""

    def make(batch_size: int, micro_batch: int) -> Recipe:
        return replace(
            tiny,
            data=replace(tiny.data, batch_size=batch_size),
            engine=replace(tiny.engine, micro_batch=micro_batch),
        )

    return make


@given(world=st.integers(1, 4), own=st.integers(1, 9), micro=st.integers(0, 12))
def test_every_row_is_in_one_pass_of_one_rank(
    sized: Sized, world: int, own: int, micro: int
) -> None:
    recipe = sized(world * own, micro)
    ranks = [plan_step(recipe, 0, Spread(r, world)).rows for r in range(world)]
    assert len({len(passes) for passes in ranks}) == 1
    rows: list[int] = []
    for passes in ranks:
        for taken in passes:
            assert taken is not None or (world, len(passes)) == (1, 1)
            kept = range(own) if taken is None else taken
            assert 0 < len(kept) <= (micro or own)
            rows.extend(kept)
    assert rows == list(range(world * own))


def test_a_batch_that_ranks_cannot_share_is_refused(sized: Sized) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 9.*multiple of 2"):
        plan_step(sized(9, 0), 0, Spread(0, 2))


def scored(*counts: int) -> list[Batch]:
    ids = torch.zeros(2, 4, dtype=torch.int64)
    parts = []
    for count in counts:
        targets = torch.full((8,), IGNORE)
        targets[:count] = 1
        parts.append(Batch(ids, targets.view(2, 4)))
    return parts


def test_targets_are_counted_over_passes_and_ranks() -> None:
    class Two(Spread):
        def sum(self, numbers: Tensor) -> Tensor:
            return numbers + 100

    cpu = torch.device("cpu")
    assert count_scored(scored(5), cpu, Spread()) is None
    count = count_scored(scored(5, 0, 8), cpu, Spread())
    assert count is not None
    assert float(count) == 13
    count = count_scored(scored(5), cpu, Two(0, 2))
    assert count is not None
    assert float(count) == 105
    with pytest.raises(InputError, match="none of the 16 targets is scored"):
        count_scored(scored(0, 0), cpu, Spread())


@given(world=st.integers(1, 3), own=st.integers(1, 9), micro=st.integers(0, 12))
def test_rows_of_their_own_depth_are_dealt_to_equally_many_passes(
    sized: Sized, world: int, own: int, micro: int
) -> None:
    recipe = sized(world * own, micro)
    recipe = replace(recipe, depth=replace(recipe.depth, per="sequence"))
    plans = [plan_step(recipe, 3, Spread(r, world)) for r in range(world)]
    depths = plans[0].depths
    assert depths is not None
    assert all(plan.depths == depths for plan in plans)
    assert len({len(plan.rows) for plan in plans}) == 1
    rows: list[int] = []
    for plan in plans:
        for index, taken in enumerate(plan.rows):
            assert taken is not None
            loops = plan.loops(index)
            assert loops == [depths[row] for row in taken]
            assert loops == sorted(loops, reverse=True)
            rows.extend(taken)
    assert sorted(rows) == list(range(world * own))
