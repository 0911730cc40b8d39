"""TokenWindows: an encoded text as next-token batches, drawn at random or covering it exactly."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.streams import Purpose, require_level, require_whole, stream
from open_mythos.errors import InputError


TokenArray = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows of a token stream, each position scored on the token that follows it.

    Attributes:
        tokens: (N,) integers; an in-memory array or a memory map. N must exceed seq_len.
        seq_len: Positions in a window; a window reads seq_len + 1 tokens.
        batch_size: Windows in a batch.
        seed: Fixes, with the step, which windows are drawn.
        vocab_size: Upper bound of the ids, for the model that reads them.
    """

    tokens: TokenArray
    seq_len: int
    batch_size: int
    seed: int
    vocab_size: int

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_size", "vocab_size"):
            require_whole(name, getattr(self, name))
        require_whole("seed", self.seed, least=0)
        if self.tokens.ndim != 1 or not np.issubdtype(self.tokens.dtype, np.integer):
            raise InputError(
                f"tokens must be a flat array of integers, not {self.tokens.dtype} "
                f"of shape {self.tokens.shape}"
            )
        if self.tokens.size <= self.seq_len:
            raise InputError(
                f"the text has {self.tokens.size} tokens; seq_len {self.seq_len} needs at least "
                f"{self.seq_len + 1}: use more text or a shorter seq_len"
            )
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

    def batch(self, step: int, level: int = 0) -> Batch:
        """Windows at uniformly drawn starts, (batch_size, seq_len), every position scored.

        Raises:
            InputError: When step is negative or level is not 0.
        """
        require_level(level, self.max_level)
        draw = stream(self.seed, Purpose.TRAINING, step)
        starts = draw.integers(self.tokens.size - self.seq_len, size=self.batch_size)
        # A strided view: only the chosen windows are read, which matters for a memory map.
        windows = np.lib.stride_tricks.sliding_window_view(self.tokens, self.seq_len + 1)
        rows = torch.from_numpy(windows[starts].astype(np.int64))
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    def evaluation_batches(self) -> Iterator[Batch]:
        """The whole stream in order: every token but the first is a target exactly once.

        Neighbouring windows overlap by one token, the last target of one being the first input of
        the next. The last window is filled up with id 0 and IGNORE; the last batch may have fewer
        rows than batch_size.
        """
        targets = self.tokens.size - 1
        starts = range(0, targets, self.seq_len)
        for first in range(0, len(starts), self.batch_size):
            chosen = starts[first : first + self.batch_size]
            ids = np.zeros((len(chosen), self.seq_len), dtype=np.int64)
            wanted = np.full_like(ids, IGNORE)
            for row, start in enumerate(chosen):
                width = min(self.seq_len, targets - start)
                ids[row, :width] = self.tokens[start : start + width]
                wanted[row, :width] = self.tokens[start + 1 : start + 1 + width]
            yield Batch(torch.from_numpy(ids), torch.from_numpy(wanted))
