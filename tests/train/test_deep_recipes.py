"""Deep recipes: what they promise of their rows, and that each of them trains."""

from dataclasses import replace
from pathlib import Path

import pytest

from open_mythos.train.deep_recipes import BY_NAME, DEEP_RECIPES, FARTHEST, TRAINED, pointer_64
from open_mythos.train.presets import RECIPES
from open_mythos.train.schedule import learning_rate
from open_mythos.train.trainer import Parts, train


def test_they_are_among_the_named_ones() -> None:
    assert RECIPES.items() >= DEEP_RECIPES.items()
    assert all(make().name == name for name, make in DEEP_RECIPES.items())


@pytest.mark.parametrize("name", [name for name in DEEP_RECIPES if name.startswith("deep")])
def test_rows_are_as_long_at_every_difficulty_and_loops_follow_it(name: str) -> None:
    recipe = DEEP_RECIPES[name]()
    task = recipe.data.build_task(seed=0)
    assert task.max_level == TRAINED
    lengths = {task.row_length(d) for d in (1, 3, TRAINED, 2 * TRAINED, FARTHEST)}
    assert lengths == {recipe.model.max_seq_len}
    assert [task.loops_for(d) for d in (1, 8)] == [1, 8]
    assert task.free == ("p-hop" not in name)
    end = learning_rate(recipe.optim, recipe.steps - 1, recipe.steps)
    assert end < 0.02 * recipe.optim.lr


def test_sixty_four_states_are_asked_as_sixteen_are() -> None:
    for layout in ("pairs", "joint"):
        task = pointer_64(layout).data.build_task(seed=0)  # type: ignore[arg-type]
        assert (task.row_length(8), task.loops_for(8)) == (
            (192, 8) if layout == "pairs" else (128, 8)
        )


@pytest.mark.parametrize("name", BY_NAME)
def test_a_step_runs(name: str, tmp_path: Path, parts: Parts) -> None:
    recipe = replace(DEEP_RECIPES[f"{name}-cpu"](), steps=1, device="cpu", eval_every=0)
    recipe = replace(recipe, data=replace(recipe.data, batch_size=2))
    assert train(recipe, tmp_path / "run", parts=parts).status == "finished"
