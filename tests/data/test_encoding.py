"""Tokens are the tokenizer's own, an end behind each document, whoever encodes them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from open_mythos.data import encoding
from open_mythos.data.encoding import Encoded, Texts, encode_jobs, encode_texts, token_dtype
from open_mythos.data.tokenizer import BPETokenizer, ByteTokenizer, save_tokenizer
from open_mythos.errors import InputError


class Batching(ByteTokenizer):
    """A tokenizer with a way to encode many texts at once, and room for wide ids."""

    def __init__(self, size: int) -> None:
        self.size, self.calls = size, 0

    @property
    def vocab_size(self) -> int:
        return self.size

    def encode_documents(self, texts: list[str]) -> list[np.ndarray]:
        self.calls += 1
        return [np.array(list(text.encode()), dtype=np.uint32) for text in texts]


@dataclass(frozen=True)
class Work:
    parts: list[Texts]


@given(st.lists(st.tuples(st.text(max_size=9), st.booleans(), st.booleans()), max_size=8))
def test_ends_stand_where_documents_end(pieces: list[tuple[str, bool, bool]]) -> None:
    tokenizer = BPETokenizer.plays()
    texts, begins, ends = ([p[i] for p in pieces] for i in range(3))
    found = encode_texts(tokenizer, Texts(texts, begins, ends))
    wanted: list[int] = []
    starts = []
    for text, begin, end in pieces:
        starts += [len(wanted)] if begin else []
        wanted += [*tokenizer.encode(text), *([tokenizer.eos_id] if end else [])]
    assert found.tokens.tolist() == wanted
    assert found.starts.tolist() == starts
    assert (found.tokens.dtype, found.starts.dtype) == (np.uint16, np.int64)


@pytest.mark.parametrize(("size", "bits"), [(257, 16), (65_536, 16), (65_537, 32)])
def test_many_texts_go_together_and_wide_ids_get_four_bytes(size: int, bits: int) -> None:
    tokenizer = Batching(size)
    found = encode_texts(tokenizer, Texts(["a", "bc"], [True, False], [False, True]))
    assert tokenizer.calls == 1
    assert found.tokens.tolist() == [97, 98, 99, 256]
    assert found.tokens.dtype == token_dtype(size) == np.dtype(f"uint{bits}")


def test_ids_beyond_the_vocabulary_and_missing_ends_are_refused() -> None:
    with pytest.raises(InputError, match="gave id 256, but says that it has 200 tokens"):
        encode_texts(Batching(200), Texts(["a"], [True], [True]))

    class Endless(ByteTokenizer):
        eos_id = None  # type: ignore[assignment]

    with pytest.raises(InputError, match="no end-of-text token"):
        encode_texts(Endless(), Texts(["a"], [True], [True]))


def same(one: Encoded, other: Encoded) -> bool:
    return np.array_equal(one.tokens, other.tokens) and np.array_equal(one.starts, other.starts)


def test_workers_answer_in_order_and_alike(tmp_path: Path) -> None:
    save_tokenizer(BPETokenizer.plays(), tmp_path)
    read: list[int] = []

    def jobs() -> Iterator[Work]:
        for i in range(9):
            read.append(i)
            texts = Texts(["word " * (9 - i) * 500, "end"], [True, True], [True, True])
            yield Work([texts, Texts([str(i)], [False], [True])])

    alone = list(encode_jobs(jobs(), tmp_path, 1))
    assert read == list(range(9))
    read.clear()
    together = encode_jobs(jobs(), tmp_path, 2)
    first = next(together)
    assert len(read) == 5  # no more than two a worker are under way, and the one to be sent
    for (job, answers), (twin, expected) in zip([first, *together], alone, strict=True):
        assert job == twin
        assert all(same(a, b) for a, b in zip(answers, expected, strict=True))


def test_a_worker_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(ByteTokenizer(), tmp_path)
    # Sent by name: the worker then ends with the job for its exit code.
    monkeypatch.setattr(encoding, "_encode", os._exit)
    jobs = iter([Work(3)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"worker process ended.*fewer --workers"):
        list(encode_jobs(jobs, tmp_path, 2))
