"""Prefix tasks: what the row so far comes to, asked at every position (parity, sums, products).

A row had better `start` with a token of its own. Attention with relative positions gives the mean
of equal values, so that along `1 1 1` all positions look alike whatever the weights, though their
answers differ. Parity of 2, 4 and 24 bits cannot be answered better than 0.875, 0.922 and 0.986
without the token, and 2 bits came to 0.87 in every run, by whatever learning rate.

With `room` all rows are of one length and hold as many problems as fit, each behind its start: what
is asked beyond the training then lies at no distance that training did not see. Evaluation scores
the last answer of each problem alone, which takes all of its terms.
"""

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import ClassVar, Literal

import numpy as np

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.streams import require_whole
from open_mythos.data.tasks.split import Ids
from open_mythos.data.tasks.task import Examples, GeneratedTask, check_settings, numbered
from open_mythos.errors import InputError


Group = Literal["s3", "s4", "s5", "a4", "a5"]


@dataclass(frozen=True)
class PrefixParity(GeneratedTask):
    """Random bits; at each position, whether the ones so far are odd in number.

    Vocabulary: ids 0 and 1, both as bits and as answers. Every position is scored on its own
    answer (no shift); the first is a copy, position i needs i + 1 bits. Difficulty is the length.

    Attributes:
        length: Bits in a row at full difficulty.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        split: Whether no string is in both training and evaluation, from 12 bits on.
        start: Whether a row begins with one more token, id 2, which is not scored.
        loops_per_level: Loops granted per bit while training; 0: the depth sampler decides.
        spare: Most loops beyond those, drawn for each batch.
        room: Positions of a row that holds several problems; 0: rows are one problem each.
    """

    unit: ClassVar[str] = "bits"
    mixes: ClassVar[bool] = False

    length: int = 24
    batch_size: int = 64
    seed: int = 0
    split: bool = False
    start: bool = False
    loops_per_level: int = 0
    spare: int = 0
    room: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def vocab_size(self) -> int:
        """Two, the bits; one more where a token starts the row."""
        return 2 + self.start

    @property
    def words(self) -> tuple[str, ...]:
        """The bits, and `^` at the start."""
        return numbered(2) + ("^",) * self.start

    @property
    def seq_len(self) -> int:
        """Positions in a row at full difficulty."""
        return self.row_length(self.length)

    @property
    def max_level(self) -> int:
        """The curriculum's levels are lengths."""
        return self.length

    @property
    def chance(self) -> float:
        """Accuracy of a coin."""
        return 0.5

    @property
    def filler(self) -> int:
        """The start: of a problem that does not come."""
        return 2 * self.start

    def beside(self, difficulty: int) -> int:
        """As many as there is room for, one at least."""
        return max(1, self.room // (difficulty + self.start))

    def row_length(self, difficulty: int) -> int:
        """As many positions as bits, and the start; or the room."""
        return max(self.room, difficulty + self.start)

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """A coin's, at every length."""
        return self.chance

    def instances(self, difficulty: int) -> int:
        """How many bit strings there are."""
        return int(2**difficulty)

    def splits(self, difficulty: int) -> bool:
        """Where `split` asks for it and the strings are many."""
        return self.split and super().splits(difficulty)

    def evaluation_batch(self, length: int, seed: int = 0) -> Batch:
        """Held-out rows of a chosen length, the trained one and beyond.

        Raises:
            InputError: When length is below 1, or seed is negative.
        """
        require_whole("length", length)
        return super().evaluation_batch(length, seed)

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Bit strings and their running parity."""
        bits = draw.integers(2, size=(count, difficulty))
        return _begun(self, bits, np.cumsum(bits, axis=1) % 2, 2)


@dataclass(frozen=True, kw_only=True)
class PrefixSum(GeneratedTask):
    """Random residues; at each position, the sum of those so far modulo m.

    Vocabulary: ids 0 .. m - 1, both as terms and as answers. Difficulty is the length. These are
    the words of the cyclic group, which a stack of few layers can sum; `PrefixProduct` over S5
    cannot be shortened so (Liu et al., "Transformers learn shortcuts to automata", 2022).

    Attributes:
        modulus: m.
        start: Whether a row begins with one more token, id m, which is not scored.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        max_level: Terms in the longest training rows.
        loops_per_level: Loops granted per term while training; 0: the depth sampler decides.
        spare: Most loops beyond those, drawn for each batch.
        room: Positions of a row that holds several problems; 0: rows are one problem each.
    """

    unit: ClassVar[str] = "terms"
    mixes: ClassVar[bool] = False

    modulus: int = 5
    start: bool = True
    batch_size: int = 64
    seed: int = 0
    max_level: int = 24
    loops_per_level: int = 0
    spare: int = 0
    room: int = 0

    def __post_init__(self) -> None:
        _check(self, modulus=2)

    @property
    def vocab_size(self) -> int:
        """The residues, and the start."""
        return self.modulus + self.start

    @property
    def words(self) -> tuple[str, ...]:
        """The residues, and `^` at the start."""
        return numbered(self.modulus) + ("^",) * self.start

    @property
    def filler(self) -> int:
        """The start: of a problem that does not come."""
        return self.modulus * self.start

    def beside(self, difficulty: int) -> int:
        """As many as there is room for, one at least."""
        return max(1, self.room // (difficulty + self.start))

    def row_length(self, difficulty: int) -> int:
        """As many positions as terms, and the start; or the room."""
        return max(self.room, difficulty + self.start)

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in m: every running sum is uniform."""
        return 1.0 / self.modulus

    def instances(self, difficulty: int) -> int:
        """How many rows there are."""
        return int(self.modulus**difficulty)

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Rows of residues and their running sums."""
        terms = draw.integers(self.modulus, size=(count, difficulty))
        sums = np.cumsum(terms, axis=1) % self.modulus
        return _begun(self, terms, sums, self.modulus)


@dataclass(frozen=True, kw_only=True)
class PrefixProduct(GeneratedTask):
    """Random elements of a group of permutations; at each position, the product of those so far.

    Vocabulary: one id per element, in the order of `elements`, both as factors and as answers. The
    product a b means a first, then b. Difficulty is the length. The word problem of S5 and A5 is
    complete for NC1 (Barrington 1989), which a transformer of fixed depth cannot express for every
    length unless TC0 = NC1: the classic among tasks that need depth (Merrill & Sabharwal 2023).

    Attributes:
        group: "s3", "s4", "s5" (all permutations of so many points) or "a4", "a5" (the even ones).
        start: Whether a row begins with one more token, the last id, which is not scored.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        max_level: Factors in the longest training rows.
        loops_per_level: Loops granted per factor while training; 0: the depth sampler decides.
        spare: Most loops beyond those, drawn for each batch.
        room: Positions of a row that holds several problems; 0: rows are one problem each.
    """

    unit: ClassVar[str] = "factors"
    mixes: ClassVar[bool] = False

    group: Group = "s5"
    start: bool = True
    batch_size: int = 64
    seed: int = 0
    max_level: int = 16
    loops_per_level: int = 0
    spare: int = 0
    room: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def vocab_size(self) -> int:
        """The elements of the group, and the start."""
        return len(elements(self.group)) + self.start

    @property
    def words(self) -> tuple[str, ...]:
        """Where each point goes: `120` sends 0 to 1, 1 to 2 and 2 to 0."""
        moves = ("".join(map(str, element)) for element in elements(self.group))
        return (*moves, *("^",) * self.start)

    @property
    def filler(self) -> int:
        """The start: of a problem that does not come."""
        return len(elements(self.group)) * self.start

    def beside(self, difficulty: int) -> int:
        """As many as there is room for, one at least."""
        return max(1, self.room // (difficulty + self.start))

    def row_length(self, difficulty: int) -> int:
        """As many positions as factors, and the start; or the room."""
        return max(self.room, difficulty + self.start)

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in the size of the group: every running product is uniform."""
        return 1.0 / len(elements(self.group))

    def instances(self, difficulty: int) -> int:
        """How many words there are."""
        return int(len(elements(self.group)) ** difficulty)

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Words and their running products."""
        table = _products(self.group)
        words = draw.integers(len(table), size=(count, difficulty))
        products = words.copy()
        for at in range(1, difficulty):
            products[:, at] = table[products[:, at - 1], words[:, at]]
        return _begun(self, words, products, len(table))


Prefix = PrefixParity | PrefixSum | PrefixProduct


def _check(task: Prefix, **least: int) -> None:
    """Refuse settings that do not fit.

    Raises:
        InputError: Naming the setting and what it may be.
    """
    check_settings(task, loops_per_level=0, spare=0, room=0, **least)
    if task.room and not task.start:
        raise InputError(
            f"room is {task.room}, but start is False; nothing would part the problems of a row: "
            "set start to True, or room to 0"
        )


def _begun(task: Prefix, ids: Ids, targets: Ids, start: int) -> Examples:
    """Examples that begin with the token `start` if the task's do; the rest is what they are."""
    if not task.start:
        return Examples(ids, targets, key=ids)
    front = np.full((len(ids), 1), start)
    targets = np.concatenate([np.full_like(front, IGNORE), targets], axis=1)
    last = np.zeros(targets.shape, dtype=np.bool_)
    last[:, -1] = True
    return Examples(
        ids=np.concatenate([front, ids], axis=1),
        targets=targets,
        key=ids,
        hard=last if task.room else None,
    )


@cache
def elements(group: Group) -> tuple[tuple[int, ...], ...]:
    """The permutations of a group in lexicographic order; element[i] is where point i goes."""
    every = permutations(range(int(group[1:])))
    return tuple(p for p in every if group[0] == "s" or _is_even(p))


def _is_even(p: tuple[int, ...]) -> bool:
    pairs = ((i, j) for j in range(len(p)) for i in range(j))
    return sum(p[i] > p[j] for i, j in pairs) % 2 == 0


@cache
def _products(group: Group) -> Ids:
    """table[a, b] is the index of a followed by b."""
    known = np.array(elements(group))
    points = known.shape[1]
    code = points ** np.arange(points)
    order = np.argsort(known @ code)
    # known[b][known[a]]: a first, then b.
    composed = known[:, known].swapaxes(0, 1)
    found: Ids = order[np.searchsorted((known @ code)[order], composed @ code)]
    return found
