"""Routed experts dealt out to ranks: tokens travel to their experts, and the answers back."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.moe.layer import MoEFFN, Stacks
from open_mythos.ops.backend import ExpertsBackend
from open_mythos.ops.experts import (
    rows_at_places,
    run_experts,
    shares_at_places,
    sums_at_tokens,
)
from open_mythos.ops.routing import Routing
from open_mythos.parallel.division import STACKS, Division
from open_mythos.parallel.mesh import Axis


class ExpertStacks(nn.Module):
    """This rank's experts, apart from the loop that runs them: FSDP2 holds them in other groups.

    A pass goes through it once, before its loops, so that the stacks are gathered before the first
    of them and their gradients reduced behind the last on the way back.
    """

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        """(E, dim, 2 * expert_dim) and (E, expert_dim, dim) of E experts."""
        super().__init__()
        self.gate_up, self.down = nn.Parameter(gate_up), nn.Parameter(down)

    def forward(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """State and input of a pass, unchanged."""
        return h, e


class SpreadMoE(MoEFFN):
    """A mixture whose routed experts lie on the ranks of an axis, each rank routing its own tokens.

    Router, its bias, and the always-on experts are on every rank.
    """

    together = False
    axis: Axis
    stacks: ExpertStacks

    @property
    def gate_up(self) -> nn.Parameter:  # type: ignore[override]
        """This rank's part of the stack."""
        return self.stacks.gate_up

    @property
    def down(self) -> nn.Parameter:  # type: ignore[override]
        """This rank's part of the stack."""
        return self.stacks.down

    @torch.compiler.disable(  # type: ignore[untyped-decorator]
        reason="how many tokens travel is known at run time only, and to the host"
    )
    def _mix(self, rows: Tensor, routing: Routing, plus: Tensor | None, stacks: Stacks) -> Tensor:
        y = run_spread(rows, routing, *stacks, self.axis, self.experts_backend)
        return y if plus is None else y + plus


def divide_experts(model: OpenMythos, axis: Axis) -> dict[str, Division]:
    """Leave this rank its share of the routed experts, in place.

    Returns:
        How each stack is dealt out, by its name.
    """
    loop, ffn = model.recurrent, model.recurrent.block.ffn
    assert isinstance(ffn, MoEFFN)
    division = Division("expert", 0, (ffn.n_experts,), axis.size, axis.rank)
    stacks = ExpertStacks(division.local(ffn.gate_up.detach()), division.local(ffn.down.detach()))
    del ffn.gate_up, ffn.down
    ffn.__class__ = SpreadMoE
    setattr(ffn, STACKS, stacks)
    ffn.axis = axis
    inside = loop.run

    def run(h: Tensor, e: Tensor, *args: Any, **kwargs: Any) -> Any:
        return inside(*stacks(h, e), *args, **kwargs)

    loop.run = run  # type: ignore[method-assign]
    loop.lockstep = True
    return {f"recurrent.block.ffn.{name}": division for name in ("gate_up", "down")}


def run_spread(
    x: Tensor,
    routing: Routing,
    gate_up: Tensor,
    down: Tensor,
    axis: Axis,
    backend: ExpertsBackend = "auto",
) -> Tensor:
    """`ops.experts.run_experts` with the experts on the ranks of an axis.

    Each choice of a token is a row of its own on the wire. Every rank calls this equally often,
    with any number of tokens, none included. Counts travel first; the host waits for them, once per
    call, since it must know how much to receive.

    Args:
        x: (N, D), this rank's tokens.
        routing: Their experts, among all of them.
        gate_up: (E / ranks, D, 2F), this rank's experts.
        down: (E / ranks, F, D).
        axis: The ranks, each with equally many experts, in order.
        backend: Which implementation runs this rank's experts.

    Returns:
        (N, D).
    """
    plan, own = routing.plan, down.shape[0]
    leaving = plan.load
    coming = torch.empty_like(leaving)
    dist.all_to_all_single(coming, leaving, group=axis.group)
    sizes = torch.stack((leaving, coming)).view(2, axis.size, own).sum(-1)
    sent, received = sizes.tolist()  # the host waits here
    there = exchange(rows_at_places(x, plan), sent, received, axis)
    # From each rank come the rows of this rank's first expert, then of its second, ...
    kinds = torch.arange(own, device=x.device).repeat(axis.size)
    ids = kinds.repeat_interleave(coming, output_size=sum(received)).unsqueeze(1)
    answers = run_experts(there, ids, torch.ones_like(ids, dtype=x.dtype), gate_up, down, backend)
    back = exchange(answers, received, sent, axis)
    return sums_at_tokens(back * shares_at_places(routing.weights.to(x.dtype), plan), plan)


def exchange(rows: Tensor, sent: list[int], received: list[int], axis: Axis) -> Tensor:
    """Rows (sum of `sent`, D) to the axis's ranks in order; what they sent (sum of `received`, D).

    The gradient goes the same way back.
    """
    there: Tensor = _Exchange.apply(rows, sent, received, axis)  # type: ignore[no-untyped-call]
    return there


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], axis: Axis) -> Tensor:
        ctx.way = (received, sent, axis)
        there = rows.new_empty(sum(received), rows.shape[1])
        dist.all_to_all_single(there, rows.contiguous(), received, sent, group=axis.group)
        return there

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return exchange(grads[0], *ctx.way), None, None, None
