"""Byte-level BPE loses nothing, forges nothing, and survives the disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer as Backend, models, pre_tokenizers

from open_mythos.data.bpe_tokenizer import END_OF_TEXT, BPETokenizer
from open_mythos.data.corpus import plays_text, split_documents, train_validation_split
from open_mythos.data.special_tokens import ROLE_TEMPLATE
from open_mythos.errors import InputError


PLAYS = BPETokenizer.plays()
# Hypothesis draws the strings of our own source too, the end of a text among them.
UNMARKED = st.text().filter(lambda text: END_OF_TEXT not in text)


@given(st.text() | st.text(alphabet="aé€😀\u0301\u200d\x00\r\n\t "))
def test_every_text_comes_back(text: str) -> None:
    ids = PLAYS.encode(text)
    assert PLAYS.decode(ids) == text
    assert PLAYS.decode([0, *ids, 0]) == text
    assert all(0 < i < PLAYS.vocab_size for i in ids)


@given(st.text(), st.text())
def test_no_text_forges_its_end(before: str, after: str) -> None:
    text = before + END_OF_TEXT + after
    ids = PLAYS.encode(text)
    assert PLAYS.eos_id not in ids
    assert PLAYS.decode(ids) == text


def test_the_bundled_one_is_the_training_part_of_the_plays_trained() -> None:
    train, validation = train_validation_split(plays_text())
    again = BPETokenizer.train(split_documents(train), 1024)
    assert again.encode(validation) == PLAYS.encode(validation)
    assert PLAYS.decode(PLAYS.encode(validation)) == validation
    assert PLAYS.vocab_size == len(PLAYS) == 1024
    assert PLAYS.eos_id == 0


def test_a_small_text_ends_with_a_small_vocabulary() -> None:
    tokenizer = BPETokenizer.train(["abab"], 4000)
    assert 257 <= tokenizer.vocab_size < 270
    assert tokenizer.decode(tokenizer.encode("zebra 😀")) == "zebra 😀"
    with pytest.raises(InputError, match="vocab_size is 256"):
        BPETokenizer.train(["abab"], 256)


@given(st.text())
def test_a_saved_one_reads_the_same(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    PLAYS.save(path)
    loaded = BPETokenizer.from_file(path)
    assert loaded.encode(text + END_OF_TEXT) == PLAYS.encode(text + END_OF_TEXT)
    assert (loaded.eos_id, loaded.vocab_size) == (PLAYS.eos_id, PLAYS.vocab_size)


def foreign(specials: list[str]) -> Backend:
    """A word-level tokenizer as another library might have written it."""
    backend = Backend(models.WordLevel({"[UNK]": 0, "to": 1, "be": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(specials)
    return backend


def test_a_foreign_file_speaks_by_its_config(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(foreign(["<stop>", "</s>"]).to_str())
    bare = BPETokenizer.from_file(path)
    assert bare.eos_id == 4  # a usual name
    assert bare.encode("to be <stop>") == [1, 2, 0]
    for eos in ("<stop>", {"content": "<stop>", "special": True}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        told = BPETokenizer.from_file(path)
        assert told.eos_id == 3
        assert told.encode("to be <stop>") == [1, 2, 3]
        assert told.decode([1, 2, 3]) == "to be"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<gone>"}))
    with pytest.raises(InputError, match="'<gone>' is not in"):
        BPETokenizer.from_file(path)


def test_without_a_known_end_there_is_none() -> None:
    assert BPETokenizer(foreign([])).eos_id is None


def test_bad_ids_texts_and_files_are_refused(tmp_path: Path) -> None:
    for bad in (-1, 1024):
        with pytest.raises(InputError, match=f"token id {bad}"):
            PLAYS.decode([bad])
    with pytest.raises(InputError, match=r"U\+DC80"):
        PLAYS.encode("\udc80")
    with pytest.raises(InputError, match="takes a str"):
        PLAYS.encode(["to", "be"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot read"):
        BPETokenizer.from_file(tmp_path / "missing.json")
    for content, message in (
        ("{", "cannot read"),
        ("[1]", "top level"),
        ("{}", "no tokenizers file"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=message):
            BPETokenizer.from_file(tmp_path / "bad.json")


@given(st.permutations([d[:3000] for d in split_documents(plays_text())[:6]]))
def test_texts_alone_decide_what_is_learnt_not_their_order(documents: list[str]) -> None:
    one = BPETokenizer.train(iter(documents), 300, roles=True)
    again = BPETokenizer.train(iter(sorted(documents)), 300, roles=True)
    assert one.backend.to_str() == again.backend.to_str()


def test_roles_get_tokens_where_they_are_asked_for() -> None:
    tokenizer = BPETokenizer.train(["to be or not to be"], 280, roles=True)
    assert tokenizer.special_tokens == {
        "<|endoftext|>": 0,
        "<|system|>": 1,
        "<|user|>": 2,
        "<|assistant|>": 3,
        "<|tool|>": 4,
    }
    assert tokenizer.chat_template == ROLE_TEMPLATE
    assert BPETokenizer.train(["to be"], 257).special_tokens == {END_OF_TEXT: 0}
    with pytest.raises(InputError, match="the roles need 261"):
        BPETokenizer.train(["to be"], 260, roles=True)


@given(st.lists(st.text() | st.just(END_OF_TEXT)))
def test_many_texts_are_encoded_as_one_by_one(texts: list[str]) -> None:
    found = PLAYS.encode_documents(texts)
    assert [ids.tolist() for ids in found] == [PLAYS.encode(text) for text in texts]
    assert all(ids.dtype == np.uint32 for ids in found)


def test_a_bad_text_among_many_is_refused() -> None:
    with pytest.raises(InputError, match=r"U\+D800"):
        PLAYS.encode_documents(["fine", "\ud800"])
    with pytest.raises(InputError, match="takes a str, not list"):
        PLAYS.encode_documents(["fine", ["a", "pair"]])  # type: ignore[list-item]


@given(UNMARKED, UNMARKED)
def test_a_marked_text_ends_where_it_says(before: str, after: str) -> None:
    marked = PLAYS.encode_marked(before + END_OF_TEXT + after)
    assert marked == [*PLAYS.encode(before), 0, *PLAYS.encode(after)]
    assert PLAYS.splits_bytes


def test_files_of_others_keep_their_rule_and_their_template(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(foreign(["<stop>"]).to_str())
    config: dict[str, Any] = {"eos_token": "<stop>", "bos_token": {"content": "to"}, "x_token": 1}
    for given_template, wanted in (
        ("T", "T"),
        ([{"name": "tool_use", "template": "U"}, {"name": "default", "template": "T"}], "T"),
        ([{"name": "tool_use", "template": "U"}], None),
        (None, None),
    ):
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({**config, "chat_template": given_template})
        )
        found = BPETokenizer.from_file(path)
        assert found.chat_template == wanted
        assert found.special_names == {"eos_token": "<stop>", "bos_token": "to"}
        assert not found.splits_bytes
        assert found.encode_marked("to <stop>") == found.encode("to <stop>") == [1, 3]
    (tmp_path / "chat_template.jinja").write_text("J")
    told = BPETokenizer.from_file(path)
    assert told.chat_template == "J"
    # Saved again it says the same, and leaves no second file to contradict it.
    told.save(path)
    assert BPETokenizer.from_file(path).chat_template == "J"
    assert BPETokenizer.from_file(path).special_names == told.special_names
    assert not (tmp_path / "chat_template.jinja").exists()


def test_the_vocabulary_is_a_file_of_the_same_tokenizer(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.plays()
    (tmp_path / "again.json").write_text(tokenizer.vocabulary(), "utf-8")
    again = BPETokenizer.from_file(tmp_path / "again.json")
    assert again.encode("To be, or not") == tokenizer.encode("To be, or not")
