"""What the loops of one pass were seen to do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_mythos.nn.cache import Entries
from open_mythos.nn.loop.readout import ActMean, Readout
from open_mythos.nn.loop.work import Work


@dataclass(frozen=True)
class LoopTrace:
    """What one pass through the loop learnt.

    Attributes:
        n_loops: Loops that ran.
        halting: (n_loops, B, S) halting probabilities; None where nobody asked for them.
        halting_weights: (n_loops, B, S) weights of the states in the readout; None where halting
            plays no part, or positions leave by an exit.
        loops_used: (B, S) int64, loops in which each position took part.
        ponder: (B, S) Graves' N + R; None likewise.
        router_load: (n_loops, E) int64, tokens per expert.
        state_rms: (n_loops,) float32, root mean square of the state after each loop.
        state_change: (n_loops,) float32, root mean square of what each loop changed of the state.
        reads: (B, S, dim) each, what was read out after the loops that were asked for.
        row_loops: Loops of each row, where rows differ; the tables above are zero past a row's end,
            and loads and states are those of the rows that were still running.
        work: What was computed; None where a compiler counts nothing.
    """

    n_loops: int
    halting: Tensor | None
    halting_weights: Tensor | None
    loops_used: Tensor
    ponder: Tensor | None
    router_load: Tensor
    state_rms: Tensor
    state_change: Tensor
    reads: tuple[Tensor, ...] = ()
    row_loops: tuple[int, ...] | None = None
    work: Work | None = None

    def moved(self, index: Tensor) -> "LoopTrace":
        """The trace of the rows `index` (B,) of this one, `reads` aside."""
        halting, weights, ponder = self.halting, self.halting_weights, self.ponder
        return replace(
            self,
            halting=None if halting is None else halting[:, index],
            halting_weights=None if weights is None else weights[:, index],
            loops_used=self.loops_used[index],
            ponder=None if ponder is None else ponder[index],
        )


@dataclass(frozen=True)
class Noted:
    """What one loop was seen to do.

    Attributes:
        p: (B, S) halting probabilities; None where nobody asked for them.
        weight: (B, S) weight of the state in the readout; None where halting plays no part.
        load: (E,) int64, tokens per expert.
        rms: Root mean square of the state; None where nobody asked.
        change: Root mean square of what the loop changed of it; None likewise.
        new: Keys and values of the positions, where another loop needs them.
        seen: The same with the cached ones.
    """

    p: Tensor | None
    weight: Tensor | None
    load: Tensor | None
    rms: Tensor | None
    change: Tensor | None = None
    new: Entries | None = None
    seen: Entries | None = None


@dataclass(frozen=True)
class Part:
    """What some neighbouring rows did in one loop.

    Attributes:
        noted: What was seen.
        rows: Which rows.
    """

    noted: Noted
    rows: slice


@torch.no_grad()
def state_rms(h: Tensor, valid: Tensor | None) -> Tensor:
    """Root mean square of states (B, S, dim) over the real positions (B, S); None: all."""
    square = h.float().square().mean(-1)
    if valid is None:
        return square.mean().sqrt()
    return ((square * valid).sum() / valid.sum().clamp(min=1)).sqrt()


@torch.no_grad()
def state_change(h: Tensor, before: Tensor, valid: Tensor | None) -> Tensor:
    """Root mean square of what became of a state, as `state_rms`."""
    return state_rms(h - before, valid)


def loop_trace(
    seen: Sequence[Noted], readout: Readout, h: Tensor, reads: tuple[Tensor, ...] = ()
) -> LoopTrace:
    """The trace of a pass from what its loops noted, its readout, and a state like (B, S, dim)."""
    n_loops = len(seen)
    act = readout if isinstance(readout, ActMean) else None
    everywhere = torch.full(h.shape[:-1], n_loops, dtype=torch.int64, device=h.device)
    nobody = torch.zeros(0, dtype=torch.int64, device=h.device)
    loads = [nobody if noted.load is None else noted.load for noted in seen]
    halting = [noted.p for noted in seen if noted.p is not None]
    return LoopTrace(
        n_loops=n_loops,
        halting=torch.stack(halting) if halting else None,
        halting_weights=(
            torch.stack([n.weight for n in seen if n.weight is not None]) if act else None
        ),
        loops_used=everywhere if readout.loops is None else readout.loops,
        ponder=act.ledger.ponder if act else None,
        router_load=torch.stack(loads),
        state_rms=torch.stack([noted.rms for noted in seen if noted.rms is not None]),
        state_change=torch.stack([noted.change for noted in seen if noted.change is not None]),
        reads=reads,
    )


def rows_trace(
    loops: Sequence[Sequence[Part]],
    readouts: Sequence[Readout],
    ends: Tensor,
    valid: Tensor | None,
    h: Tensor,
) -> LoopTrace:
    """The trace of a pass whose rows, the deepest first, ended at different loops.

    Args:
        loops: By loop, the parts that ran it: together the rows from the first on.
        readouts: Of all rows, one part after the other.
        ends: (B,) int64, loops of each row.
        valid: (B, S) boolean, False at padding; None means all real.
        h: A state like (B, S, dim).
    """
    ledgers = [readout.ledger for readout in readouts if isinstance(readout, ActMean)]
    taken = [readout.loops for readout in readouts if readout.loops is not None]
    loads = [[p.noted.load for p in parts if p.noted.load is not None] for parts in loops]
    nobody = torch.zeros(0, dtype=torch.int64, device=h.device)  # a dense core has no experts
    halting = weights = ponder = None
    used = torch.cat(taken) if taken else ends.unsqueeze(-1).expand(h.shape[:-1])
    if loops[0][0].noted.p is not None:
        halting = torch.stack([_table([p.noted.p for p in parts], h) for parts in loops])
    if ledgers:
        weights = torch.stack([_table([p.noted.weight for p in parts], h) for parts in loops])
        ponder = torch.cat([ledger.ponder for ledger in ledgers])
    return LoopTrace(
        n_loops=len(loops),
        halting=halting,
        halting_weights=weights,
        loops_used=used,
        ponder=ponder,
        router_load=torch.stack([torch.stack(p).sum(0) if p else nobody for p in loads]),
        state_rms=_joint_rms(loops, lambda noted: noted.rms, valid, h.shape[1]),
        state_change=_joint_rms(loops, lambda noted: noted.change, valid, h.shape[1]),
    )


def _table(parts: Sequence[Tensor | None], h: Tensor) -> Tensor:
    """Parts (N, S) as one table (B, S), zero for the rows that are in none."""
    known = [part for part in parts if part is not None]
    missing = h.shape[0] - sum(len(part) for part in known)
    return torch.cat([*known, known[0].new_zeros(missing, h.shape[1])])


def _joint_rms(
    loops: Sequence[Sequence[Part]],
    measured: Callable[[Noted], Tensor | None],
    valid: Tensor | None,
    length: int,
) -> Tensor:
    """Root mean squares (T,) over the real positions of all parts of each loop."""
    return torch.stack([_over_parts(parts, measured, valid, length) for parts in loops])


def _over_parts(
    parts: Sequence[Part],
    measured: Callable[[Noted], Tensor | None],
    valid: Tensor | None,
    length: int,
) -> Tensor:
    squares, count = [], []
    for part in parts:
        rms, rows = measured(part.noted), part.rows
        assert rms is not None
        everywhere = torch.full_like(rms, (rows.stop - rows.start) * length)
        real = everywhere if valid is None else valid[rows].sum()
        squares.append(real * rms.square())
        count.append(real)
    return (torch.stack(squares).sum() / torch.stack(count).sum().clamp(min=1)).sqrt()
