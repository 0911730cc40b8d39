"""A clock: how often, said by symbols whose order every row shows anew."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from open_mythos.data.tasks.split import Ids
from open_mythos.data.tasks.task import numbered
from open_mythos.errors import InputError


@dataclass(frozen=True)
class Clock:
    """Counts 0 .. C: zero has a symbol of its own, the others C symbols in an order drawn per row.

    Digits that tell a count beyond the training are digits that no training saw at that place. Here
    nothing is new: any symbol may stand for any count, and a row shows the number line, each symbol
    behind the one that is one less. Counting down is then one look to the left at a time, as the
    hops that it counts are one look each. The line is cut at a random place above the hardest count
    that is asked, and what lies above goes first: else the counts of the training would stand at
    its beginning, always, and a network could learn to look there.

    Ids: `offset` is zero, then the C symbols.

    Attributes:
        symbols: C, the highest count.
        offset: First id.
    """

    symbols: int
    offset: int

    @property
    def positions(self) -> int:
        """Of the line in a row; none without symbols."""
        return self.symbols + 1 if self.symbols else 0

    vocab_size = positions

    @property
    def words(self) -> tuple[str, ...]:
        """Zero as `.`, symbols as `#0`."""
        return (".", *numbered(self.symbols, "#")) if self.symbols else ()

    def line(self, draw: np.random.Generator, rows: int) -> Ids:
        """(rows, C + 1): the id of each count."""
        every = np.tile(np.arange(1, self.symbols + 1, dtype=np.int64), (rows, 1))
        return self.offset + np.pad(draw.permuted(every, axis=1), ((0, 0), (1, 0)))

    def shown(self, draw: np.random.Generator, line: Ids, hardest: int) -> Ids:
        """(rows, C + 1): a line as a row shows it, cut behind `hardest` or further up."""
        cut = draw.integers(hardest + 1, self.symbols + 2, size=(len(line), 1))
        order = (np.arange(self.symbols + 1) + cut) % (self.symbols + 1)
        return np.take_along_axis(line, order, axis=1)


class Timed(Protocol):
    """A task that may have a clock."""

    @property
    def clock(self) -> int:
        """Symbols."""
        ...

    @property
    def spare(self) -> int:
        """Loops beyond those granted."""
        ...

    @property
    def told(self) -> bool:
        """Whether digits say the count."""
        ...


def check_clock(task: Timed, name: str, hardest: int) -> None:
    """Refuse a clock that cannot say what it has to, and spare loops without one.

    Raises:
        InputError: Naming the setting and the way out.
    """
    if task.clock and task.told:
        raise InputError("told is True and there is a clock; one of them says the count: drop one")
    if task.clock and hardest > task.clock:
        raise InputError(
            f"{name} is {hardest}, but a clock of {task.clock} counts no further than that; raise "
            "clock, or lower the other"
        )
    if task.spare and not task.clock:
        raise InputError(
            f"spare is {task.spare}, but nothing in the row says when to stop; set clock, or spare "
            "to 0"
        )


def mixed_counts(draw: np.random.Generator, hardest: int, shape: tuple[int, int]) -> Ids:
    """Counts: about half of them the hardest, the rest uniform from 0 up to it.

    Zero is among them from the first level on: without, the clock says nothing before the second,
    and a network has learnt by then that whatever it says means one hop.
    """
    easier = draw.integers(hardest + 1, size=shape)
    return np.where(draw.random(shape) < 0.5, hardest, easier)
