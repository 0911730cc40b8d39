"""Division: how one axis of a tensor is dealt out to ranks, section by section."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from open_mythos.errors import ShapeError


@dataclass(frozen=True)
class Division:
    """One rank's part of a tensor whose axis `dim` is made of sections, each divided evenly.

    Queries, keys and values stacked in one matrix are three sections: a rank's part of the matrix
    is its part of each, one below the other, so that it is stacked in the same way.

    Attributes:
        over: The ranks that it is dealt out to: those of the tensor axis or of the expert axis.
        dim: The axis of the tensor.
        sections: Their lengths, which add up to the axis.
        parts: Into how many parts each is divided.
        index: Which of them is this rank's.
    """

    over: Literal["tensor", "expert"]
    dim: int
    sections: tuple[int, ...]
    parts: int
    index: int

    def __post_init__(self) -> None:
        if any(length % self.parts for length in self.sections):
            raise ShapeError(f"sections of {self.sections} cannot be divided into {self.parts}")

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Of each section, where the part starts in the whole and in itself, and its length."""
        whole = own = 0
        for length in self.sections:
            share = length // self.parts
            yield whole + self.index * share, own, share
            whole, own = whole + length, own + share

    def local(self, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor, in storage of its own.

        Raises:
            ShapeError: If the axis is not as long as the sections together.
        """
        if whole.shape[self.dim] != sum(self.sections):
            raise ShapeError(
                f"axis {self.dim} of {tuple(whole.shape)} is not made of sections {self.sections}"
            )
        spans = [whole.narrow(self.dim, start, length) for start, _, length in self.spans()]
        return torch.cat(spans, dim=self.dim)

    def shape(self, local: Sequence[int]) -> tuple[int, ...]:
        """The shape of the whole, from that of a part."""
        sizes = list(local)
        sizes[self.dim] *= self.parts
        return tuple(sizes)


def joined(parts: Sequence[Tensor], division: Division) -> Tensor:
    """The whole of all ranks' parts, in order; `division` may be any rank's."""
    whole = parts[0].new_empty(division.shape(parts[0].shape))
    for index, part in enumerate(parts):
        mine = replace(division, index=index)
        for start, own, length in mine.spans():
            whole.narrow(division.dim, start, length).copy_(part.narrow(division.dim, own, length))
    return whole


STACKS = "stacks"


def canonical(name: str) -> str:
    """A parameter's name in a network that nobody divided, where experts lie one module higher."""
    return name.replace(f".{STACKS}.", ".")
