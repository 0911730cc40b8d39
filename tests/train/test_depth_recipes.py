from dataclasses import replace
from pathlib import Path

import pytest

from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.train.depth_recipes import DEPTH_RECIPES, pointer_16
from open_mythos.train.presets import RECIPES
from open_mythos.train.schedule import learning_rate
from open_mythos.train.trainer import Parts, train


def test_they_are_among_the_named_ones() -> None:
    assert RECIPES.items() >= DEPTH_RECIPES.items()
    assert all(make().name == name for name, make in DEPTH_RECIPES.items())


def test_sixteen_states_eight_hops_and_a_rate_that_falls_to_nothing() -> None:
    recipe = pointer_16()
    task = recipe.data.build_task(seed=0)
    assert isinstance(task, PointerChase)
    assert (task.states, task.max_hops, task.loops_for(8)) == (16, 8, 8)
    assert (recipe.model.injection, recipe.model.readout) == ("lti", "last")
    assert recipe.model.lti_decay == 0.01
    assert learning_rate(recipe.optim, recipe.steps - 1, recipe.steps) == 0.0
    assert learning_rate(recipe.optim, recipe.steps // 3, recipe.steps) == recipe.optim.lr


@pytest.mark.parametrize("name", DEPTH_RECIPES)
def test_a_step_runs(name: str, tmp_path: Path, parts: Parts) -> None:
    recipe = replace(DEPTH_RECIPES[name](), steps=1, device="cpu")
    recipe = replace(recipe, data=replace(recipe.data, batch_size=2))
    assert train(recipe, tmp_path / "run", parts=parts).status == "finished"
