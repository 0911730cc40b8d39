"""Where rows stand between two loops: all that one loop hands to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_mythos.nn.block import Frozen
from open_mythos.nn.cache import Entries
from open_mythos.nn.cut import cut
from open_mythos.nn.loop.readout import Readout, join_readouts


@dataclass(frozen=True)
class Standing:
    """What a loop takes over from the one before it; rows do not depend on each other.

    Attributes:
        h: (B, S, dim), the state.
        e: (B, S, dim), the input that every loop sees.
        readout: The account of the loops so far.
        frozen: Positions that have halted for good; None before the first loop, and where halted
            positions go on.
        shared: The first loop's keys and values, where all loops look at them; None before it.
    """

    h: Tensor
    e: Tensor
    readout: Readout
    frozen: Frozen | None = None
    shared: Entries | None = None

    @property
    def rows(self) -> int:
        """B."""
        return self.h.shape[0]

    def active(self, valid: Tensor | None) -> Tensor | None:
        """(B, S) positions that the experts must serve, of the real ones; None is all of them."""
        if self.frozen is None:
            return valid
        running = ~self.frozen.halted
        return running if valid is None else running & valid

    def split(self, tail: int) -> tuple["Standing", "Standing"]:
        """All rows but the last `tail`, and those."""
        sizes = [self.rows - tail, tail]
        states = cut(self.h, sizes)
        readouts = self.readout.split(sizes, states)
        shared = [None, None] if self.shared is None else _split(self.shared, sizes)
        frozen: list[Frozen | None] = [None, None]
        if self.frozen is not None:
            entries = _split(self.frozen.entries, sizes)
            frozen = [_freeze(r, kept) for r, kept in zip(readouts, entries, strict=True)]
        parts = zip(states, cut(self.e, sizes), readouts, frozen, shared, strict=True)
        front, back = (Standing(*part) for part in parts)
        return front, back

    def copy(self, own: Callable[[Tensor], Tensor]) -> "Standing":
        """The same, of tensors that `own` makes."""
        h = own(self.h)
        readout = self.readout.copy(h, own)
        frozen = None
        if self.frozen is not None:
            entries = {name: own(t) for name, t in self.frozen.entries.items()}
            frozen = _freeze(readout, entries)
        shared = self.shared and {name: own(t) for name, t in self.shared.items()}
        return Standing(h, own(self.e), readout, frozen, shared)


def hung(standing: Standing, e: Tensor) -> Standing:
    """The same in storage of its own, beside the input `e` (B, S, dim).

    Constants hang on the input in the autograd graph, with a slope of zero: a compiled loop would
    need graphs of its own for what has no gradient, and for what starts inside its storage.
    """
    e = e.clone()
    anchor = e.flatten()[0]
    never = torch.zeros((), dtype=torch.bool, device=e.device)

    def own(t: Tensor) -> Tensor:
        return torch.where(never, anchor.to(t.dtype), t) if t.is_floating_point() else t.clone()

    return replace(standing.copy(own), e=e)


def join(parts: Sequence[Standing]) -> Standing:
    """All rows, one part after the other; the parts have done equally many loops."""
    h = torch.cat([part.h for part in parts])
    readout = join_readouts([part.readout for part in parts], h)
    kept = [part.frozen.entries for part in parts if part.frozen is not None]
    shared = [part.shared for part in parts if part.shared is not None]
    return Standing(
        h=h,
        e=torch.cat([part.e for part in parts]),
        readout=readout,
        frozen=_freeze(readout, _join(kept)) if kept else None,
        shared=_join(shared) if shared else None,
    )


def _freeze(readout: Readout, entries: Entries) -> Frozen:
    """Of one tensor with the readout's own, as after every loop: a compiler tells them apart."""
    assert readout.halted is not None
    return Frozen(readout.halted, entries)


def _split(entries: Entries, sizes: list[int]) -> list[Entries]:
    parts = {name: cut(tensor, sizes) for name, tensor in entries.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def _join(parts: Sequence[Entries]) -> Entries:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
