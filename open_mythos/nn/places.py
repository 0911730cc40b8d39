"""Places: some positions of a batch side by side, as if they were one row, and the way back."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from open_mythos.nn.upload import upload


class Shelves(NamedTuple):
    """Some positions by rows again, each row filled up to the fullest one's number.

    Attributes:
        rows: The rows (R), ascending.
        most: M, positions in the fullest row.
        slots: (R, M) int64, which of the N positions stands there; a row is filled up with its
            last one (or, if it has none, with any). None: the N positions as they are.
        back: (N,) int64, where each of them stands in (R * M); None likewise.
        apart: (R,) int64, the rows; None where they are neighbours.
    """

    rows: tuple[int, ...]
    most: int
    slots: Tensor | None
    back: Tensor | None
    apart: Tensor | None

    def of(self, table: Tensor) -> Tensor:
        """These rows of a table (B, ...): a view of neighbours, a copy of others."""
        return table[self.rows[0] : self.rows[-1] + 1] if self.apart is None else table[self.apart]


@dataclass(frozen=True)
class Places:
    """Which N of B x S positions are meant, row after row.

    Attributes:
        index: (N,) int64, b * S + s, ascending.
        counts: Positions of each row: numbers on the host, since shapes follow from them.
        length: S.
        reach: The sum of all s.
    """

    index: Tensor
    counts: tuple[int, ...]
    length: int
    reach: int

    @property
    def count(self) -> int:
        """N."""
        return sum(self.counts)

    @property
    def whole(self) -> int:
        """B * S."""
        return len(self.counts) * self.length

    @cached_property
    def where(self) -> Tensor:
        """(N,), s of each."""
        return self.index % self.length

    def take(self, table: Tensor) -> Tensor:
        """(B, S, ...) -> (1, N, ...)."""
        return table.flatten(0, 1).index_select(0, self.index).unsqueeze(0)

    def put(self, table: Tensor, part: Tensor) -> Tensor:
        """A copy of `table` (B, S, ...) with `part` (1, N, ...) in these places."""
        flat = table.flatten(0, 1).index_copy(0, self.index, part.squeeze(0).to(table.dtype))
        return flat.view(table.shape)

    def told(self, by_row: Tensor) -> Tensor:
        """What is told of every row, (B, 1), of these places: (1, N)."""
        return self.take(by_row.expand(len(self.counts), self.length))

    def among(self, others: Tensor) -> Tensor:
        """(N,), where these places stand in a list of places (M,) that has all of them."""
        return torch.searchsorted(others, self.index)

    def shelves(self, *, every: bool = False) -> Shelves:
        """The positions by rows: of the rows that have any, or of `every` row."""
        return self._every if every else self._some

    @cached_property
    def _some(self) -> Shelves:
        return self._shelved([row for row, count in enumerate(self.counts) if count])

    @cached_property
    def _every(self) -> Shelves:
        return self._shelved(list(range(len(self.counts))))

    def _shelved(self, rows: list[int]) -> Shelves:
        sizes, device = [self.counts[row] for row in rows], self.index.device
        most, near = max(sizes), rows[-1] - rows[0] + 1 == len(rows)
        apart = None if near else upload(rows, device)
        if min(sizes) == most:
            return Shelves(tuple(rows), most, None, None, apart)
        counts = upload(sizes, device)
        first = counts.cumsum(0) - counts
        rank = torch.arange(most, device=device)
        slots = first.unsqueeze(1) + torch.minimum(rank, counts.unsqueeze(1) - 1)
        shelf = torch.arange(len(rows), device=device)
        own = shelf.repeat_interleave(counts, output_size=self.count)
        back = own * most + torch.arange(self.count, device=device) - first[own]
        return Shelves(tuple(rows), most, slots.clamp(0, self.count - 1), back, apart)


def places_of(active: Tensor) -> Places:
    """The places where `active` (B, S) is true: the host waits once, for their numbers."""
    length = active.shape[1]
    reach = (active * torch.arange(length, device=active.device)).sum().unsqueeze(0)
    *counts, total = torch.cat((active.sum(1), reach)).tolist()
    order = torch.argsort(~active.flatten(), stable=True)
    return Places(order[: sum(counts)], tuple(counts), length, total)
