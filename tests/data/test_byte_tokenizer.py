"""Bytes out, the same text back, and an end of text that no text contains."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.data.byte_tokenizer import ByteTokenizer
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
