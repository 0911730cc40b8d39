"""However tokens arrive, and wherever writing is cut off, the files are those of one go."""

import os
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from open_mythos.checkpoint.files import digest
from open_mythos.data.encoding import Encoded
from open_mythos.data.prepared import Split
from open_mythos.data.split_writer import SplitWriter
from open_mythos.errors import DamagedError


DTYPE = np.dtype(np.uint16)


def writer(folder: Path, shard_tokens: int, done: Split | None = None) -> SplitWriter:
    return SplitWriter(folder, "train", DTYPE, shard_tokens, done or Split())


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def portion(first: int, count: int) -> Encoded:
    """`count` tokens that number themselves, a document beginning at each multiple of 3."""
    tokens = np.arange(first, first + count, dtype=DTYPE)
    return Encoded(tokens, np.flatnonzero(tokens % 3 == 0))


@given(
    counts=st.lists(st.integers(0, 12), max_size=8),
    shard_tokens=st.integers(1, 9),
    stop=st.integers(0, 8),
    extra=st.integers(0, 30),
)
def test_files_do_not_depend_on_portions_and_stops(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    shard_tokens: int,
    stop: int,
    extra: int,
) -> None:
    folder = tmp_path_factory.mktemp("out")
    firsts = [0, *accumulate(counts)]
    finished: dict[str, object] = {}
    with writer(folder, shard_tokens) as first:
        for start, count in zip(firsts[:stop], counts[:stop], strict=False):
            first.append(portion(start, count), count)
        first.sync()
        done = first.done
        finished |= first.finished
        first.append(portion(0, extra), extra)  # written, and lost with the process
    with writer(folder, shard_tokens, done) as second:
        for start, count in zip(firsts[stop:], counts[stop:], strict=False):
            second.append(portion(start, count), count)
        second.finish()
        finished |= second.finished
    total = sum(counts)
    assert second.done == Split(documents=-(-total // 3), tokens=total, text_bytes=total)
    shards = sorted(folder.glob("train-*.bin"))
    assert [path.stat().st_size // 2 for path in shards[:-1]] == [shard_tokens] * (len(shards) - 1)
    stored = np.concatenate([np.empty(0, "<u2"), *(np.fromfile(p, "<u2") for p in shards)])
    assert stored.tolist() == list(range(total))
    assert set(finished) == {path.name for path in folder.iterdir()}
    if total:
        starts = np.fromfile(folder / "train.starts", "<i8")
        assert starts.tolist() == list(range(0, total, 3))
    for name, record in finished.items():
        path = folder / name
        assert record.bytes == path.stat().st_size  # type: ignore[attr-defined]
        assert record.sha256 == digest(path)  # type: ignore[attr-defined]


def test_wide_tokens_are_little_endian(tmp_path: Path) -> None:
    wide = np.dtype(np.uint32)
    with SplitWriter(tmp_path, "validation", wide, 10, Split()) as out:
        out.append(Encoded(np.array([1, 1 << 16], dtype=wide), np.array([0])), 1)
        out.finish()
    assert (tmp_path / "validation-00000.bin").read_bytes() == b"\1\0\0\0\0\0\1\0"
    assert (tmp_path / "validation.starts").read_bytes() == b"\0" * 8


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00001.bin", "train.starts"])
def test_files_that_lost_something_are_named(tmp_path: Path, name: str) -> None:
    with writer(tmp_path, 10) as out:
        out.append(portion(0, 15), 15)
    path = tmp_path / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=f"{name} has {size - 1} bytes, {size} were written"):
        writer(tmp_path, 10, out.done)
    path.unlink()
    with pytest.raises(DamagedError, match=f"{name} has 0 bytes"):
        writer(tmp_path, 10, out.done)
