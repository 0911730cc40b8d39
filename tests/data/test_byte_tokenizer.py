"""Bytes out, the same text back, and an end of text that no text contains."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.data.byte_tokenizer import MARK, ByteTokenizer
from open_mythos.errors import InputError


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert bytes(ids) == text.encode()
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.eos_id, *ids, tokenizer.eos_id]) == text


@given(st.lists(st.integers(0, 256)))
def test_every_list_of_ids_has_a_text(ids: list[int]) -> None:
    text = ByteTokenizer().decode(ids)
    assert text == bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


def test_arrays_and_tensors_decode_as_lists_do() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("né")
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(torch.tensor(ids)) == "né"
    assert len(tokenizer) == tokenizer.vocab_size == 257


@pytest.mark.parametrize("bad", [-1, 257])
def test_ids_outside_the_vocabulary_are_refused(bad: int) -> None:
    with pytest.raises(InputError, match=f"token id {bad}"):
        ByteTokenizer().decode([65, bad])


def test_what_has_no_bytes_is_refused() -> None:
    with pytest.raises(InputError, match=r"character 1 .*U\+D800"):
        ByteTokenizer().encode("a\ud800")
    with pytest.raises(InputError, match="takes a str, not bytes"):
        ByteTokenizer().encode(b"abc")  # type: ignore[arg-type]


# Hypothesis draws the strings of our own source too, the spellings of special tokens among them.
@given(st.text().filter(lambda text: "<|" not in text))
def test_roles_are_bytes_that_no_text_holds(text: str) -> None:
    tokenizer = ByteTokenizer()
    specials = tokenizer.special_tokens
    assert len(set(specials.values())) == len(specials) == 5
    assert all(i < tokenizer.vocab_size for i in specials.values())
    assert not set(specials.values()) & set(tokenizer.encode(text + "".join(specials)))
    marked = tokenizer.encode_marked(text + "<|user|>" + text)
    assert marked == [*text.encode(), specials["<|user|>"], *text.encode()]


@given(st.lists(st.text()))
def test_many_texts_are_encoded_as_one_by_one(texts: list[str]) -> None:
    tokenizer = ByteTokenizer()
    found = tokenizer.encode_documents(texts)
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in texts]
    assert all(ids.dtype == np.uint32 for ids in found)


def test_a_template_of_ones_own_is_kept(tmp_path: Path) -> None:
    for template in ("{{ messages }}", None):
        ByteTokenizer(template).save(tmp_path / "tokenizer.json")
        mark = json.loads((tmp_path / "tokenizer.json").read_text())
        assert ByteTokenizer.from_mark(mark).chat_template == template
    ByteTokenizer().save(tmp_path / "tokenizer.json")
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == MARK


def test_the_vocabulary_tells_what_ids_stand_for() -> None:
    tokenizer = ByteTokenizer()
    table = tokenizer.vocabulary()
    assert len(table) == tokenizer.vocab_size
    assert b"".join(table[i] for i in tokenizer.encode("n\u00e9")) == "n\u00e9".encode()
    assert table[tokenizer.eos_id] == b"<|endoftext|>"
