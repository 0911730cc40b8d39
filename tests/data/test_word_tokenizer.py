"""Word tokenizers against str.split and a list."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.tokenizer import save_tokenizer, tokenizer_from_folder
from open_mythos.data.word_tokenizer import word_tokenizer
from open_mythos.errors import InputError


WORD = st.text("abc:>#.^", min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(WORD, unique=True, min_size=1, max_size=9), data=st.data())
def test_words_are_numbered_and_strangers_are_the_unknown_one(
    words: list[str], data: st.DataObject
) -> None:
    known = [*words, "?"]
    tokenizer = word_tokenizer(known, "?")
    text = data.draw(st.lists(WORD, max_size=8))
    ids = [known.index(word) if word in known else len(words) for word in text]
    assert tokenizer.vocab_size == len(known)
    assert tokenizer.encode(" ".join(text)) == ids
    assert tokenizer.decode(ids) == " ".join(known[i] for i in ids)


def test_it_is_saved_and_read_like_any_other(tmp_path: Path) -> None:
    save_tokenizer(word_tokenizer(("sums:^", "sums:3", "?"), "?"), tmp_path)
    found = tokenizer_from_folder(tmp_path)
    assert found.encode("sums:3 sums:^ 7") == [1, 0, 2]
    assert (found.eos_id, found.vocab_size) == (None, 3)


@pytest.mark.parametrize("words", [("a", "b"), ("a", "a", "?")])
def test_words_that_do_not_name_ids_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="must be one"):
        word_tokenizer(words, "?")
