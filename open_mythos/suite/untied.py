"""The baseline of unshared blocks: as many different ones as the loop runs, passed through once."""

from dataclasses import replace
from typing import Any

from open_mythos.config.designs import design
from open_mythos.data.tasks.registry import settings_of
from open_mythos.train.data_config import OWN_SETTINGS, DataConfig
from open_mythos.train.recipe import DepthConfig, Recipe


UNTIED = "untied"


def untied(recipe: Recipe) -> Recipe:
    """A recipe whose network has the loop's work without the loop: equal widths, equal FLOPs.

    Between the same prelude and coda stand core_layers different blocks for each loop that the
    recipe runs on average at the hardest trained difficulty, in one pass, with an ordinary residual
    stream: no injection, no norm at the loop's border. Rows, steps, rates and curriculum stay; no
    batch asks for loops.
    """
    base = recipe.model
    model = replace(
        design("mythos", base),
        injection="none",
        loop_norm="none",
        core_ffn=base.core_ffn,
        core_layers=base.core_layers * typical_loops(recipe),
        max_loop_iters=1,
    )
    return replace(
        recipe,
        model=model,
        data=without_loops(recipe.data),
        depth=DepthConfig(kind="fixed", mean=1),
    )


def typical_loops(recipe: Recipe) -> int:
    """Loops of an average step at the hardest trained difficulty, at least 1."""
    task = recipe.data.build_task(seed=0)
    granted = task.loops_for(task.max_level)
    mean = recipe.depth.declared_mean if granted is None else granted + task.most_spare / 2
    return max(1, round(mean))


def without_loops(data: DataConfig) -> DataConfig:
    """The same rows, whose batches leave the number of loops to the depth sampler."""
    task = data.build_task(seed=0)
    if task.loops_for(task.max_level) is None:
        return data
    settings: dict[str, Any] = dict(data.task)
    for name in ("loops_per_level", "spare"):
        if name in settings_of(data.kind):
            settings[name] = 0
    told = "loops_per_hop" in OWN_SETTINGS.get(data.kind, ())
    return replace(data, task=settings, loops_per_hop=0 if told else data.loops_per_hop)
