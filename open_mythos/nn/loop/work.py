"""Work: what the loops of a pass computed, counted, beside what the full depth would have been."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from open_mythos.config.budget import loop_flops
from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.by_rows import shelves_of
from open_mythos.nn.attention.mla import Form, MLAttention, absorbed_is_cheaper
from open_mythos.nn.loop.standing import Standing
from open_mythos.nn.places import Places
from open_mythos.nn.watched import patched


if TYPE_CHECKING:
    from open_mythos.nn.loop.recurrent import RecurrentBlock


@dataclass(frozen=True)
class Ran:
    """What one loop computed.

    Attributes:
        positions: Those that went through attention and the dense parts.
        served: Those that went through the feed-forward: experts can leave out what has halted
            where the dense parts do not.
        formed: Those whose keys and values were formed.
        pairs: Queries times the keys that each sees.
        queries: Of the row that asks most; the others are filled up to as many.
        rows: Rows that attention looked at.
        keys: Of each row.
        predicted: Positions whose prediction an exit asked for.
    """

    positions: int
    served: int
    formed: int
    pairs: int
    queries: int
    rows: int
    keys: int
    predicted: int = 0

    def flops(self, cfg: MythosConfig, form: Form = "auto") -> float:
        """Forward FLOPs, by the formulas of `config.budget`; `form` is latent attention's."""
        absorbed = form == "absorbed"
        if cfg.attn_type == "mla" and form == "auto":
            absorbed = absorbed_is_cheaper(cfg, self.queries, self.keys)
        of_loop = loop_flops(
            cfg,
            positions=self.positions,
            served=self.served,
            formed=self.formed,
            pairs=self.pairs,
            raised=self.rows * (self.queries if absorbed else self.keys),
            absorbed=absorbed,
        )
        return of_loop + 2.0 * self.predicted * cfg.dim * cfg.vocab_size


@dataclass(frozen=True)
class Work:
    """What the loops computed; sums over passes.

    Attributes:
        positions: Positions times loops that went through the core.
        full_positions: Those of the full depth: every position in every loop that was asked for.
        flops: Forward FLOPs of the loops that ran, and of the predictions that exits asked for.
        full_flops: Forward FLOPs of all loops, nobody leaving.
    """

    positions: int = 0
    full_positions: int = 0
    flops: float = 0.0
    full_flops: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.positions + other.positions,
            self.full_positions + other.full_positions,
            self.flops + other.flops,
            self.full_flops + other.full_flops,
        )

    @property
    def share(self) -> float:
        """FLOPs that ran over those of the full depth."""
        return self.flops / self.full_flops if self.full_flops else 1.0

    def __str__(self) -> str:
        return (
            f"{self.positions:,} of {self.full_positions:,} positions x loops, "
            f"{self.flops:.3g} of {self.full_flops:.3g} FLOPs ({self.share:.1%})"
        )


@dataclass
class Meter:
    """Adds up what a loop does while it is read.

    Attributes:
        work: Of all passes so far.
        passes: How many.
        seconds: Between start and end, the device's work included; 0 before the end.
    """

    work: Work = field(default_factory=Work)
    passes: int = 0
    seconds: float = 0.0

    def add(self, work: Work) -> None:
        """One pass more."""
        self.work += work
        self.passes += 1


@contextmanager
def metered(loop: "RecurrentBlock") -> Iterator[Meter]:
    """Counts the work of a loop's passes meanwhile, and the time that everything took.

    A replayed CUDA graph runs no Python, and is not counted: decode with static=False.
    """
    before, meter = loop.meter, Meter()
    where = next(loop.parameters()).device

    def now() -> float:
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return time.perf_counter()

    loop.meter, start = meter, now()
    try:
        yield meter
    finally:
        meter.seconds, loop.meter = now() - start, before


def ran_whole(
    batch: int, length: int, past: int, *, served: int | None = None, forms: bool, predicts: bool
) -> Ran:
    """What a loop computes of all positions.

    Args:
        batch: Rows.
        length: New positions of each.
        past: Cached ones.
        served: Positions that pass the feed-forward; None is all.
        forms: Whether keys and values are formed.
        predicts: Whether an exit asks for predictions.
    """
    every = batch * length
    return Ran(
        positions=every,
        served=every if served is None else served,
        formed=every if forms else 0,
        pairs=batch * (length * past + length * (length + 1) // 2),
        queries=length,
        rows=batch,
        keys=past + length,
        predicted=every if predicts else 0,
    )


def ran_apart(places: Places, past: int, *, forms: bool, predicts: bool) -> Ran:
    """What a loop computes of some positions alone; see `ran_whole`."""
    count = places.count
    return Ran(
        positions=count,
        served=count,
        formed=count if forms else 0,
        pairs=count * (past + 1) + places.reach,
        queries=max(places.counts),
        rows=len(shelves_of(places).rows),
        keys=past + places.length,
        predicted=count if predicts else 0,
    )


@dataclass
class Tally:
    """Counts a pass, loop by loop.

    Attributes:
        loop: The loop.
        predicts: Whether an exit asks for predictions.
        past: Cached positions.
        ran: By loop, or by its parts.
        spares: Whether experts leave out positions that have halted.
    """

    loop: "RecurrentBlock"
    predicts: bool
    past: int
    ran: list[Ran] = field(default_factory=list)
    spares: bool = False

    def __post_init__(self) -> None:
        block = self.loop.block
        looked_at = patched(self.loop.act) or any(patched(b.ffn) for b in self.loop.blocks)
        self.spares = not looked_at and not block.attn_norm.weight.is_cuda
        self.spares = self.spares and self.loop.cfg.core_ffn == "moe"

    def note(self, now: Standing, places: Places | None, valid: Tensor | None) -> None:
        """One loop, or a part of it, which starts from `now`."""
        how = {"forms": now.shared is None, "predicts": self.predicts}
        if places is None:
            active = now.active(valid) if self.spares else None
            served = None if active is None else int(active.sum())
            batch, length = now.h.shape[:2]
            self.ran.append(ran_whole(batch, length, self.past, served=served, **how))
        elif places.count:
            self.ran.append(ran_apart(places, self.past, **how))

    def work(self, rows: Sequence[int], length: int) -> Work:
        """The whole pass.

        Args:
            rows: Loops of each row that were asked for.
            length: Positions of each.
        """
        cfg, shares, attn = self.loop.cfg, self.loop.cfg.kv == "first", self.loop.block.attn
        form = attn.form if isinstance(attn, MLAttention) else "auto"
        going = [sum(loops > t for loops in rows) for t in range(max(rows))]
        full = [
            ran_whole(count, length, self.past, forms=not (shares and t), predicts=False)
            for t, count in enumerate(going)
        ]
        return Work(
            positions=sum(one.positions for one in self.ran),
            full_positions=sum(one.positions for one in full),
            flops=sum(one.flops(cfg, form) for one in self.ran),
            full_flops=sum(one.flops(cfg, form) for one in full),
        )
