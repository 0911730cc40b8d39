"""Task: what every problem with a dial offers, and GeneratedTask, which draws one from a seed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from math import ceil
from typing import Any, ClassVar, NamedTuple, Protocol, get_args, get_type_hints

import numpy as np
import torch

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.streams import Purpose, require_level, require_whole, stream
from open_mythos.data.tasks.split import HELD_OUT_IN, LEAST_INSTANCES, Flags, Ids, is_held_out
from open_mythos.errors import InputError, did_you_mean


# Rounds of drawing after which a difficulty counts as one that the generator cannot reach.
ROUNDS = 200
# Decimal digits in which a row says its difficulty, where it does.
TOLD_DIGITS = 3


class Task(Protocol):
    """A problem of any difficulty, one number, with exact answers: a BatchSource and its judge."""

    @property
    def unit(self) -> str:
        """What the difficulty counts, such as "hops"."""
        ...

    @property
    def vocab_size(self) -> int:
        """Every id and target lies in [0, vocab_size), at every difficulty."""
        ...

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        ...

    @property
    def max_level(self) -> int:
        """Hardest difficulty in training; the curriculum's levels are 1 .. max_level."""
        ...

    @property
    def max_difficulty(self) -> int | None:
        """Hardest difficulty that exists; None where there is no end."""
        ...

    def row_length(self, difficulty: int) -> int:
        """Positions of a row."""
        ...

    def chance_at(self, difficulty: int) -> float:
        """Accuracy of the best answer that does not read the row: one constant per position."""
        ...

    def loops_for(self, difficulty: int) -> int | None:
        """Loops granted while training; None where the depth sampler decides."""
        ...

    def batch(self, step: int, level: int = 0, rows: Sequence[int] | None = None) -> Batch:
        """Training rows: see `BatchSource`."""
        ...

    def evaluation_batch(self, difficulty: int, /, seed: int = 0) -> Batch:
        """Held-out rows of one difficulty; the same seed gives the same rows in every run."""
        ...


class Examples(NamedTuple):
    """Examples as drawn, n of them, before the split.

    Attributes:
        ids: (n, L) tokens.
        targets: (n, L) answers, IGNORE where nothing is scored.
        key: (n, K) integers that are equal for equal instances: what the split goes by.
        valid: (n,) which of them are of the difficulty that was asked for; None: all.
        hard: (n, L) the answers that take the whole difficulty, where easier ones are among the
            targets and evaluation is to leave them out; None: evaluation scores every target.
    """

    ids: Ids
    targets: Ids
    key: Ids
    valid: Flags | None = None
    hard: Flags | None = None


class GeneratedTask(ABC):
    """A task of which a subclass, a frozen dataclass, draws examples, and this the rest.

    Training batch s comes whole from the stream (seed, TRAINING, s), so that any rows of it are the
    same rows; an evaluation batch from (its own seed, EVALUATION). Where `splits` says so, training
    keeps the examples whose key is not held out and evaluation those whose key is, whatever the
    seeds: none is in both.
    """

    unit: ClassVar[str] = "difficulty"
    # Whether half of the training batches are easier than their level. A prefix task holds every
    # easier problem in each row as it is.
    mixes: ClassVar[bool] = True
    least_difficulty: ClassVar[int] = 1

    # What the constructor of every subclass takes.
    batch_size: int
    seed: int

    @property
    @abstractmethod
    def max_level(self) -> int:
        """Hardest difficulty in training."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Every id and target lies in [0, vocab_size)."""

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """How each id is written for people, without spaces."""

    @abstractmethod
    def row_length(self, difficulty: int) -> int:
        """Positions of a row."""

    @abstractmethod
    def chance_at(self, difficulty: int) -> float:
        """Accuracy of the best answer that does not read the row: one constant per position."""

    @abstractmethod
    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """`count` independent examples of one difficulty, held-out ones or not."""

    @abstractmethod
    def instances(self, difficulty: int) -> int:
        """How many keys there are, or a number that they exceed."""

    @property
    def max_difficulty(self) -> int | None:
        """Hardest difficulty that exists; None where there is no end."""
        return None

    @property
    def per_row(self) -> int:
        """Examples side by side in a row."""
        return 1

    def beside(self, difficulty: int) -> int:  # noqa: ARG002 -- for tasks of which it depends
        """Examples side by side in a row of this difficulty."""
        return self.per_row

    @property
    def filler(self) -> int:
        """Id, never scored, behind the examples of a row that they do not fill."""
        return 0

    def splits(self, difficulty: int) -> bool:
        """Whether training and evaluation share no instance, by construction."""
        return self.instances(difficulty) >= LEAST_INSTANCES

    def loops_for(self, difficulty: int) -> int | None:
        """Loops granted while training: loops_per_level for each unit; None, where that is 0."""
        per_level: int = getattr(self, "loops_per_level", 0)
        return difficulty * per_level or None

    @property
    def free(self) -> bool:
        """Whether loops beyond those that a difficulty needs must change nothing."""
        return self.loops_for(self.max_level) is None or self.most_spare > 0

    @property
    def most_spare(self) -> int:
        """Most loops that a training batch is given beyond those granted."""
        spare: int = getattr(self, "spare", 0)
        return spare

    def batch(self, step: int, level: int = 0, rows: Sequence[int] | None = None) -> Batch:
        """Training rows: half of the batches are of the level (0: max_level), the rest no harder.

        A level is new to the model when it is reached, hence its half; the rest is drawn uniformly
        from 1 .. level.

        Args:
            step: Optimizer step; with the seed it fixes the batch.
            level: Level of the curriculum; 0 is the full difficulty.
            rows: Which rows of the batch, in [0, batch_size), in this order; None: all.

        Raises:
            InputError: When step is negative, or level or a row does not exist.
        """
        require_level(level, self.max_level)
        if rows is None:
            return self.whole_batch(step, level)
        return taken(_remembered(self, step, level), rows)

    def whole_batch(self, step: int, level: int) -> Batch:
        """All rows of a training batch, drawn."""
        draw = stream(self.seed, Purpose.TRAINING, step)
        difficulty = level or self.max_level
        if self.mixes and draw.random() >= 0.5:
            difficulty = int(draw.integers(1, difficulty + 1))
        drawn = self._drawn(draw, difficulty, held_out=False)
        mark = difficulty if self.mixes else 0
        loops = self.loops_for(difficulty)
        if loops is not None and self.most_spare:
            loops += int(draw.integers(self.most_spare + 1))
        return replace(drawn, n_loops=loops, level=mark)

    def evaluation_batch(self, difficulty: int, /, seed: int = 0) -> Batch:
        """Held-out rows of one difficulty, max_level and beyond; the caller picks the loops.

        `seed` is independent of the training seed: runs that differ in it are asked the same.

        Raises:
            InputError: When the difficulty does not exist, or seed is negative.
        """
        self.require(difficulty)
        return self._drawn(stream(seed, Purpose.EVALUATION), difficulty, held_out=True)

    def require(self, difficulty: int) -> None:
        """Refuse a difficulty that the task does not have.

        Raises:
            InputError: Naming it and the range.
        """
        require_whole(self.unit, difficulty, least=self.least_difficulty)
        if self.max_difficulty is not None and difficulty > self.max_difficulty:
            raise InputError(
                f"{self.unit} is {difficulty}; this task ends at {self.max_difficulty}"
            )

    def _drawn(self, draw: np.random.Generator, difficulty: int, held_out: bool) -> Batch:
        """A batch of examples on the wanted side of the split; it says neither loops nor level."""
        splits = self.splits(difficulty)
        share = 1.0 if not splits else 1 / HELD_OUT_IN if held_out else 1 - 1 / HELD_OUT_IN
        wanted = self.batch_size * self.beside(difficulty)
        parts: list[tuple[Ids, Ids]] = []
        missing = wanted
        for _ in range(ROUNDS):
            found = self.examples(draw, difficulty, ceil(missing / share))
            keep = np.ones(len(found.ids), dtype=np.bool_) if found.valid is None else found.valid
            if splits:
                keep = keep & (is_held_out(found.key) == held_out)
            targets = found.targets
            if held_out and found.hard is not None:
                targets = np.where(found.hard, targets, IGNORE)
            parts.append((found.ids[keep][:missing], targets[keep][:missing]))
            missing -= len(parts[-1][0])
            if not missing:
                ids, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
                ids, targets = (array.reshape(self.batch_size, -1) for array in (ids, targets))
                rest = ((0, 0), (0, self.row_length(difficulty) - ids.shape[1]))
                return Batch(
                    torch.from_numpy(np.pad(ids, rest, constant_values=self.filler)),
                    torch.from_numpy(np.pad(targets, rest, constant_values=IGNORE)),
                )
        raise InputError(
            f"{self.unit} {difficulty} came up in {wanted - missing} of {wanted} examples after "
            f"{ROUNDS} rounds of drawing; ask for less, or for a larger task"
        )


@lru_cache(maxsize=1)
def _remembered(task: GeneratedTask, step: int, level: int) -> Batch:
    """The whole batch that several passes of one step take their rows of."""
    return task.whole_batch(step, level)


def taken(batch: Batch, rows: Sequence[int]) -> Batch:
    """A copy of the named rows of a batch, in the order named.

    Raises:
        InputError: If a row lies outside the batch.
    """
    strangers = [row for row in rows if not 0 <= row < len(batch.ids)]
    if strangers:
        raise InputError(f"row {strangers[0]} is none of the batch's {len(batch.ids)}")
    index = torch.as_tensor(list(rows), dtype=torch.int64)
    return replace(batch, ids=batch.ids[index], targets=batch.targets[index])


def told_tokens(difficulty: int, count: int, offset: int) -> Ids:
    """The difficulty as decimal digits, (count, TOLD_DIGITS) ids from `offset` on, "007" for 7."""
    digits = [difficulty // 10**place % 10 for place in reversed(range(TOLD_DIGITS))]
    return np.tile(np.array(digits, dtype=np.int64) + offset, (count, 1))


def numbered(count: int, mark: str = "") -> tuple[str, ...]:
    """0, 1, 2 ... as words, behind a mark."""
    return tuple(f"{mark}{number}" for number in range(count))


def lettered(count: int) -> tuple[str, ...]:
    """Letters as words: a ... z, then a1 ... z1 and so on."""
    return tuple(
        chr(ord("a") + number % 26) + (str(number // 26) if number >= 26 else "")
        for number in range(count)
    )


def check_settings(task: Any, **least: int) -> None:
    """Refuse settings of a task's dataclass that are not of their declared kind, or too small.

    Args:
        task: An instance of a dataclass whose fields are ints, bools and Literals of strings.
        least: Least value of the ints that may not start at 1; `seed` starts at 0.

    Raises:
        InputError: Naming the setting and what it may be.
    """
    hints = get_type_hints(type(task))
    for field in fields(task):
        name, hint = field.name, hints[field.name]
        value = getattr(task, name)
        if hint is int:
            require_whole(name, value, least.get(name, 0 if name == "seed" else 1))
        elif hint is bool and not isinstance(value, bool):
            raise InputError(f"{name} is True or False, not {value!r}")
        elif hint is not bool and value not in get_args(hint):
            raise InputError(f"{name} is {value!r}; {did_you_mean(str(value), get_args(hint))}")
