"""TokenWindows: a stream of tokens as next-token batches that miss and repeat no target."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.order import shuffled
from open_mythos.data.shards import StartArray, TokenArray, TokenShards, documents_of
from open_mythos.data.streams import (
    Purpose,
    require_level,
    require_rows,
    require_whole,
    stream,
)
from open_mythos.errors import InputError


# (window, shift): a window is some seq_len targets of the stream, turned by `shift` targets.
Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows of a token stream, each position scored on the token that follows it.

    The stream is cut into windows of seq_len targets; a window reads one token more, which the
    next one reads again, so that every token but the stream's first is a target exactly once. The
    last window is filled up with id 0 and IGNORE. Training goes through the windows in epochs,
    each in an order of its own and with the cuts moved: the stream is turned, as if its end met its
    beginning, by an offset that the epoch fixes. What sample number n is follows from (seed, n).

    Attributes:
        tokens: (N,) integers: an array, a memory map or shards. N must exceed seq_len.
        seq_len: Positions in a window.
        batch_size: Windows in a batch.
        seed: Fixes, with the sample's number, which window it is.
        vocab_size: Upper bound of the ids, for the model that reads them.
        starts: Where documents begin, ascending, (D,) int64. Given, batches say which document
            each position belongs to.
    """

    tokens: TokenArray | TokenShards
    seq_len: int
    batch_size: int
    seed: int
    vocab_size: int
    starts: StartArray | None = None

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_size", "vocab_size"):
            require_whole(name, getattr(self, name))
        require_whole("seed", self.seed, least=0)
        if isinstance(self.tokens, np.ndarray) and self.tokens.ndim != 1:
            raise InputError(
                f"tokens must be a flat array of integers, not one of shape {self.tokens.shape}"
            )
        if not np.issubdtype(self.tokens.dtype, np.integer):
            raise InputError(f"tokens must be a flat array of integers, not {self.tokens.dtype}")
        if self.tokens.size <= self.seq_len:
            raise InputError(
                f"the text has {self.tokens.size} tokens; seq_len {self.seq_len} needs at least "
                f"{self.seq_len + 1}: use more text or a shorter seq_len"
            )
        if not isinstance(self.tokens, np.ndarray):
            return  # checked when they were written; reading all of them could take hours
        least, most = int(self.tokens.min()), int(self.tokens.max())
        if least < 0 or most >= self.vocab_size:
            raise InputError(
                f"token ids run from {least} to {most}; vocab_size {self.vocab_size} allows "
                f"0 to {self.vocab_size - 1}: was the text encoded by another tokenizer?"
            )

    @property
    def max_level(self) -> int:
        """Always 0: text has no curriculum."""
        return 0

    @property
    def targets(self) -> int:
        """Targets of an epoch: every token but the first."""
        return self.tokens.size - 1

    @property
    def windows(self) -> int:
        """Windows, and so samples, of an epoch."""
        return -(-self.targets // self.seq_len)

    def epoch(self, step: int) -> float:
        """Passes over the text that the first `step` steps make."""
        return step * self.batch_size / self.windows

    @property
    def real_share(self) -> float:
        """Share of the positions that carry a target; the rest is padding of the last window."""
        return self.targets / (self.windows * self.seq_len)

    def batch(self, step: int, level: int = 0, rows: Sequence[int] | None = None) -> Batch:
        """Samples step * batch_size and on, (batch_size, seq_len), or some rows of that batch.

        Raises:
            InputError: When step is negative, level is not 0, or there is no such row.
        """
        require_whole("step", step, least=0)
        require_level(level, self.max_level)
        chosen = require_rows(rows, self.batch_size)
        return self.samples([step * self.batch_size + row for row in chosen])

    def samples(self, numbers: Sequence[int]) -> Batch:
        """Samples of the endless training sequence by their numbers, a row each."""
        asked = np.asarray(numbers, dtype=np.int64)
        epochs, within = np.divmod(asked, self.windows)
        windows, shifts = np.empty_like(asked), np.empty_like(asked)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            windows[here] = shuffled(within[here], self.windows, self.seed, Purpose.ORDER, epoch)
            shifts[here] = stream(self.seed, Purpose.TRAINING, epoch).integers(self.targets)
        return self._rows(list(zip(windows.tolist(), shifts.tolist(), strict=True)))

    def evaluation_batches(self) -> Iterator[Batch]:
        """The whole stream in order: every token but the first is a target exactly once.

        The last batch may have fewer rows than batch_size.
        """
        for first in range(0, self.windows, self.batch_size):
            last = min(first + self.batch_size, self.windows)
            yield self._rows([(window, 0) for window in range(first, last)])

    def _rows(self, places: Sequence[Place]) -> Batch:
        ids = np.zeros((len(places), self.seq_len), dtype=np.int64)
        wanted = np.full_like(ids, IGNORE)
        documents = None if self.starts is None else np.zeros_like(ids)
        for row, place in enumerate(places):
            filled = document = 0
            for start, stop in self._stretches(place):
                until = filled + stop - start
                tokens = self.tokens[start : stop + 1]
                ids[row, filled:until], wanted[row, filled:until] = tokens[:-1], tokens[1:]
                if self.starts is not None and documents is not None:
                    inside = documents_of(self.starts, start, stop)
                    documents[row, filled:until] = inside + document
                    document += int(inside[-1]) + 1
                filled = until
            if documents is not None:
                documents[row, filled:] = document  # the padding is nobody's
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(wanted),
            documents=None if documents is None else torch.from_numpy(documents),
        )

    def _stretches(self, place: Place) -> Iterator[tuple[int, int]]:
        """The stretches of the stream that a window reads: one, or more where the ends meet."""
        window, shift = place
        begin = window * self.seq_len
        left = min(self.seq_len, self.targets - begin)
        start = (begin + shift) % self.targets
        while left:
            stop = min(start + left, self.targets)
            yield start, stop
            left, start = left - (stop - start), 0
