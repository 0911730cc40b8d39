"""Mixture: several sources of text in one training sequence, each with its share of the samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from open_mythos.data.batch import Batch
from open_mythos.data.order import shuffled
from open_mythos.data.streams import Purpose, require_level, require_rows, require_whole
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError


# Samples are shuffled among so many neighbours: about a batch, so that a batch has nearly exactly
# its shares, and no sixteenth row of every batch comes from the same source.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class Mixture:
    """One sequence of samples out of several, in exact proportions.

    Of the first n samples, n a multiple of BLOCK, each source has given its share of n, up to
    about one sample per source. A source gives its samples 0, 1, 2, ... once each, shuffled among
    neighbours only: it is read in its own order, in its own epochs. Which sample of which source
    sample number n is follows from (seed, n).

    Attributes:
        parts: The sources, of one seq_len; their own batch sizes play no part.
        weights: Share of each, in any unit; positive.
        batch_size: Rows of a batch.
        seed: Fixes the shuffling.
    """

    parts: tuple[TokenWindows, ...]
    weights: tuple[float, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        require_whole("batch_size", self.batch_size)
        require_whole("seed", self.seed, least=0)
        if not self.parts or len(self.parts) != len(self.weights):
            raise InputError(
                f"a mixture has a weight for every source; these are {len(self.parts)} sources and "
                f"{len(self.weights)} weights"
            )
        for weight in self.weights:
            if not (isfinite(weight) and weight > 0):
                raise InputError(f"a weight is {weight}; it must be positive and finite")
        lengths = sorted({part.seq_len for part in self.parts})
        if len(lengths) > 1:
            raise InputError(f"the sources of a mixture differ in seq_len: {lengths}")

    @property
    def vocab_size(self) -> int:
        """Every id of every source is below it."""
        return max(part.vocab_size for part in self.parts)

    @property
    def seq_len(self) -> int:
        """Positions in a row."""
        return self.parts[0].seq_len

    @property
    def max_level(self) -> int:
        """Always 0: text has no curriculum."""
        return 0

    @property
    def real_share(self) -> float:
        """Share of the positions that carry a target, in the long run."""
        total = sum(self.weights)
        pairs = zip(self.parts, self.weights, strict=True)
        return sum(part.real_share * weight / total for part, weight in pairs)

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
        origins = self.origins(numbers)
        found: list[tuple[list[int], Batch]] = []
        for index, part in enumerate(self.parts):
            rows = [row for row, (source, _) in enumerate(origins) if source == index]
            if rows:
                found.append((rows, part.samples([origins[row][1] for row in rows])))
        masked = all(batch.documents is not None for _, batch in found)
        return Batch(
            _joined([(rows, batch.ids) for rows, batch in found]),
            _joined([(rows, batch.targets) for rows, batch in found]),
            documents=_joined([(r, b.documents) for r, b in found if b.documents is not None])
            if masked
            else None,
        )

    def origins(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """(source, number of its sample) of each sample number."""
        return [self._origin(number) for number in self._neighbours(numbers)]

    @cached_property
    def _splits(self) -> tuple[Fraction, ...]:
        """Share of each source but the last among itself and those behind it."""
        exact = [Fraction(str(weight)) for weight in self.weights]
        return tuple(exact[i] / sum(exact[i:]) for i in range(len(exact) - 1))

    def _origin(self, number: int) -> tuple[int, int]:
        """Sample `number` of the unshuffled sequence, by one two-way split after the other.

        Of the first n samples that reach a split with share w, floor(n * w) go to its source and
        the rest pass on. Both counts only ever grow, and add up to n: nothing is lost or repeated.
        """
        for source, share in enumerate(self._splits):
            before, after = (n * share.numerator // share.denominator for n in (number, number + 1))
            if after > before:
                return source, before
            number -= before
        return len(self._splits), number

    def _neighbours(self, numbers: Sequence[int]) -> list[int]:
        """Each number exchanged for one of its own block, one-to-one."""
        blocks, within = np.divmod(np.asarray(numbers, dtype=np.int64), BLOCK)
        places = np.empty_like(within)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            places[here] = shuffled(within[here], BLOCK, self.seed, Purpose.MIXTURE, block)
        return [int(number) for number in blocks * BLOCK + places]


def _joined(parts: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """Rows of several tensors, each at the place that is written beside it."""
    order = torch.tensor([row for rows, _ in parts for row in rows])
    stacked = torch.cat([tensor for _, tensor in parts])
    placed = torch.empty_like(stacked)
    placed[order] = stacked
    return placed
