from dataclasses import replace

import pytest

from open_mythos.config.budget import parameters
from open_mythos.config.presets import mythos_3b
from open_mythos.train.depth import expected_depth
from open_mythos.train.recipe import Recipe
from open_mythos.train.text_recipes import (
    fineweb_3b,
    on_gpu,
    prose_23m,
    text_10m,
    text_30m,
    text_120m,
)


@pytest.mark.parametrize(
    ("recipe", "millions"),
    [
        (text_10m(), 10),
        (prose_23m(), 23.3),
        (text_30m(), 30),
        (text_120m(), 120),
        (fineweb_3b(), 3000),
    ],
    ids=lambda x: x.name if isinstance(x, Recipe) else "",
)
def test_a_recipe_has_the_size_of_its_name(recipe: Recipe, millions: float) -> None:
    assert parameters(recipe.model).total == pytest.approx(millions * 1e6, rel=0.05)
    assert recipe.name.endswith(
        f"{millions:.0f}m" if millions < 1000 else f"{millions / 1000:.0f}b"
    )


def test_the_reference_run_is_that_of_the_public_design() -> None:
    """SPEC: the numbers one by one."""
    recipe = fineweb_3b()
    assert recipe.model == mythos_3b()
    assert (recipe.data.seq_len, recipe.data.batch_size) == (2048, 256)
    assert (recipe.optim.lr, recipe.optim.betas) == (3e-4, (0.9, 0.95))
    assert (recipe.optim.weight_decay, recipe.optim.clip) == (0.1, 1.0)
    assert (recipe.optim.warmup_steps, recipe.optim.schedule) == (2000, "cosine")
    assert recipe.optim.final_ratio == 0.1
    tokens = recipe.steps * recipe.data.seq_len * recipe.data.batch_size
    assert tokens == pytest.approx(30e9, rel=1e-4)


def test_readers_think_around_their_mean_and_differ_from_a_gpu_run_by_the_engine_alone() -> None:
    for recipe in (text_10m(), text_30m(), text_120m()):
        assert expected_depth(recipe.depth) == pytest.approx(recipe.model.max_loop_iters)
        fast = on_gpu(recipe)
        assert fast.engine.compile
        assert replace(fast, engine=recipe.engine) == recipe
