"""A run that starts from weights has them before its first step, and resumes without them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.config.overrides import configure
from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.errors import CheckpointError, ConfigError
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.build import build_model, build_state
from open_mythos.train.checkpoints import RunFolder
from open_mythos.train.recipe import DataConfig, Recipe
from open_mythos.train.sources import build_sources
from open_mythos.train.starting import start_from, starting_recipe, weights_folder
from open_mythos.train.trainer import train


@pytest.fixture
def trained(tmp_path: Path, tiny: Recipe, randomised: Callable[..., Any]) -> Path:
    """A model folder of the tiny recipe's network."""
    folder = tmp_path / "trained"
    randomised(OpenMythos(tiny.model)).save_pretrained(folder)
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return OpenMythos.from_pretrained(folder).state_dict()


def test_the_first_step_has_the_weights(trained: Path, tiny: Recipe) -> None:
    recipe = replace(tiny, init_from=str(trained))
    built = build_model(recipe).state_dict()
    want = state(trained)
    assert built.keys() == want.keys()
    assert all(torch.equal(built[name], want[name]) for name in want)


def test_sixteen_bit_weights_become_float32_masters(tmp_path: Path, tiny: Recipe) -> None:
    OpenMythos(tiny.model).bfloat16().save_pretrained(tmp_path / "narrow")
    recipe = replace(tiny, init_from=str(tmp_path / "narrow"))
    made = build_state(recipe, build_sources(recipe).train, torch.device("cpu"))
    assert made.model.embed.weight.dtype == torch.float32
    assert torch.equal(made.model.embed.weight, state(tmp_path / "narrow")["embed.weight"].float())


def test_stopping_changes_no_bit_and_the_start_is_not_needed_again(
    trained: Path, tmp_path: Path, tiny: Recipe
) -> None:
    recipe = replace(tiny, init_from=str(trained), steps=6, save_every=3, eval_every=0)
    train(recipe, tmp_path / "whole")
    part = train(recipe, tmp_path / "parts", max_seconds=0.0, resume="auto")
    assert part.step == 0
    shutil.rmtree(trained)
    again = train(recipe, tmp_path / "parts", resume="resume")
    assert again.step == 6
    whole = RunFolder(tmp_path / "whole").steps()[6]
    assert all(
        torch.equal(tensor, other)
        for tensor, other in zip(
            state(whole).values(), state(again.checkpoint).values(), strict=True
        )
    )


def test_a_run_can_start_from_a_run(tmp_path: Path, tiny: Recipe) -> None:
    first = train(replace(tiny, steps=2, eval_every=0), tmp_path / "first")
    assert weights_folder(tmp_path / "first") == first.checkpoint
    built = build_model(replace(tiny, init_from=str(tmp_path / "first"))).state_dict()
    assert all(torch.equal(built[n], t) for n, t in state(first.checkpoint).items())


def test_another_network_is_refused_by_its_fields(trained: Path, tiny: Recipe) -> None:
    other = replace(tiny.model, dim=2 * tiny.model.dim, injection="none", max_seq_len=999)
    recipe = replace(tiny, model=other, init_from=str(trained))
    with pytest.raises(ConfigError, match=r"dim \(\d+, there \d+\), injection \('none'") as said:
        start_from(OpenMythos(other), recipe)
    assert "max_seq_len" not in str(said.value)


def test_tables_of_another_length_are_refused(tmp_path: Path, tiny: Recipe) -> None:
    cfg = replace(tiny.model, loop_lora=True)
    OpenMythos(cfg).save_pretrained(tmp_path / "looped")
    longer = replace(cfg, max_loop_iters=cfg.max_loop_iters + 1)
    with pytest.raises(CheckpointError, match="scale"):
        build_model(replace(tiny, model=longer, init_from=str(tmp_path / "looped")))


def test_nothing_to_start_from(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(CheckpointError, match="open-mythos retrofit"):
        build_model(replace(tiny, init_from=str(tmp_path / "none")))


@pytest.mark.parametrize("how", ["override", "file", "recipe"])
def test_the_folder_gives_network_and_tokenizer(
    trained: Path, tmp_path: Path, tiny: Recipe, how: str
) -> None:
    save_tokenizer(BPETokenizer.plays(), trained)
    base = replace(tiny, model=replace(tiny.model, dim=64, injection="none"))
    file, overrides = tmp_path / "settings.yaml", ["model.max_seq_len=48", "data.seq_len=48"]
    file.write_text(f"init_from: {trained}\n" if how == "file" else "seed: 3\n")
    if how == "override":
        overrides.append(f"init_from={trained}")
    if how == "recipe":
        base = replace(base, init_from=str(trained))
    chosen = configure(starting_recipe(base, file, overrides), file, overrides)
    assert chosen.model == replace(tiny.model, max_seq_len=48)
    assert (chosen.init_from, chosen.data.tokenizer) == (str(trained), str(trained))


def test_rows_are_no_longer_than_the_network_reads(tmp_path: Path, tiny: Recipe) -> None:
    OpenMythos(replace(tiny.model, max_seq_len=16)).save_pretrained(tmp_path / "short")
    data = DataConfig(kind="text", seq_len=32)
    base = replace(tiny, data=data, init_from=str(tmp_path / "short"))
    assert starting_recipe(base).data.seq_len == 16


def test_without_a_start_a_recipe_stays(tiny: Recipe) -> None:
    assert starting_recipe(tiny, None, ["seed=3"]) is tiny
