"""PointerChase: follow a map that the row shows, for as many hops as the loops say."""

from dataclasses import dataclass
from math import factorial
from typing import ClassVar, Literal

import numpy as np

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.tasks.powers import iterate
from open_mythos.data.tasks.split import Ids
from open_mythos.data.tasks.task import (
    TOLD_DIGITS,
    Examples,
    GeneratedTask,
    check_settings,
    numbered,
    told_tokens,
)
from open_mythos.errors import InputError


Layout = Literal["pairs", "joint"]
Maps = Literal["random", "permutation", "cycle"]


@dataclass(frozen=True)
class PointerChase(GeneratedTask):
    """Follow a map k times: each row shows a fresh f on the states, then asks for f^k(x).

    Unless `told`, or by a `chain`, nothing in the row says k. A batch has one k, and a looped model
    is told it as a number of loops, so accuracy against k shows whether one more loop buys one more
    hop. A chain says it in the row, and the loops may be any number: a state and k hop tokens.

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
        loops_per_hop: Loops granted per hop while training; 0, where the row tells the hops: the
            depth sampler decides.
        chain: Positions behind the map that hold chains, as many as fit, whatever `queries` says: a
            state, then as many hop tokens (the id behind the states') as hops are asked, each
            scored on the state that it leads to; evaluation scores the last. 0: there are none.
        spare: With chains: most loops beyond those granted, drawn for each batch.
        told: Write k between map and queries, as three decimal digits with ten ids of their own at
            the end of the vocabulary, and leave the loops to the depth sampler.
        split: Whether no map is in both training and evaluation, from 4096 maps on.
    """

    unit: ClassVar[str] = "hops"
    least_difficulty: ClassVar[int] = 0

    states: int = 16
    queries: int = 32
    batch_size: int = 64
    seed: int = 0
    max_hops: int = 8
    layout: Layout = "pairs"
    maps: Maps = "random"
    loops_per_hop: int = 1
    told: bool = False
    split: bool = False
    chain: int = 0
    spare: int = 0

    def __post_init__(self) -> None:
        said = self.chain or self.told
        check_settings(self, states=2, chain=0, spare=0, loops_per_hop=0 if said else 1)
        self._check_chain()

    def _check_chain(self) -> None:
        """Refuse what does not go with chains, or without.

        Raises:
            InputError: Naming the setting and the way out.
        """
        if self.chain and self.told:
            raise InputError("told is True and there is a chain, which tells the hops: drop one")
        if self.chain and self.max_hops >= self.chain:
            raise InputError(
                f"max_hops is {self.max_hops}, but a chain of {self.chain} positions has room for "
                f"{self.chain - 1}; raise chain, or lower the other"
            )
        if self.spare and not self.chain:
            raise InputError(
                f"spare is {self.spare}, but nothing in the row says when to stop; set chain, or "
                "spare to 0"
            )

    @property
    def vocab_size(self) -> int:
        """S for "pairs", S * S + S for "joint"; more where k is told, or there are chains."""
        extra = 10 if self.told else bool(self.chain)
        return self.state_offset + self.states + extra

    @property
    def words(self) -> tuple[str, ...]:
        """States by number, entries of the map as `2>5`, digits as `#0`, a hop as `>`."""
        states = numbered(self.states)
        entries = tuple(f"{a}>{b}" for a in states for b in states)
        shown = entries + states if self.layout == "joint" else states
        return shown + (numbered(10, "#") if self.told else (">",) * bool(self.chain))

    @property
    def state_offset(self) -> int:
        """Id of state 0 where it is asked or answered."""
        return self.states**2 if self.layout == "joint" else 0

    @property
    def seq_len(self) -> int:
        """Positions in a row."""
        shown = self.states * (1 if self.layout == "joint" else 2)
        if self.chain:
            return shown + self.chain
        return shown + (TOLD_DIGITS if self.told else 0) + self.queries

    @property
    def max_level(self) -> int:
        """The curriculum's levels are hop counts."""
        return self.max_hops

    @property
    def max_difficulty(self) -> int | None:
        """No end, unless three digits have to tell it, or a chain to hold it."""
        return self.chain - 1 if self.chain else 10**TOLD_DIGITS - 1 if self.told else None

    @property
    def chance(self) -> float:
        """Accuracy of an answer that ignores the map."""
        return 1.0 / self.states

    def row_length(self, difficulty: int) -> int:  # noqa: ARG002 -- the same for all
        """Positions of a row."""
        return self.seq_len

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in S: the states asked are uniform, and so are their answers."""
        return self.chance

    def loops_for(self, difficulty: int) -> int | None:
        """loops_per_hop for each hop; None where digits tell the hops."""
        return None if self.told else difficulty * self.loops_per_hop or None

    def instances(self, difficulty: int) -> int:  # noqa: ARG002 -- the same for all
        """How many maps there are."""
        if self.maps == "random":
            return int(self.states**self.states)
        return factorial(self.states if self.maps == "permutation" else self.states - 1)

    def splits(self, difficulty: int) -> bool:
        """Where `split` asks for it and the maps are many."""
        return self.split and super().splits(difficulty)

    def evaluation_batch(self, hops: int, seed: int = 0) -> Batch:
        """Held-out rows at a chosen depth, max_hops and beyond; the caller picks the loops.

        `seed` is independent of the training seed: runs that differ in it are asked the same
        questions. One seed gives the same maps and queries at every depth.

        Raises:
            InputError: When hops or seed is negative or not an int.
        """
        return super().evaluation_batch(hops, seed)

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Rows of `difficulty` hops; the map is what the split goes by."""
        ordered: Ids = np.tile(np.arange(self.states, dtype=np.int64), (count, 1))
        keys = draw.permuted(ordered, axis=1)
        f = self._maps(draw, ordered)
        asked = draw.integers(self.states, size=(count, self.queries))
        values = np.take_along_axis(f, keys, axis=1)
        if self.layout == "joint":
            shown = keys * self.states + values
        else:
            shown = np.stack([keys, values], axis=-1).reshape(count, -1)
        if self.told:
            offset = self.state_offset + self.states
            shown = np.concatenate([shown, told_tokens(difficulty, count, offset)], axis=1)
        if self.chain:
            return self._chained(draw, shown, f, difficulty)
        ids = np.concatenate([shown, asked + self.state_offset], axis=1)
        targets = np.full_like(ids, IGNORE)
        targets[:, -self.queries :] = iterate(f, asked, difficulty) + self.state_offset
        return Examples(ids, targets, key=f)

    def _chained(self, draw: np.random.Generator, shown: Ids, f: Ids, difficulty: int) -> Examples:
        """Rows of chains: what is shown of the map, then states with hop tokens behind them."""
        beside = max(1, self.chain // (difficulty + 1))
        walks = [draw.integers(self.states, size=(len(f), beside))]
        for _ in range(difficulty):
            walks.append(np.take_along_axis(f, walks[-1], axis=1))
        # (rows, beside, difficulty + 1), then side by side; what is left over are hops not scored.
        walk = np.stack(walks, axis=-1) + self.state_offset
        hop = self.state_offset + self.states
        ids, targets = np.full_like(walk, hop), walk.copy()
        ids[..., 0], targets[..., 0] = walk[..., 0], IGNORE
        last = np.zeros(walk.shape, dtype=np.bool_)
        last[..., -1] = True
        flat = (len(f), -1)
        rest = self.chain - beside * (difficulty + 1)
        beyond, around = ((0, 0), (0, rest)), ((0, 0), (shown.shape[1], rest))
        chains = np.pad(ids.reshape(flat), beyond, constant_values=hop)
        return Examples(
            ids=np.concatenate([shown, chains], axis=1),
            targets=np.pad(targets.reshape(flat), around, constant_values=IGNORE),
            key=f,
            hard=np.pad(last.reshape(flat), around),
        )

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
