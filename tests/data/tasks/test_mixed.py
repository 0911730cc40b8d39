"""Mixed tasks against the tasks that they are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE, Courses
from open_mythos.data.tasks.mixed import PARTS, UNKNOWN, Extent, MixedTasks
from open_mythos.errors import InputError
from open_mythos.train.deep_recipes import DEEP_RECIPES, FARTHEST, TRAINED


NAMES = tuple(PARTS["small"])


@settings(max_examples=40, deadline=None)
@given(step=st.integers(0, 10**6), level=st.integers(0, 4), seed=st.integers(0, 99))
def test_a_step_is_of_the_task_whose_turn_it_is_in_ids_of_its_own(
    step: int, level: int, seed: int
) -> None:
    mixed = MixedTasks(extent="small", batch_size=3, seed=seed, spare=2)
    assert isinstance(mixed, Courses)
    name = NAMES[step % 6]
    assert mixed.course(step) == name
    part = mixed.parts[name]
    assert part.seed == seed
    words = list(mixed.words)
    for got, plain in (
        (mixed.batch(step, level), part.batch(step, level)),
        (mixed.evaluation_batch(9, seed=step), part.evaluation_batch(9, seed=step // 6)),
        (mixed.alone(name).batch(step, level), part.batch(step, level)),
        (mixed.alone(name).evaluation_batch(9, seed=seed), part.evaluation_batch(9, seed=seed)),
    ):
        assert (got.n_loops, got.level) == (plain.n_loops, plain.level)
        for row, wanted in zip(got.ids.tolist(), plain.ids.tolist(), strict=True):
            assert [words[i] for i in row] == [f"{name}:{part.words[i]}" for i in wanted]
        assert ((got.targets == IGNORE) == (plain.targets == IGNORE)).all()
        scored = plain.targets != IGNORE
        shift = (got.targets - plain.targets)[scored].unique()
        assert torch.equal(shift, (got.ids - plain.ids).unique())
    rows = mixed.batch(step, level, [2, 0])
    assert torch.equal(rows.ids, mixed.batch(step, level).ids[[2, 0]])


def test_every_word_is_one_task_s_alone() -> None:
    for extent in ("small", "full"):
        mixed = MixedTasks(extent=extent)
        assert len(set(mixed.words)) == len(mixed.words) == mixed.vocab_size
        assert mixed.words[-1] == UNKNOWN


def test_the_whole_is_as_long_and_as_hard_as_its_parts_allow() -> None:
    mixed = MixedTasks(extent="small", spare=3)
    parts = list(mixed.parts.values())
    for difficulty in (1, 4, 16):
        lengths = [part.row_length(difficulty) for part in parts]
        assert mixed.row_length(difficulty) == max(lengths)
        assert {part.loops_for(difficulty) for part in parts} == {difficulty}
        assert mixed.loops_for(difficulty) == difficulty
        chances = [part.chance_at(difficulty) for part in parts]
        assert mixed.chance_at(difficulty) == pytest.approx(sum(chances) / 6)
        assert mixed.instances(difficulty) == min(part.instances(difficulty) for part in parts)
    assert {part.max_level for part in parts} == {mixed.max_level} == {4}
    assert mixed.max_difficulty == 19
    assert mixed.alone("sums").max_difficulty is None
    # A loop that is told by its number cannot have more than it is told.
    assert (mixed.most_spare, mixed.alone("sums").most_spare) == (0, 3)
    assert not mixed.alone("p-hop").free
    assert mixed.alone("words").free


@pytest.mark.parametrize("extent", ["small", "full"])
def test_rows_of_most_tasks_are_as_long_at_four_times_the_trained_difficulty(
    extent: Extent,
) -> None:
    mixed = MixedTasks(extent=extent, batch_size=2)
    for name, part in mixed.parts.items():
        most = part.max_level
        if extent == "full" or name != "p-hop":
            assert part.row_length(1) == part.row_length(4 * most), name


@pytest.mark.parametrize("name", ["words", "knowledge", "p-hop", "sums", "parity"])
def test_the_full_tasks_are_those_of_the_recipes_for_one_task(name: str) -> None:
    recipe = DEEP_RECIPES[f"deep-{name}"]()
    rows = recipe.data.batch_size
    assert MixedTasks(batch_size=rows).parts[name] == recipe.data.build_task(seed=0)
    assert (TRAINED, FARTHEST) == (8, 32)


def test_examples_are_of_one_task() -> None:
    mixed, draw = MixedTasks(extent="small"), np.random.default_rng()
    seen = set()
    for _ in range(40):
        found = mixed.examples(draw, 3, 5)
        (name,) = {mixed.words[i].split(":")[0] for i in found.ids.ravel().tolist()}
        seen.add(name)
        answers = found.targets[found.targets != IGNORE].ravel().tolist()
        assert {mixed.words[i].split(":")[0] for i in answers} == {name}
    assert len(seen) > 1


def test_strange_settings_are_refused() -> None:
    with pytest.raises(InputError, match="only is 'word'"):
        MixedTasks(only="word")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="only is 'mazes'"):
        MixedTasks().alone("mazes")
    with pytest.raises(InputError, match="seed"):
        MixedTasks().evaluation_batch(2, seed=-1)
