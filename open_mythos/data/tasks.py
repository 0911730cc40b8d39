"""Tasks whose difficulty is one number and whose answers are exact: PointerChase, PrefixParity."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.streams import Purpose, require_level, require_whole, stream
from open_mythos.errors import InputError, did_you_mean


Layout = Literal["pairs", "joint"]
Maps = Literal["random", "permutation", "cycle"]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PointerChase:
    """Follow a map k times: each row shows a fresh f on the states, then asks for f^k(x).

    Nothing in the row says k. A batch has one k, and a looped model is told it as a number of
    loops, so accuracy against k shows whether one more loop buys one more hop.

    Layouts, with S states and Q queries:
        "pairs": 2S + Q positions, vocabulary S. The map as S shuffled pairs of tokens a, f(a),
            then the queries; state x is id x in every role.
        "joint": S + Q positions, vocabulary S * S + S. Each entry of the map is the one token
            a * S + f(a), shuffled; then the queries; state x, asked or answered, is id S * S + x.
    In both, only the Q query positions are scored, each on its own answer (no shift).

    Under a uniform random map the image shrinks with k (f is rarely onto), so a model that only
    spots the states still reachable beats `chance` at many hops. A permutation keeps the answers
    uniform at every depth, though two depths often share their answer. On a single cycle f^j(x) and
    f^k(x) differ unless S divides j - k, so that stopping at another depth is always wrong; with
    a prime S every power of f is a single cycle again.

    Attributes:
        states: S, size of the set that f maps to itself.
        queries: Q; many queries per row are what makes the task learnable (with one a row, even
            one hop was not learnt in thousands of steps).
        batch_size: Rows, each with its own map.
        seed: Fixes, with the step, every training batch.
        max_hops: Hardest k in training.
        layout: See above.
        maps: What f is: any map ("random"), one-to-one ("permutation"), or a single "cycle".
        loops_per_hop: Loops granted per hop while training.
    """

    states: int = 16
    queries: int = 32
    batch_size: int = 64
    seed: int = 0
    max_hops: int = 8
    layout: Layout = "pairs"
    maps: Maps = "random"
    loops_per_hop: int = 1

    def __post_init__(self) -> None:
        require_whole("states", self.states, least=2)
        for name in ("queries", "batch_size", "max_hops", "loops_per_hop"):
            require_whole(name, getattr(self, name))
        require_whole("seed", self.seed, least=0)
        for name, known in (("layout", get_args(Layout)), ("maps", get_args(Maps))):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name} is {value!r}; {did_you_mean(str(value), known)}")

    @property
    def vocab_size(self) -> int:
        """S for "pairs", S * S + S for "joint"."""
        return self.state_offset + self.states

    @property
    def state_offset(self) -> int:
        """Id of state 0 where it is asked or answered."""
        return self.states**2 if self.layout == "joint" else 0

    @property
    def seq_len(self) -> int:
        """Positions in a row."""
        return self.states * (1 if self.layout == "joint" else 2) + self.queries

    @property
    def max_level(self) -> int:
        """The curriculum's levels are hop counts."""
        return self.max_hops

    @property
    def chance(self) -> float:
        """Accuracy of an answer that ignores the map."""
        return 1.0 / self.states

    def batch(self, step: int, level: int = 0) -> Batch:
        """Training rows: half of the batches have k = level (0: max_hops), the rest no more.

        A level is new to the model when it is reached, hence its half; the rest is drawn uniformly
        from 1 .. level.

        Raises:
            InputError: When step is negative or level lies outside [0, max_hops].
        """
        require_level(level, self.max_level)
        draw = stream(self.seed, Purpose.TRAINING, step)
        top = level or self.max_hops
        hops = top if draw.random() < 0.5 else int(draw.integers(1, top + 1))
        rows = self._rows(draw, hops, n_loops=hops * self.loops_per_hop)
        return replace(rows, level=hops)

    def evaluation_batch(self, hops: int, seed: int = 0) -> Batch:
        """Held-out rows at a chosen depth, max_hops and beyond; the caller picks the loops.

        `seed` is independent of the training seed: runs that differ in it are asked the same
        questions. One seed gives the same maps and queries at every depth.

        Raises:
            InputError: When hops or seed is negative or not an int.
        """
        require_whole("hops", hops, least=0)
        return self._rows(stream(seed, Purpose.EVALUATION), hops, n_loops=None)

    def _maps(self, draw: np.random.Generator, ordered: Ids) -> Ids:
        """One map per row: f[row, x]."""
        if self.maps == "random":
            return draw.integers(self.states, size=ordered.shape)
        shuffled = draw.permuted(ordered, axis=1)
        if self.maps == "permutation":
            return shuffled
        f = np.empty_like(shuffled)
        np.put_along_axis(f, shuffled, np.roll(shuffled, -1, axis=1), axis=1)
        return f

    def _rows(self, draw: np.random.Generator, hops: int, n_loops: int | None) -> Batch:
        ordered: Ids = np.tile(np.arange(self.states, dtype=np.int64), (self.batch_size, 1))
        keys = draw.permuted(ordered, axis=1)
        f = self._maps(draw, ordered)
        asked = draw.integers(self.states, size=(self.batch_size, self.queries))
        values = np.take_along_axis(f, keys, axis=1)
        if self.layout == "joint":
            shown = keys * self.states + values
        else:
            shown = np.stack([keys, values], axis=-1).reshape(self.batch_size, -1)
        ids = np.concatenate([shown, asked + self.state_offset], axis=1)
        targets = np.full_like(ids, IGNORE)
        targets[:, -self.queries :] = _iterate(f, asked, hops) + self.state_offset
        return Batch(torch.from_numpy(ids), torch.from_numpy(targets), n_loops)


@dataclass(frozen=True)
class PrefixParity:
    """Random bits; at each position, whether the ones so far are odd in number.

    Vocabulary: ids 0 and 1, both as bits and as answers. Every position is scored on its own
    answer (no shift); the first is a copy, position i needs i + 1 bits. Difficulty is the length.

    Attributes:
        length: Bits in a row at full difficulty.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
    """

    length: int = 24
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("length", self.length)
        require_whole("batch_size", self.batch_size)
        require_whole("seed", self.seed, least=0)

    @property
    def vocab_size(self) -> int:
        """Two: the bits."""
        return 2

    @property
    def seq_len(self) -> int:
        """Positions in a row at full difficulty."""
        return self.length

    @property
    def max_level(self) -> int:
        """The curriculum's levels are lengths."""
        return self.length

    @property
    def chance(self) -> float:
        """Accuracy of a coin."""
        return 0.5

    def batch(self, step: int, level: int = 0) -> Batch:
        """Training rows of `level` bits (0: length); the depth sampler chooses the loops.

        Raises:
            InputError: When step is negative or level lies outside [0, length].
        """
        require_level(level, self.max_level)
        return self._rows(stream(self.seed, Purpose.TRAINING, step), level or self.length)

    def evaluation_batch(self, length: int, seed: int = 0) -> Batch:
        """Held-out rows of a chosen length, the trained one and beyond.

        Raises:
            InputError: When length is below 1, or seed is negative.
        """
        require_whole("length", length)
        return self._rows(stream(seed, Purpose.EVALUATION), length)

    def _rows(self, draw: np.random.Generator, length: int) -> Batch:
        bits = draw.integers(2, size=(self.batch_size, length))
        return Batch(torch.from_numpy(bits), torch.from_numpy(np.cumsum(bits, axis=1) % 2))


def _iterate(f: Ids, x: Ids, hops: int) -> Ids:
    """f^hops(x) row by row, by repeated squaring of f: a thousand hops cost ten gathers."""
    power = f
    while hops:
        if hops & 1:
            x = np.take_along_axis(power, x, axis=1)
        power = np.take_along_axis(power, power, axis=1)
        hops >>= 1
    return x
