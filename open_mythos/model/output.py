"""ForwardOutput: everything a forward pass learnt, in one frozen record."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.nn.loop.trace import LoopTrace
from open_mythos.nn.loop.work import Work


@dataclass(frozen=True)
class ForwardOutput:
    """The record of one pass; no hooks needed.

    Attributes:
        logits: (B, S, vocab), or of the positions that were asked for.
        features: (B, S, dim), what the head reads.
        n_loops: Loops that ran; fewer than asked for if every position had halted; those of the
            deepest row where rows differ.
        halting: (n_loops, B, S) halting probability after each loop; None with readout "last",
            unless a gate was asked.
        halting_weights: (n_loops, B, S) weight of each loop's state in the readout, summing to
            one over loops with readout "act" (and "act_last", which reads the last of them alone);
            None with readout "last", or an exit.
        loops_used: (B, S) int64, loops in which each position took part.
        ponder_cost: Graves' N + R, mean over real positions, with gradient; None likewise.
        router_load: (n_loops, E) int64, tokens that each expert served in each loop.
        state_rms: (n_loops,) root mean square of the loop state after each loop.
        state_change: (n_loops,) root mean square of what each loop changed of it; None of a network
            that does not say.
        row_loops: Loops of each row, where it was given one number per row; None elsewhere. Past a
            row's end halting and its weights are zero, and router_load, state_rms and state_change
            are those of the rows that ran the loop.
        loop_features: (B, S, dim) each, what the head would read had the pass ended after the loops
            in `read_loops`.
        work: What the loops computed, beside the full depth's; None from a compiled pass.
    """

    logits: Tensor
    features: Tensor
    n_loops: int
    halting: Tensor | None
    halting_weights: Tensor | None
    loops_used: Tensor
    ponder_cost: Tensor | None
    router_load: Tensor
    state_rms: Tensor
    row_loops: tuple[int, ...] | None = None
    loop_features: tuple[Tensor, ...] = ()
    state_change: Tensor | None = None
    work: Work | None = None


def forward_output(
    logits: Tensor,
    features: Tensor,
    trace: LoopTrace,
    valid: Tensor | None,
    loop_features: tuple[Tensor, ...] = (),
) -> ForwardOutput:
    """The record of a pass from its logits and the loop's trace.

    Args:
        logits: (B, S, vocab).
        features: (B, S, dim).
        trace: Of the loop.
        valid: (B, S) boolean, False at padding; None means all real.
        loop_features: (B, S, dim) each, of the trace's reads.
    """
    ponder = trace.ponder
    if ponder is not None:
        real = torch.ones_like(ponder) if valid is None else valid.to(ponder.dtype)
        ponder = (ponder * real).sum() / real.sum().clamp(min=1)
    return ForwardOutput(
        logits=logits,
        features=features,
        n_loops=trace.n_loops,
        halting=trace.halting,
        halting_weights=trace.halting_weights,
        loops_used=trace.loops_used,
        ponder_cost=ponder,
        router_load=trace.router_load,
        state_rms=trace.state_rms,
        row_loops=trace.row_loops,
        loop_features=loop_features,
        state_change=trace.state_change,
        work=trace.work,
    )
