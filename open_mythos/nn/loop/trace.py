"""What the loops of one pass were seen to do."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.nn.cache import Entries
from open_mythos.nn.loop.readout import ActMean, Readout


@dataclass(frozen=True)
class LoopTrace:
    """What one pass through the loop learnt.

    Attributes:
        n_loops: Loops that ran.
        halting: (n_loops, B, S) halting probabilities; None where halting plays no part.
        halting_weights: (n_loops, B, S) weights of the states in the readout; None likewise.
        loops_used: (B, S) int64, loops in which each position took part.
        ponder: (B, S) Graves' N + R; None likewise.
        router_load: (n_loops, E) int64, tokens per expert.
        state_rms: (n_loops,) float32, root mean square of the state after each loop.
    """

    n_loops: int
    halting: Tensor | None
    halting_weights: Tensor | None
    loops_used: Tensor
    ponder: Tensor | None
    router_load: Tensor
    state_rms: Tensor


@dataclass(frozen=True)
class Noted:
    """What one loop was seen to do.

    Attributes:
        p: (B, S) halting probabilities; None where halting plays no part.
        weight: (B, S) weight of the state in the readout; None likewise.
        load: (E,) int64, tokens per expert.
        rms: Root mean square of the state; None where nobody asked.
        new: Keys and values of the positions, where another loop needs them.
        seen: The same with the cached ones.
    """

    p: Tensor | None
    weight: Tensor | None
    load: Tensor | None
    rms: Tensor | None
    new: Entries | None = None
    seen: Entries | None = None


@torch.no_grad()
def state_rms(h: Tensor, valid: Tensor | None) -> Tensor:
    """Root mean square of states (B, S, dim) over the real positions (B, S); None: all."""
    square = h.float().square().mean(-1)
    if valid is None:
        return square.mean().sqrt()
    return ((square * valid).sum() / valid.sum().clamp(min=1)).sqrt()


def loop_trace(seen: Sequence[Noted], readout: Readout, h: Tensor) -> LoopTrace:
    """The trace of a pass from what its loops noted, its readout, and a state like (B, S, dim)."""
    n_loops = len(seen)
    act = readout if isinstance(readout, ActMean) else None
    everywhere = torch.full(h.shape[:-1], n_loops, dtype=torch.int64, device=h.device)
    nobody = torch.zeros(0, dtype=torch.int64, device=h.device)
    loads = [nobody if noted.load is None else noted.load for noted in seen]
    return LoopTrace(
        n_loops=n_loops,
        halting=torch.stack([n.p for n in seen if n.p is not None]) if act else None,
        halting_weights=(
            torch.stack([n.weight for n in seen if n.weight is not None]) if act else None
        ),
        loops_used=act.ledger.loops if act else everywhere,
        ponder=act.ledger.ponder if act else None,
        router_load=torch.stack(loads),
        state_rms=torch.stack([noted.rms for noted in seen if noted.rms is not None]),
    )
