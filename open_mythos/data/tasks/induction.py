"""InductionHops: jump back to what followed the last occurrence, again and again (p-hop)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.powers import iterate
from open_mythos.data.tasks.split import Ids
from open_mythos.data.tasks.task import (
    TOLD_DIGITS,
    Examples,
    GeneratedTask,
    check_settings,
    lettered,
    numbered,
    told_tokens,
)
from open_mythos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class InductionHops(GeneratedTask):
    """p-hop induction (Sanford, Hsu & Telgarsky 2024): an induction head, applied p times.

    A row is a string w. One hop leads from position i to the last position j <= i whose left
    neighbour equals w[i]; the answer at i is the symbol found after p hops. Every position from
    which p hops lead to somewhere is scored, on its own answer (no shift). Neighbours differ here,
    so that a hop always moves, by symbols - 1 positions on average.

    Unless `told`, or on a `ring`, nothing in the row says p: a batch has one p, told to the model
    as loops.

    Attributes:
        symbols: Size of the alphabet; ids 0 .. symbols - 1, read and answered.
        length: Symbols of the string, at least; more where p hops need them.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        max_level: Hardest p in training.
        loops_per_level: Loops granted per hop while training; 0: the depth sampler decides.
        told: Write p before the string, as three decimal digits with ten ids of their own at the
            end of the vocabulary, and leave the loops to the depth sampler.
        ring: R; write two numbers modulo R before the string whose difference is p, each with R ids
            of its own at the end of the vocabulary. No number is new at a p beyond the training, as
            digits would be, and loops are granted all the same. 0: leave it out.
    """

    unit: ClassVar[str] = "hops"

    symbols: int = 4
    length: int = 64
    batch_size: int = 64
    seed: int = 0
    max_level: int = 8
    loops_per_level: int = 1
    told: bool = False
    ring: int = 0

    def __post_init__(self) -> None:
        # Two symbols that may not repeat would alternate.
        check_settings(self, symbols=3, length=8, loops_per_level=0, ring=0)
        if self.ring and self.told:
            raise InputError("told is True and there is a ring, which tells p too: drop one")
        if self.ring and self.max_level >= self.ring:
            raise InputError(
                f"max_level is {self.max_level}, but numbers on a ring of {self.ring} differ by "
                f"{self.ring - 1} at most; raise ring, or lower the other"
            )

    @property
    def vocab_size(self) -> int:
        """The symbols; more where the row says p."""
        return self.symbols + (10 if self.told else 2 * self.ring)

    @property
    def words(self) -> tuple[str, ...]:
        """Letters, and the digits that tell p as `#0`, or numbers on a ring as `.0` and `#0`."""
        lower = () if self.told else numbered(self.ring, ".")
        return lettered(self.symbols) + lower + numbered(10 if self.told else self.ring, "#")

    @property
    def max_difficulty(self) -> int | None:
        """No end, unless three digits have to tell it, or a ring."""
        return self.ring - 1 if self.ring else 10**TOLD_DIGITS - 1 if self.told else None

    def row_length(self, difficulty: int) -> int:
        """`length`, or twice the way that p hops go on average."""
        extra = 2 if self.ring else TOLD_DIGITS if self.told else 0
        return self._string(difficulty) + extra

    def _string(self, difficulty: int) -> int:
        return max(self.length, 2 * self.symbols * difficulty)

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in the alphabet's size: renaming the symbols changes no probability.

        The symbol that is read tells a little: after one hop it is never the answer itself.
        """
        return 1.0 / self.symbols

    def loops_for(self, difficulty: int) -> int | None:
        """loops_per_level for each hop; None where digits tell the hops."""
        return None if self.told else super().loops_for(difficulty)

    def instances(self, difficulty: int) -> int:
        """How many strings there are."""
        return int((self.symbols - 1) ** (self._string(difficulty) - 1))

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Strings, and the symbols that `difficulty` hops lead to."""
        length = self._string(difficulty)
        moves = draw.integers(1, self.symbols, size=(count, length))
        moves[:, 0] = draw.integers(self.symbols, size=count)
        string = np.cumsum(moves, axis=1) % self.symbols
        # One more position, which stands for nowhere and leads to itself.
        hop = np.concatenate([_last_after(string, self.symbols), np.full((count, 1), length)], 1)
        starts = np.tile(np.arange(length), (count, 1))
        found = iterate(hop, starts, difficulty)
        known = np.concatenate([string, np.full((count, 1), IGNORE)], axis=1)
        targets = np.take_along_axis(known, found, axis=1)
        if self.ring:
            lower = draw.integers(self.ring, size=(count, 1))
            upper = self.ring + (lower + difficulty) % self.ring
            told = self.symbols + np.concatenate([lower, upper], axis=1)
        elif self.told:
            told = told_tokens(difficulty, count, self.symbols)
        else:
            return Examples(string, targets, key=string)
        return Examples(
            np.concatenate([told, string], axis=1),
            np.concatenate([np.full_like(told, IGNORE), targets], axis=1),
            key=string,
        )


def _last_after(string: Ids, symbols: int) -> Ids:
    """Where one hop leads from each position, (rows, L); L where it leads nowhere."""
    rows, length = string.shape
    here = np.arange(length)
    hop = np.full((rows, length), length)
    for symbol in range(symbols):
        after = np.zeros((rows, length), dtype=np.int64)
        after[:, 1:] = np.where(string[:, :-1] == symbol, here[1:], 0)
        last = np.maximum.accumulate(after, axis=1)
        hop = np.where((string == symbol) & (last > 0), last, hop)
    return hop
