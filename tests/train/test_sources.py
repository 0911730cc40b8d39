from dataclasses import replace
from pathlib import Path

import pytest
import torch

from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.chat_template import chat_template
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity
from open_mythos.data.tokenizer import save_tokenizer, tokenizer_from_folder
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError
from open_mythos.train.recipe import DataConfig, Recipe
from open_mythos.train.sources import build_sources


CHATS = Path(__file__).parents[1] / "data" / "conversations.jsonl"


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


def test_conversations_are_split_and_packed(tiny: Recipe, tmp_path: Path) -> None:
    data = DataConfig(kind="chat", corpus=str(CHATS), tokenizer="byte", seq_len=64)
    found = build_sources(replace(tiny, data=data))
    assert isinstance(found.train, ChatRows)
    assert isinstance(found.evaluation, ChatRows)
    assert found.train.batch_size == data.batch_size
    sides = [
        {bytes(d.ids.astype("u1").tobytes()) for d in s.dialogues}
        for s in (found.train, found.evaluation)
    ]
    assert len(sides[0] | sides[1]) == 6
    assert not sides[0] & sides[1]
    again = build_sources(replace(tiny, data=data, seed=9))
    assert isinstance(again.evaluation, ChatRows)
    assert again.evaluation.rows == found.evaluation.rows
    with pytest.raises(InputError, match=r"conversations\.jsonl:\d: .* more than the 17 of a row"):
        build_sources(replace(tiny, data=replace(data, seq_len=16, overlong="refuse")))


def test_a_chat_template_of_the_recipe_goes_first(tiny: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% for m in messages %}{% if m.role != 'assistant' %}Q{{ m.content }}A"
        "{% else %}{{ m.content }}.{% endif %}{% endfor %}"
    )
    data = DataConfig(
        kind="chat", corpus=str(CHATS), tokenizer="byte", chat_template=str(path), seq_len=64
    )
    found = build_sources(replace(tiny, data=data))
    assert isinstance(found.train, ChatRows)
    assert found.tokenizer is not None
    texts = [found.tokenizer.decode(d.ids) for d in found.train.dialogues]
    assert all(text.startswith("Q") for text in texts)
    save_tokenizer(found.tokenizer, tmp_path / "run")
    kept = chat_template(tokenizer_from_folder(tmp_path / "run"))
    assert kept.source == path.read_text()


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


def test_a_corpus_that_is_not_there_is_named(tiny: Recipe) -> None:
    with pytest.raises(InputError, match="nowhere"):
        build_sources(replace(tiny, data=DataConfig(corpus="nowhere.txt", seq_len=8)))
