"""Overthinking: right answers that further loops lose, and wrong ones that they mend."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Overthinking:
    """What loops did to answers, as shares of all scored positions.

    Attributes:
        right_somewhere: Right after some loop.
        right_at_end: Right after the last.
        lost: Right after some loop, but not after the last.
        accuracy: By loop.
        mended: By loop from the second on: wrong before it and right after it.
        broken: By loop from the second on: right before it and wrong after it.
    """

    right_somewhere: float
    right_at_end: float
    lost: float
    accuracy: tuple[float, ...]
    mended: tuple[float, ...]
    broken: tuple[float, ...]


def overthinking(hit: Tensor) -> Overthinking:
    """From whether each position is right after each loop, (T, N) boolean."""
    before, after = hit[:-1], hit[1:]
    some, end = hit.any(0), hit[-1]
    return Overthinking(
        right_somewhere=_share(some),
        right_at_end=_share(end),
        lost=_share(some & ~end),
        accuracy=tuple(_share(row) for row in hit),
        mended=tuple(_share(row) for row in ~before & after),
        broken=tuple(_share(row) for row in before & ~after),
    )


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
