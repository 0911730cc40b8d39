from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.chat_template import chat_template
from open_mythos.data.mixture import Mixture
from open_mythos.data.prepare import Request, prepare
from open_mythos.data.tasks.maze import MazePath
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity
from open_mythos.data.tokenizer import ByteTokenizer, save_tokenizer, tokenizer_from_folder
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import ConfigError, InputError
from open_mythos.train import sources
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


def prepared(tmp_path: Path, name: str, tokenizer: str = "byte", share: float = 0.2) -> str:
    """A folder of 40 documents, each of which says whose it is."""
    pages = [f"{name} {i}: " + "word " * (i % 9) for i in range(40)]
    (tmp_path / f"{name}.txt").write_text("\f".join(pages))
    request = Request(
        sources=(str(tmp_path / f"{name}.txt"),),
        out=tmp_path / name,
        tokenizer=tokenizer,
        validation_share=share,
        shard_tokens=300,
    )
    return str(prepare(request).folder)


def test_a_prepared_folder_brings_its_tokenizer_and_its_split(tiny: Recipe, tmp_path: Path) -> None:
    folder = prepared(tmp_path, "one")
    data = DataConfig(corpus=folder, tokenizer="plays", seq_len=16)
    found = build_sources(replace(tiny, data=data))
    assert isinstance(found.tokenizer, ByteTokenizer)
    assert isinstance(found.train, TokenWindows)
    assert isinstance(found.evaluation, TokenWindows)
    assert found.train.vocab_size == 257
    assert found.train.starts is None
    held_out = found.tokenizer.decode(found.evaluation.tokens[:].tolist())
    learnt = found.tokenizer.decode(found.train.tokens[:].tolist())
    names = {f"one {i}:" for i in range(40)}
    assert {n for n in names if n in learnt} ^ {n for n in names if n in held_out} == names


def test_little_held_out_text_makes_short_rows_and_none_no_evaluation(
    tiny: Recipe, tmp_path: Path
) -> None:
    few = prepared(tmp_path, "few", share=0.03)
    data = DataConfig(corpus=few, seq_len=60)
    found = build_sources(replace(tiny, data=data))
    assert isinstance(found.evaluation, TokenWindows)
    assert found.evaluation.seq_len == min(60, found.evaluation.tokens.size - 1)
    none = DataConfig(corpus=prepared(tmp_path, "none", share=0.0), seq_len=60)
    assert build_sources(replace(tiny, data=none)).evaluation is None


def test_documents_are_told_apart_on_request(tiny: Recipe, tmp_path: Path, corpus: Path) -> None:
    for text in (prepared(tmp_path, "one"), str(corpus)):
        data = DataConfig(corpus=text, tokenizer="byte", seq_len=16, document_mask=True)
        found = build_sources(replace(tiny, data=data))
        assert isinstance(found.train, TokenWindows)
        assert isinstance(found.evaluation, TokenWindows)
        assert found.train.starts is not None
        tokens = found.train.tokens[:]
        wanted = [0, *(np.flatnonzero(tokens == 256) + 1)][: len(found.train.starts)]
        assert found.train.starts.tolist() == wanted
        assert found.train.batch(0).documents is not None
        assert next(found.evaluation.evaluation_batches()).documents is not None


def test_documents_without_an_end_cannot_be_told_apart(
    tiny: Recipe, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(ByteTokenizer):
        eos_id = None  # type: ignore[assignment]

    monkeypatch.setattr(sources, "load_tokenizer", lambda name: Endless())
    data = DataConfig(corpus=str(corpus), seq_len=16, document_mask=True)
    with pytest.raises(ConfigError, match=r"document_mask.*no token that ends a document"):
        build_sources(replace(tiny, data=data))


def test_a_mixture_reads_its_folders_by_weight(tiny: Recipe, tmp_path: Path) -> None:
    folders = [prepared(tmp_path, name) for name in ("one", "two", "out")]
    mixture = dict(zip(folders, (1.0, 3.0, 0.0), strict=True))
    data = DataConfig(mixture=mixture, batch_size=256, seq_len=16)
    found = build_sources(replace(tiny, data=data))
    assert isinstance(found.train, Mixture)
    assert found.train.weights == (1.0, 3.0)
    assert list(found.parts) == folders[:2]
    assert found.evaluation is found.parts[folders[1]]
    assert isinstance(found.tokenizer, ByteTokenizer)
    batch = found.train.batch(0)
    assert batch.ids.shape == (256, 16)
    alone = build_sources(replace(tiny, data=replace(data, mixture={}, corpus=folders[1])))
    first = found.train.origins(range(256)).index((1, 5))
    assert isinstance(alone.train, TokenWindows)
    assert torch.equal(batch.ids[first], alone.train.samples([5]).ids[0])


def test_a_mixture_has_one_tokenizer(tiny: Recipe, tmp_path: Path) -> None:
    one, other = prepared(tmp_path, "one"), prepared(tmp_path, "two", tokenizer="plays")
    data = DataConfig(mixture={one: 1, other: 1}, seq_len=16)
    with pytest.raises(ConfigError, match=r"'byte'.*'plays'.*not encoded by the same tokenizer"):
        build_sources(replace(tiny, data=data))


def test_a_folder_that_is_not_prepared_is_named(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data prepare hf:a/b --out DIR`, then set data.corpus"):
        build_sources(replace(tiny, data=DataConfig(corpus="hf:a/b", seq_len=16)))
    for data in (
        DataConfig(corpus=str(tmp_path), seq_len=16),
        DataConfig(mixture={str(tmp_path): 1}, seq_len=16),
    ):
        with pytest.raises(InputError, match=r"holds no prepared text.*data prepare"):
            build_sources(replace(tiny, data=data))


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
    told = build_sources(replace(tiny, data=replace(data, task={"told": True})))
    assert told.train == replace(found.train, seed=tiny.seed, told=True)
    maze = DataConfig(kind="maze", batch_size=3, task={"side": 4, "ask": "step", "max_level": 3})
    built = build_sources(replace(tiny, data=maze, seed=7)).train
    assert built == MazePath(side=4, ask="step", max_level=3, batch_size=3, seed=7)


def test_a_corpus_that_is_not_there_is_named(tiny: Recipe) -> None:
    with pytest.raises(InputError, match="nowhere"):
        build_sources(replace(tiny, data=DataConfig(corpus="nowhere.txt", seq_len=8)))
