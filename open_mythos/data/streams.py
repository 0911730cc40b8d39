"""Random streams that depend on nothing but numbers the caller names: seed, purpose and step."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from open_mythos.errors import InputError


WORDS = 4  # 64-bit words that Philox makes of one value of its counter


class Purpose(IntEnum):
    """Branches of the seed tree. Streams of two branches share no draws, whatever the seeds."""

    TRAINING = 0
    EVALUATION = 1
    SPLIT = 2
    DEPTH = 3
    ORDER = 8
    MIXTURE = 9
    WORLD = 16  # facts that training and evaluation share
    ROW_DEPTH = 20
    READS = 21


def stream(seed: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """A fresh generator at the start of its stream: the same three numbers, the same draws.

    Philox is counter based: its output is the same on every platform and NumPy version.

    Raises:
        InputError: When seed or step is not a whole number of at least 0.
    """
    require_whole("seed", seed, least=0)
    require_whole("step", step, least=0)
    branch = np.random.SeedSequence(int(seed), spawn_key=(int(purpose), int(step)))
    return np.random.Generator(np.random.Philox(branch))


def uniforms(seed: int, purpose: Purpose, first: int, count: int) -> NDArray[np.float64]:
    """Draws number `first`, `first` + 1, ... (count,) of an endless row of numbers in [0, 1).

    A draw depends on seed, purpose and its own number alone, so that any split of the row over
    ranks and calls gives the same; a thousand take as long as one.

    Raises:
        InputError: When seed, first or count is not a whole number of at least 0.
    """
    for name, value in (("seed", seed), ("first", first), ("count", count)):
        require_whole(name, value, least=0)
    philox = np.random.Philox(np.random.SeedSequence(int(seed), spawn_key=(int(purpose),)))
    skipped, ahead = divmod(int(first), WORDS)
    philox.advance(skipped)
    words: NDArray[np.uint64] = philox.random_raw(ahead + int(count))[ahead:]
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def require_whole(name: str, value: int, least: int = 1) -> None:
    """Refuse what is not an int of at least `least`; True and 3.0 are no ints here.

    Raises:
        InputError: Naming the argument, its value and the least one allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be an int, not {value!r} ({type(value).__name__})")
    if value < least:
        raise InputError(f"{name} is {value}; it must be at least {least}")


def require_rows(rows: Sequence[int] | None, batch_size: int) -> Sequence[int]:
    """The rows asked for, all of them for None.

    Raises:
        InputError: On a row that a batch of this size does not have.
    """
    if rows is None:
        return range(batch_size)
    for row in rows:
        require_whole("row", row, least=0)
        if row >= batch_size:
            raise InputError(f"row {row} is asked for; a batch has rows 0 to {batch_size - 1}")
    return rows


def require_level(level: int, max_level: int) -> None:
    """Refuse a curriculum level that the source does not have.

    Raises:
        InputError: Naming the level and the range.
    """
    require_whole("level", level, least=0)
    if level > max_level:
        raise InputError(f"level is {level}; this source has levels 0 (all) to {max_level}")
