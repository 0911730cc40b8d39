"""SplitWriter: one split's token files while they are written, and after a kill in the middle."""

import os
from pathlib import Path
from types import TracebackType

import numpy as np

from open_mythos.checkpoint.files import digest, sync_path
from open_mythos.data.encoding import Encoded
from open_mythos.data.prepared import (
    START_BYTES,
    FileRecord,
    Split,
    SplitName,
    shard_name,
    starts_name,
)
from open_mythos.errors import DamagedError


class SplitWriter:
    """Appends tokens to shards of equal length, and document starts to a file beside them.

    What was written since the last `sync` may be lost with the process; opened again with the
    counts of that moment, it cuts off the rest and goes on.

    Attributes:
        name: Of the split.
        done: What was appended so far.
        finished: Full shards, and at the end every file, with their checksums.
    """

    def __init__(
        self,
        folder: Path,
        name: SplitName,
        dtype: np.dtype[np.unsignedinteger],
        shard_tokens: int,
        done: Split,
    ) -> None:
        """Open the files as they were when `done` held.

        Raises:
            DamagedError: If a file is shorter than that.
        """
        self.name, self.done = name, done
        self.finished: dict[str, FileRecord] = {}
        self._folder, self._dtype, self._room = folder, dtype.newbyteorder("<"), shard_tokens
        full, rest = divmod(done.tokens, shard_tokens)
        for index in range(full):
            _require(folder / shard_name(name, index), shard_tokens * dtype.itemsize)
        later = full + 1
        while (path := folder / shard_name(name, later)).is_file():
            path.unlink()
            later += 1
        _cut(folder / starts_name(name), done.documents * START_BYTES)
        _cut(folder / shard_name(name, full), rest * dtype.itemsize)
        sync_path(folder)
        self._starts = (folder / starts_name(name)).open("ab")
        self._shard = (folder / shard_name(name, full)).open("ab")

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shard.close()
        self._starts.close()

    def append(self, encoded: Encoded, text_bytes: int) -> None:
        """Add the tokens of some pieces, which spell so many bytes."""
        starts = encoded.starts + self.done.tokens
        self._starts.write(starts.astype("<i8", copy=False).tobytes())
        left = encoded.tokens.astype(self._dtype, copy=False)
        total = self.done.tokens
        while left.size:
            taken = left[: self._room - total % self._room]
            self._shard.write(taken.tobytes())
            left, total = left[taken.size :], total + taken.size
            if total % self._room == 0:
                self._next_shard(total // self._room)
        self.done = Split(
            documents=self.done.documents + starts.size,
            tokens=total,
            text_bytes=self.done.text_bytes + text_bytes,
        )

    def sync(self) -> None:
        """Force everything so far to disk."""
        for file in (self._shard, self._starts):
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Close the files and take the last checksums; an empty file is removed."""
        self.sync()
        self._shard.close()
        self._starts.close()
        last = shard_name(self.name, self.done.tokens // self._room)
        for name in (last, starts_name(self.name)):
            if (self._folder / name).stat().st_size:
                self._seal(name)
            else:
                (self._folder / name).unlink()

    def _next_shard(self, index: int) -> None:
        self.sync()
        self._shard.close()
        self._seal(shard_name(self.name, index - 1))
        self._shard = (self._folder / shard_name(self.name, index)).open("wb")
        sync_path(self._folder)

    def _seal(self, name: str) -> None:
        path = self._folder / name
        self.finished[name] = FileRecord(bytes=path.stat().st_size, sha256=digest(path))


def _require(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else 0
    if found < size:
        raise DamagedError(
            f"{path} has {found} bytes, {size} were written; delete the folder and start over"
        )


def _cut(path: Path, size: int) -> None:
    """Leave the first `size` bytes of a file, which may be new where that is none."""
    if size:
        _require(path, size)
    path.touch()
    os.truncate(path, size)
