from dataclasses import replace
from pathlib import Path

import pytest

from open_mythos.data.tasks.registry import TASKS
from open_mythos.eval.accuracy import those_with_room
from open_mythos.eval.evaluators import standard_evaluators
from open_mythos.train.presets import RECIPES
from open_mythos.train.sources import build_sources
from open_mythos.train.task_recipes import TASK_RECIPES
from open_mythos.train.trainer import Parts, train


def test_every_task_has_its_recipe_among_the_named_ones() -> None:
    assert {recipe().data.kind for recipe in TASK_RECIPES.values()} == set(TASKS)
    assert set(TASK_RECIPES) == {f"task-{kind}" for kind in TASKS}
    assert RECIPES.items() >= TASK_RECIPES.items()


@pytest.mark.parametrize("name", TASK_RECIPES)
def test_training_and_evaluation_split_and_twice_the_difficulty_has_room(name: str) -> None:
    recipe = TASK_RECIPES[name]()
    task = recipe.data.build_task(seed=1)
    # Parity of a few bits is among the mixed tasks: a table to be learnt whole.
    assert task.splits(task.max_level) != (name == "task-mixed")
    most = task.max_level
    beyond = min(2 * most, task.max_difficulty or 2 * most)
    assert those_with_room(task, [1, most, beyond], recipe.model.max_seq_len) == [1, most, beyond]


@pytest.mark.parametrize("name", TASK_RECIPES)
def test_a_step_on_every_task_runs_and_is_judged(name: str, tmp_path: Path, parts: Parts) -> None:
    recipe = replace(TASK_RECIPES[name](), steps=1, eval_every=0, save_every=0, device="cpu")
    recipe = replace(recipe, data=replace(recipe.data, batch_size=4))
    evaluators = standard_evaluators(recipe, build_sources(recipe))
    found = train(recipe, tmp_path / "run", evaluators=evaluators, parts=parts)
    assert found.status == "finished"
    assert found.evaluation is not None
    names = {name.partition("/")[2] for name in found.evaluation.values}
    assert {"accuracy", "loss"} <= names
    assert len(evaluators) >= 2
