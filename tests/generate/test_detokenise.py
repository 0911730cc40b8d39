"""Pieces against decoding everything at once, for every kind of tokenizer at hand."""

from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer as Backend, decoders, models

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.generate.detokenise import Detokeniser, Spelling


BYTES, PLAYS = ByteTokenizer(), BPETokenizer.plays()
TOKENIZERS: list[Spelling] = [BYTES, PLAYS]
texts = st.text(st.sampled_from("aé\u20ac\U0001f600 \n\ufffd"), max_size=30)


def pieces(tokenizer: Spelling, ids: list[int], prompt: Iterable[int] = ()) -> list[str]:
    writer = Detokeniser(tokenizer, list(prompt))
    return [*(writer.push(i) for i in ids), writer.finish()]


@pytest.mark.parametrize("tokenizer", [BYTES, PLAYS], ids=["bytes", "plays"])
@given(text=texts, prompt=texts)
def test_a_text_comes_out_whole_behind_any_prompt(
    tokenizer: ByteTokenizer | BPETokenizer, text: str, prompt: str
) -> None:
    got = pieces(tokenizer, tokenizer.encode(text), tokenizer.encode(prompt))
    assert "".join(got) == text


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "plays"])
@given(data=st.data())
def test_any_ids_come_out_as_they_decode_together(tokenizer: Spelling, data: st.DataObject) -> None:
    """Broken characters and special tokens too."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=texts)
def test_a_character_comes_with_its_last_byte_and_not_before(text: str) -> None:
    whole = text.replace("\ufffd", "x")
    writer = Detokeniser(BYTES)
    for character in whole:
        *before, last = BYTES.encode(character)
        assert [writer.push(byte) for byte in before] == [""] * len(before)
        assert writer.push(last) == character


def test_only_the_last_character_waits() -> None:
    writer = Detokeniser(BYTES)
    assert writer.push(0xC3) == ""
    assert writer.push(0xC3) == "\ufffd"  # the first is known to be broken, the second is not
    assert writer.finish() == "\ufffd"


def test_a_space_before_a_word_survives_a_decoder_that_strips_it_from_the_first() -> None:
    words = {word: i for i, word in enumerate(["\u2581the", "\u2581cat", "s", "\u2581", "<unk>"])}
    backend = Backend(models.WordLevel(words, "<unk>"))
    backend.decoder = decoders.Metaspace()
    tokenizer = BPETokenizer(backend)
    ids = [0, 1, 2] * 10
    assert tokenizer.decode([0, 1, 2]) == "the cats"
    assert "".join(pieces(tokenizer, ids, [0])) == tokenizer.decode([0, *ids])[3:]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_ids_that_only_pad_the_vocabulary_stand_for_nothing() -> None:
    assert pieces(BYTES, [65, 300, 66]) == ["A", "", "B", ""]


def test_a_token_is_decoded_in_a_bounded_context() -> None:
    longest = 0

    class Counting:
        vocab_size = 257

        def decode(self, ids: Iterable[int]) -> str:
            nonlocal longest
            longest = max(longest, len(list(ids)))
            return BYTES.decode(ids)

    text = "\u20ac\U0001f600" * 100
    assert "".join(pieces(Counting(), BYTES.encode(text))) == text
    assert longest < 30
