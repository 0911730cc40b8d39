from dataclasses import replace
from pathlib import Path

import pytest
import torch

from open_mythos.data.tasks.maze import MazePath
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError
from open_mythos.train.recipe import DataConfig, Recipe
from open_mythos.train.sources import build_sources


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    pages = [f"Scene {i}: " + "word " * (20 + i) + "\u00e9" for i in range(30)]
    path.write_text("\f".join(pages), encoding="utf-8")
    return path


def test_text_is_split_and_encoded(tiny: Recipe, corpus: Path) -> None:
    data = DataConfig(kind="text", corpus=str(corpus), tokenizer="byte", seq_len=16)
    found = build_sources(replace(tiny, data=data))
    assert isinstance(found.train, TokenWindows)
    assert isinstance(found.evaluation, TokenWindows)
    assert found.tokenizer is not None
    held_out = found.tokenizer.decode(found.evaluation.tokens.tolist())
    learnt = found.tokenizer.decode(found.train.tokens.tolist())
    scenes = {f"Scene {i}:" for i in range(30)}
    seen = {s for s in scenes if s in learnt}
    asked = {s for s in scenes if s in held_out}
    assert seen | asked == scenes
    assert not seen & asked


def test_the_held_out_text_does_not_depend_on_the_seed(tiny: Recipe, corpus: Path) -> None:
    data = DataConfig(kind="text", corpus=str(corpus), tokenizer="byte", seq_len=16)
    one, other = (build_sources(replace(tiny, data=data, seed=seed)) for seed in (0, 1))
    assert isinstance(one.evaluation, TokenWindows)
    assert isinstance(other.evaluation, TokenWindows)
    assert (one.evaluation.tokens == other.evaluation.tokens).all()
    assert not torch.equal(one.train.batch(0).ids, other.train.batch(0).ids)


def test_the_bundled_plays_are_read_with_their_tokenizer(tiny: Recipe) -> None:
    found = build_sources(replace(tiny, data=DataConfig(seq_len=32)))
    assert found.tokenizer is not None
    assert found.train.vocab_size == found.tokenizer.vocab_size
    assert isinstance(found.evaluation, TokenWindows)
    held_out = found.tokenizer.decode(found.evaluation.tokens.tolist())
    assert 50_000 < len(held_out) < 200_000


def test_tasks_take_every_setting_of_the_recipe(tiny: Recipe) -> None:
    data = DataConfig(
        kind="pointer",
        batch_size=3,
        states=5,
        queries=7,
        max_hops=4,
        layout="joint",
        maps="permutation",
        loops_per_hop=2,
    )
    found = build_sources(replace(tiny, data=data, seed=9))
    assert found.train == PointerChase(
        states=5,
        queries=7,
        batch_size=3,
        seed=9,
        max_hops=4,
        layout="joint",
        maps="permutation",
        loops_per_hop=2,
    )
    assert found.evaluation is found.train
    parity = build_sources(replace(tiny, data=DataConfig(kind="parity", batch_size=3, length=9)))
    assert parity.train == PrefixParity(length=9, batch_size=3, seed=tiny.seed)
    told = build_sources(replace(tiny, data=replace(data, task={"told": True})))
    assert told.train == replace(found.train, seed=tiny.seed, told=True)
    maze = DataConfig(kind="maze", batch_size=3, task={"side": 4, "ask": "step", "max_level": 3})
    built = build_sources(replace(tiny, data=maze, seed=7)).train
    assert built == MazePath(side=4, ask="step", max_level=3, batch_size=3, seed=7)


def test_a_corpus_that_is_not_there_is_named(tiny: Recipe) -> None:
    with pytest.raises(InputError, match="nowhere"):
        build_sources(replace(tiny, data=DataConfig(corpus="nowhere.txt", seq_len=8)))
