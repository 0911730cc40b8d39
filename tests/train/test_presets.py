from pathlib import Path

import pytest
import torch

from open_mythos.config.overrides import from_plain, to_plain
from open_mythos.errors import ConfigError, InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.depth import expected_depth
from open_mythos.train.presets import RECIPES, recipe
from open_mythos.train.recipe import Recipe
from open_mythos.train.sources import build_sources


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_bears_its_name_and_survives_yaml(name: str) -> None:
    found = recipe(name)
    assert found.name == name
    assert from_plain(Recipe, to_plain(found)) == found


def test_the_reference_run_says_how_its_data_is_prepared() -> None:
    with pytest.raises(InputError, match=r"open-mythos data prepare hf:HuggingFaceFW/fineweb-edu"):
        build_sources(recipe("fineweb-3b"))


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"fineweb-3b"}))
def test_model_and_data_of_a_recipe_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1] / "data")  # where conversations.jsonl lies
    found = recipe(name)
    source = build_sources(found).train
    assert source.vocab_size <= found.model.vocab_size
    ids = source.batch(0, min(1, source.max_level)).ids[:1]
    assert ids.shape[1] <= found.model.max_seq_len
    assert expected_depth(found.depth) <= found.model.max_loop_iters + 1e-9
    with torch.no_grad():
        logits = OpenMythos(found.model)(ids, 1)
    assert logits.shape == (*ids.shape, found.model.vocab_size)


def test_each_call_gives_a_recipe_of_its_own() -> None:
    recipe("cpu-tiny").model.dim = 8
    assert recipe("cpu-tiny").model.dim != 8


def test_a_wrong_name_is_met_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'demo-task'"):
        recipe("demo_tsk")
