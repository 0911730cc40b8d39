"""Documents are neither lost nor shared by the split, and their ends are marked."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from open_mythos.data.corpus import (
    SEPARATOR,
    corpus_text,
    encode_corpus,
    join_documents,
    plays_text,
    split_documents,
    train_validation_split,
)
from open_mythos.data.tokenizer import BPETokenizer, ByteTokenizer
from open_mythos.errors import InputError


# Visible at both ends, so that splitting has no line break to drop.
documents = st.lists(
    st.text("ab c\n", max_size=30).map(lambda body: f"<{body}>"), min_size=2, max_size=20
)


@given(documents)
def test_joined_documents_come_apart_again(parts: list[str]) -> None:
    assert split_documents(join_documents(parts)) == parts


@given(documents, st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_the_split_shares_and_loses_nothing(parts: list[str], share: float, seed: int) -> None:
    # Numbered, so that equal documents stay apart.
    parts = [f"{i}{part}" for i, part in enumerate(parts)]
    text = join_documents(parts)
    train, validation = (
        split_documents(half) for half in train_validation_split(text, share, seed)
    )
    assert train
    assert validation
    assert sorted(train + validation) == sorted(parts)
    assert train == [part for part in parts if part in set(train)]
    assert len(validation) == 1 or sum(map(len, validation)) <= share * sum(map(len, parts))
    assert train_validation_split(text, share, seed) == train_validation_split(text, share, seed)


@given(st.text("ab\n", min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_single_document_is_cut_once(body: str, share: float) -> None:
    text = f"<{body}>"
    train, validation = train_validation_split(text, share)
    assert train
    assert validation
    assert train + validation == text


def test_a_single_document_is_cut_between_paragraphs() -> None:
    text = "\n\n".join(f"paragraph {i} of a longer text" for i in range(100))
    train, validation = train_validation_split(text, 0.2)
    assert validation.startswith("\n\nparagraph")
    assert 0.2 <= len(validation) / len(text) < 0.22
    assert train + validation == text


def test_other_seeds_hold_out_other_documents() -> None:
    text = join_documents([f"document {i}" for i in range(100)])
    assert train_validation_split(text, 0.1, 0) != train_validation_split(text, 0.1, 1)


def test_the_plays_are_one_megabyte_of_scenes() -> None:
    text = plays_text()
    scenes = split_documents(text)
    assert 950_000 < len(text.encode()) <= 1_050_000
    assert len(scenes) > 150
    assert min(map(len, scenes)) > 200
    assert sum("\nACT I\n" in scene for scene in scenes) == 9
    assert "HAMLET:\nTo be, or not to be: that is the question:\n" in text
    assert not set(text) - {SEPARATOR, "\n", *map(chr, range(32, 127))}
    for mark in ("**", "_", "#", "\\", "  ", " \n", "\n\n\n"):
        assert mark not in text
    train, validation = train_validation_split(text)
    assert 0.08 < len(validation) / (len(train) + len(validation)) <= 0.1


@given(documents)
def test_encoding_marks_the_end_of_each_document(parts: list[str]) -> None:
    tokenizer = ByteTokenizer()
    ids = encode_corpus(tokenizer, join_documents(parts))
    assert ids.dtype == np.uint16
    pieces = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)
    assert [tokenizer.decode(piece) for piece in pieces[:-1]] == parts
    assert pieces[-1].size == 0


class Wide(ByteTokenizer):
    """As a byte tokenizer, with room for more ids than two bytes can number."""

    @property
    def vocab_size(self) -> int:
        return 65_537


class Endless:
    """A tokenizer without an end of text."""

    vocab_size = 256
    eos_id = None
    encode = staticmethod(lambda text: list(text.encode()))
    decode = staticmethod(lambda ids: bytes(ids).decode())


def test_ids_past_two_bytes_get_four() -> None:
    assert encode_corpus(Wide(), "text").dtype == np.uint32


def test_without_an_end_token_a_blank_line_parts_documents() -> None:
    ids = encode_corpus(Endless(), join_documents(["one", "two"]))
    assert bytes(ids.tolist()).decode() == "one\n\ntwo\n\n"


def test_bpe_needs_fewer_tokens_than_bytes() -> None:
    _, validation = train_validation_split(plays_text())
    tokens = encode_corpus(BPETokenizer.plays(), validation)
    assert 2.0 < len(validation) / tokens.size < 3.0


def test_corpus_text_reads_files_and_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("héllo", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("héllo".encode("latin-1"))
    assert corpus_text(tmp_path / "mine.txt") == "héllo"
    assert corpus_text("plays") == plays_text()
    with pytest.raises(InputError, match="give a UTF-8 text file or 'plays'"):
        corpus_text("playz")
    with pytest.raises(InputError, match="not UTF-8"):
        corpus_text(tmp_path / "latin.txt")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_shares_outside_the_unit_interval_are_refused(share: float) -> None:
    with pytest.raises(InputError, match="validation_share"):
        train_validation_split("some text", share)


def test_texts_too_short_are_refused() -> None:
    with pytest.raises(InputError, match="1 characters"):
        train_validation_split("a")
    with pytest.raises(InputError, match="nothing to encode"):
        encode_corpus(ByteTokenizer(), " \n\f\n ")
