"""Shards read as the one array that they are pieces of."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from open_mythos.data.shards import TokenShards, documents_of
from open_mythos.errors import InputError


@given(
    text=st.lists(st.integers(0, 65_535), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    span=st.tuples(st.none() | st.integers(-70, 70), st.none() | st.integers(-70, 70)),
)
def test_a_slice_is_that_of_the_whole(
    text: list[int], cuts: list[int], span: tuple[int | None, int | None]
) -> None:
    whole = np.array(text, dtype=np.uint16)
    shards = TokenShards(tuple(np.split(whole, sorted(cuts))), whole.dtype)
    assert shards.size == whole.size
    found = shards[slice(*span)]
    assert found.dtype == np.uint16
    assert found.tolist() == whole[slice(*span)].tolist()


def test_a_slice_inside_one_file_is_not_copied(tmp_path: Path) -> None:
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", np.uint16, mode="r")
    shards = TokenShards((mapped[:50], mapped[50:]), mapped.dtype)
    assert np.shares_memory(shards[50:60], mapped)
    assert not np.shares_memory(shards[45:60], mapped)


def test_no_shard_is_no_token_and_steps_are_refused() -> None:
    shards = TokenShards((), np.dtype(np.uint16))
    assert shards.size == 0
    assert shards[:].size == 0
    with pytest.raises(InputError, match="step of 2"):
        shards[::2]


@given(st.data())
def test_documents_are_counted_from_the_first_position(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=10))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    start = data.draw(st.integers(0, len(owner) - 1))
    stop = data.draw(st.integers(start + 1, len(owner)))
    assert documents_of(starts, start, stop).tolist() == (owner[start:stop] - owner[start]).tolist()
