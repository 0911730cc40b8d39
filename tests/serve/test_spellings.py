"""Spellings of single tokens, put together, are the text's bytes."""

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import load_tokenizer
from open_mythos.serve.spellings import Spellings


TEXT = "Ab\u00e9\u4e2d\U0001f600 \n\x00"


def test_bytes_of_tokens_are_bytes_of_the_text() -> None:
    tokenizer = ByteTokenizer()
    spellings = Spellings(tokenizer)
    raw = [spellings.raw(token) for token in tokenizer.encode(TEXT)]
    assert bytes(byte for one in raw for byte in one or ()) == TEXT.encode()
    assert spellings.text(ord("A")) == "A"
    assert spellings.text(0xC3) == "bytes:\\xc3"
    assert spellings.text(tokenizer.eos_id) in tokenizer.special_tokens
    assert len({spellings.text(i) for i in range(256)}) == 256
    assert spellings.text(1000) == "token:1000"  # of a padded vocabulary
    assert spellings.raw(1000) is None


def test_tokens_of_words_are_their_text() -> None:
    tokenizer = load_tokenizer("plays")
    spellings = Spellings(tokenizer)
    text = "To be, or not to be"
    assert "".join(spellings.text(i) for i in tokenizer.encode(text)) == text
    raw = [spellings.raw(i) for i in tokenizer.encode(text)]
    assert bytes(byte for one in raw for byte in one or ()) == text.encode()
