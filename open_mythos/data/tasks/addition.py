"""Addition: n-operand sums of digit strings, lowest digit first, no carry ever written out."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import comb, factorial
from typing import ClassVar, Literal

import numpy as np

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.split import Ids, hashed
from open_mythos.data.tasks.task import Examples, GeneratedTask, check_settings, numbered


Dial = Literal["digits", "operands"]


@dataclass(frozen=True, kw_only=True)
class Addition(GeneratedTask):
    """Sums of several numbers: each row holds several problems, each digit of a sum is scored.

    A problem reads `3 1 + 9 4 = _ _ _` for 13 + 49 and is answered 2 6 0 at the blanks: digits
    come lowest first and fill fixed widths, that of the largest possible sum for the answer.
    The answer is not fed back, so that carries have to travel inside the network.

    Ids: 0 .. 9 the digits, 10 is +, 11 is =, 12 the blank.

    Attributes:
        dial: What the difficulty d is: "digits" (d digits an operand) or "operands" (d additions,
            that is d + 1 operands).
        operands: Operands, where the dial is digits.
        digits: Digits of an operand, where the dial is operands.
        queries: Problems side by side in a row.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        max_level: Hardest difficulty in training.
        loops_per_level: Loops granted per unit while training; 0: the depth sampler decides.
    """

    unit: ClassVar[str] = "size"

    dial: Dial = "digits"
    operands: int = 2
    digits: int = 3
    queries: int = 4
    batch_size: int = 64
    seed: int = 0
    max_level: int = 6
    loops_per_level: int = 0

    def __post_init__(self) -> None:
        check_settings(self, operands=2, loops_per_level=0)

    @property
    def vocab_size(self) -> int:
        """Ten digits, plus, equals, blank."""
        return 13

    @property
    def words(self) -> tuple[str, ...]:
        """Digits and signs; the blank is `_`."""
        return (*numbered(10), "+", "=", "_")

    @property
    def per_row(self) -> int:
        """Problems side by side."""
        return self.queries

    def shape(self, difficulty: int) -> tuple[int, int, int]:
        """Operands, digits of each, digits of the answer."""
        operands, digits = self.operands, difficulty
        if self.dial == "operands":
            operands, digits = difficulty + 1, self.digits
        return operands, digits, len(str(operands * (10**digits - 1)))

    def row_length(self, difficulty: int) -> int:
        """Digits, one sign after each operand, and the blanks; times the problems."""
        operands, digits, width = self.shape(difficulty)
        return self.queries * (operands * (digits + 1) + width)

    def chance_at(self, difficulty: int) -> float:
        """One in ten for the operands' places, which are uniform; more for the places above."""
        operands, digits, width = self.shape(difficulty)
        return (digits / 10 + _blind_overflow(operands, digits, width - digits)) / width

    def instances(self, difficulty: int) -> int:
        """How many sums there are, in whatever order of the operands."""
        operands, digits, _ = self.shape(difficulty)
        return int(10 ** (digits * operands) // factorial(operands))

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Problems; the operands, in any order, are what the split goes by."""
        operands, digits, width = self.shape(difficulty)
        numbers = draw.integers(10, size=(count, operands, digits))
        signs = np.full((count, operands, 1), 10)
        signs[:, -1] = 11
        shown = np.concatenate([numbers, signs], axis=2).reshape(count, -1)
        answer = _add(numbers, width)
        return Examples(
            ids=np.concatenate([shown, np.full_like(answer, 12)], axis=1),
            targets=np.concatenate([np.full_like(shown, IGNORE), answer], axis=1),
            # A sum of hashes does not know the order of the operands.
            key=hashed(numbers).sum(axis=1, keepdims=True).view(np.int64),
        )


def _add(numbers: Ids, width: int) -> Ids:
    """Column addition, lowest digit first: (n, operands, digits) to (n, width)."""
    columns = numbers.sum(axis=1)
    answer = np.zeros((len(numbers), width), dtype=np.int64)
    carry = np.zeros(len(numbers), dtype=np.int64)
    for place in range(width):
        total = carry + (columns[:, place] if place < columns.shape[1] else 0)
        answer[:, place], carry = total % 10, total // 10
    return answer


@cache
def _blind_overflow(operands: int, digits: int, places: int) -> float:
    """Expected hits at the places above the operands', each answered by its likeliest digit.

    The number that spills over is sum // 10^digits. Tuples of `operands` numbers below N whose sum
    is at most t are counted by inclusion and exclusion: sum of (-1)^j C(k, j) C(t - j N + k, k).
    """
    n, k = 10**digits, operands

    def at_most(t: int) -> int:
        return sum((-1) ** j * comb(k, j) * comb(t - j * n + k, k) for j in range(t // n + 1))

    hits = Fraction(0)
    for place in range(places):
        shares: Counter[int] = Counter()
        for spilt in range(k):
            below = at_most(spilt * n - 1) if spilt else 0
            shares[spilt // 10**place % 10] += at_most(spilt * n + n - 1) - below
        hits += Fraction(max(shares.values()), n**k)
    return float(hits)
