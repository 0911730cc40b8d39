"""TokenShards: token arrays seen as one long array that is never read whole."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from open_mythos.errors import InputError


TokenArray = npt.NDArray[np.integer]
# Where documents begin, ascending.
StartArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenShards:
    """Token arrays one after the other, read by slices; what no slice asks for stays on disk.

    Attributes:
        parts: The arrays, (n,) integers of one type each, usually memory maps.
        dtype: That type.
    """

    parts: tuple[TokenArray, ...]
    dtype: np.dtype[Any]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(part.size for part in self.parts))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self._ends[-1] if self.parts else 0

    def __getitem__(self, span: slice) -> TokenArray:
        """The tokens of a slice without a step, copied together where it crosses a border."""
        start, stop, step = span.indices(self.size)
        if step != 1:
            raise InputError(f"tokens are read in order; a step of {step} is not offered")
        found: list[TokenArray] = [np.empty(0, self.dtype)]
        index = bisect_right(self._ends, start)
        while start < stop:
            begin = self._ends[index] - self.parts[index].size
            until = min(stop, self._ends[index])
            found.append(self.parts[index][start - begin : until - begin])
            start, index = until, index + 1
        return found[1] if len(found) == 2 else np.concatenate(found)


def documents_of(starts: StartArray, start: int, stop: int) -> StartArray:
    """Which document each of the positions start .. stop - 1 is in, counted from that of `start`.

    Args:
        starts: Where documents begin, ascending; int64, or a search would convert all of it.
        start: First position.
        stop: Behind the last.
    """
    first, last = np.searchsorted(starts, np.array([start, stop - 1]), side="right")
    inner = starts[first:last]
    return np.searchsorted(inner, np.arange(start, stop), side="right").astype(np.int64)
