"""Ids are those of a slow byte-pair encoder over the same ranks; every text comes back."""

import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from open_mythos.data.tiktoken_tokenizer import TiktokenTokenizer
from open_mythos.errors import InputError


TEXTS = st.text() | st.text(alphabet="aAé'sT1 \n\r\t\u3000字😀\u0301<|end|>") | st.just("<|end|>")


def slow_ids(tokenizer: TiktokenTokenizer, text: str) -> list[int]:
    """Merge the neighbours of least rank until none are left, in every match of the pattern."""
    regex = pytest.importorskip("regex")
    ranks = tokenizer.encoding._mergeable_ranks
    ids: list[int] = []
    for word in regex.findall(tokenizer.encoding._pat_str, text):
        parts = [bytes([b]) for b in word.encode()]
        while True:
            pairs = [ranks.get(a + b, 1 << 30) for a, b in pairwise(parts)]
            if not pairs or min(pairs) == 1 << 30:
                break
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@given(text=TEXTS)
def test_ids_are_those_of_the_definition(o200k: TiktokenTokenizer, text: str) -> None:
    ids = o200k.encode(text)
    assert ids == slow_ids(o200k, text)
    assert ids == o200k.encoding.encode_ordinary(text)
    assert o200k.decode(ids) == o200k.decode([o200k.eos_id, *ids, 200006]) == text


@given(texts=st.lists(TEXTS))
def test_many_texts_are_encoded_as_one_by_one(o200k: TiktokenTokenizer, texts: list[str]) -> None:
    found = o200k.encode_documents(texts)
    assert [ids.tolist() for ids in found] == [o200k.encode(text) for text in texts]
    assert all(ids.dtype == np.uint32 for ids in found)


def test_its_numbers_are_those_of_gpt_oss(o200k: TiktokenTokenizer) -> None:
    assert o200k.vocab_size == len(o200k) == 201_088
    assert max(o200k.special_tokens.values()) == 201_087
    assert o200k.special_tokens["<|return|>"] == 200_002
    assert o200k.eos_id == 199_999
    assert o200k.encode_marked("a<|end|>") == [*o200k.encode("a"), 200_007]
    assert 200_007 not in o200k.encode("a<|end|>")


def test_what_the_pattern_gives_up_on_is_halved(
    o200k: TiktokenTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = o200k.encoding.encode_to_numpy

    def limited(text: str, **options: Any) -> Any:
        if len(text) > 5:
            raise ValueError("Regex error while tokenizing: Max stack size exceeded")
        return real(text, **options)

    monkeypatch.setattr(o200k.encoding, "encode_to_numpy", limited)
    text = " \n" * 20 + "é"
    assert o200k.decode(o200k.encode(text)) == text
    monkeypatch.setattr(o200k.encoding, "encode_to_numpy", lambda *a, **k: limited("too long"))
    with pytest.raises(ValueError, match="Max stack"):
        o200k.encode("abc")


@pytest.mark.parametrize("agrees", [True, False])
def test_a_faster_encoder_is_used_only_if_it_agrees(
    o200k: TiktokenTokenizer, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    asked: list[int] = []

    def encode_batch(texts: list[str], threads: int) -> tuple[Any, Any]:
        asked.append(threads)
        ids = [o200k.encoding.encode_ordinary(text) for text in texts]
        flat = np.array([i for one in ids for i in one], dtype=np.uint32)
        return flat + (0 if agrees else 1), np.cumsum([0, *map(len, ids)])

    twin = SimpleNamespace(encode_batch=encode_batch, n_vocab=201_088)
    monkeypatch.setitem(
        sys.modules, "quicktok", SimpleNamespace(get_encoding={"o200k_harmony": twin}.__getitem__)
    )
    found = TiktokenTokenizer().encode_documents(["To be", "", "or not"])
    assert [ids.tolist() for ids in found] == [o200k.encode(t) for t in ("To be", "", "or not")]
    assert asked == ([1, 1] if agrees else [1])


@given(texts=st.lists(TEXTS))
def test_the_real_faster_encoder_gives_the_same_ids(
    o200k: TiktokenTokenizer, texts: list[str]
) -> None:
    quicktok = pytest.importorskip("quicktok")
    ids, ends = quicktok.get_encoding("o200k_harmony").encode_batch(texts, 1)
    assert ids.tolist() == [i for text in texts for i in slow_ids(o200k, text)]
    assert len(ends) == len(texts) + 1


def test_bad_ids_texts_and_marks_are_refused(o200k: TiktokenTokenizer) -> None:
    for bad in (-1, 201_088):
        with pytest.raises(InputError, match=f"token id {bad}"):
            o200k.decode([bad])
    for call in (o200k.encode, lambda text: o200k.encode_documents(["fine", text])):
        with pytest.raises(InputError, match=r"U\+D800"):
            call("\ud800")
        with pytest.raises(InputError, match="takes a str, not bytes"):
            call(b"abc")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="asks for encoding 'p50k' with sha256 None"):
        TiktokenTokenizer.from_mark({"encoding": "p50k"})


def test_the_vocabulary_tells_what_ids_stand_for(o200k: TiktokenTokenizer) -> None:
    table = o200k.vocabulary()
    assert len(table) == o200k.vocab_size
    text = "To be \u20ac, or not"
    assert b"".join(table[i] for i in o200k.encode(text)) == text.encode()
    specials = o200k.special_tokens  # of which two may name one id
    assert all(specials[table[i].decode()] == i for i in specials.values())
