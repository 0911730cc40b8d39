"""A pass with every turn of its loop written down: where it stood, what it was given, what came."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from open_mythos.data.batch import Batch
from open_mythos.model.mythos import OpenMythos
from open_mythos.model.output import ForwardOutput
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.loop.standing import Standing
from open_mythos.nn.loop.trace import Noted
from open_mythos.nn.mode import evaluating


Start = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Turn:
    """One loop of a pass, so that it can be taken again from another state.

    Attributes:
        before: Where the rows stood.
        given: What else the loop was told, in the order of `RecurrentBlock.advance`.
        after: (B, S, width), the state that it made.
    """

    before: Standing
    given: tuple[Any, ...]
    after: Tensor

    def again(self, loop: RecurrentBlock, h: Tensor) -> Tensor:
        """What this loop makes of the state `h` (B, S, width), as if no position had halted."""
        now, _ = loop.advance(replace(self.before, h=h, frozen=None), *self.given, observed=False)
        return now.h


@dataclass(frozen=True)
class Walk:
    """A pass and its states.

    Attributes:
        states: (B, S, width) each: the one that the loop started from, and the one after each loop.
        turns: One per loop.
        output: What the pass says of itself.
    """

    states: tuple[Tensor, ...]
    turns: tuple[Turn, ...]
    output: ForwardOutput


@torch.no_grad()
def walk(model: OpenMythos, batch: Batch, n_loops: int, start: Start | None = None) -> Walk:
    """Run a batch through `n_loops` loops in evaluation mode, every one of them.

    Args:
        model: The network; it is put back as it was.
        batch: On any device.
        n_loops: Loops.
        start: Makes another starting state (B, S, width) of the network's own.
    """
    moved = batch.to(model.embed.weight.device)
    told = {} if moved.documents is None else {"documents": moved.documents}
    with evaluating(model), watched(model.recurrent, start) as turns:
        output: ForwardOutput = model(moved.ids, n_loops, return_output=True, **told)
    states = (turns[0].before.h, *(turn.after for turn in turns))
    return Walk(states, tuple(turns), output)


@contextmanager
def watched(loop: RecurrentBlock, start: Start | None = None) -> Iterator[list[Turn]]:
    """The turns that a loop takes meanwhile; it takes all it is asked for, halted or not."""
    turns: list[Turn] = []
    plain, lockstep = loop.advance, loop.lockstep

    def advance(now: Standing, *given: Any, observed: bool = True) -> tuple[Standing, Noted]:
        if start is not None and not turns:
            now = replace(now, h=start(now.h))
        after, noted = plain(now, *given, observed=observed)
        turns.append(Turn(now, given, after.h))
        return after, noted

    loop.lockstep = True
    vars(loop)["advance"] = advance
    try:
        yield turns
    finally:
        del vars(loop)["advance"]
        loop.lockstep = lockstep


def part(batch: Batch, index: Tensor) -> Batch:
    """The rows `index` (N,) of a batch, any of them any number of times."""
    documents = None if batch.documents is None else batch.documents[index]
    return replace(batch, ids=batch.ids[index], targets=batch.targets[index], documents=documents)


def beginning(batch: Batch, length: int) -> Batch:
    """The first `length` positions of every row."""
    documents = None if batch.documents is None else batch.documents[:, :length]
    return replace(
        batch, ids=batch.ids[:, :length], targets=batch.targets[:, :length], documents=documents
    )
