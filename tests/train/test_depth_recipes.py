from dataclasses import replace
from pathlib import Path

import pytest

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.train.depth_recipes import (
    DEPTH_RECIPES,
    pointer_16,
    tutorial,
    tutorial_default,
    tutorial_long,
    tutorial_whole_rows,
)
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
    end = learning_rate(recipe.optim, recipe.steps - 1, recipe.steps)
    assert end < 0.02 * recipe.optim.lr


def test_the_tutorials_recipes_share_sizes_rows_and_steps() -> None:
    default = tutorial_default()
    choices = {"readout", "lti_decay", "loop_index", "loop_lora"}
    starts = {"init_std", "embed_init_std", "last_norm_init"}
    for recipe in (tutorial(), tutorial_whole_rows()):
        assert (recipe.data, recipe.steps) == (default.data, default.steps)
        ours, theirs = recipe.model.to_dict(), default.model.to_dict()
        assert {name for name, value in ours.items() if value != theirs[name]} == choices | starts
    sizes = {"dim": 64, "vocab_size": 64, "n_heads": 4, "n_kv_heads": 2, "n_experts": 4}
    assert sizes.items() <= default.model.to_dict().items()
    seed = MythosConfig().to_dict()
    assert all(default.model.to_dict()[name] == seed[name] for name in choices | starts)
    assert (default.data.length, default.data.task, default.steps) == (24, {}, 600)
    assert (default.depth.kind, default.depth.mean) == ("fixed", 3)
    assert replace(tutorial_long(), name="tutorial", steps=600, save_every=200) == tutorial()


@pytest.mark.parametrize("name", DEPTH_RECIPES)
def test_a_step_runs(name: str, tmp_path: Path, parts: Parts) -> None:
    recipe = replace(DEPTH_RECIPES[name](), steps=1, device="cpu")
    recipe = replace(recipe, data=replace(recipe.data, batch_size=2))
    assert train(recipe, tmp_path / "run", parts=parts).status == "finished"
