"""What the loop did with its time: when positions halted, and which experts served each loop."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.errors import InputError
from open_mythos.model.output import ForwardOutput
from open_mythos.nn.mode import evaluating


@dataclass(frozen=True)
class LoopUse:
    """How the loops of a pass were used, over all scored positions of some batches.

    Attributes:
        n_loops: Loops that were offered.
        n: Positions counted.
        halted_by: halted_by[t] is the share of positions that took part in at most t + 1 loops;
            never falling, and 1 at the end.
        mean_loops: Loops that a position took part in, on average.
        state_rms: Root mean square of the loop state after each loop, mean over batches.
        expert_load: `expert_load[t][e]` is the share of loop t's routed tokens that expert e
            served; a row sums to 1, and a loop that never ran is all 0.
    """

    n_loops: int
    n: int
    halted_by: tuple[float, ...]
    mean_loops: float
    state_rms: tuple[float, ...]
    expert_load: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LoopUse":
        """The record that `to_json` wrote."""
        return cls(
            n_loops=values["n_loops"],
            n=values["n"],
            halted_by=tuple(values["halted_by"]),
            mean_loops=values["mean_loops"],
            state_rms=tuple(values["state_rms"]),
            expert_load=tuple(tuple(row) for row in values["expert_load"]),
        )


@torch.inference_mode()
def loop_use(model: nn.Module, batches: Iterable[Batch], n_loops: int) -> LoopUse:
    """Run a model over finite batches and record how it used its loops.

    Only scored positions count towards halting; experts are counted over all positions, which is
    what they serve.

    Raises:
        InputError: If the batches score no position.
    """
    device = next(model.parameters()).device
    used: list[Tensor] = []
    loads: list[Tensor] = []
    norms: list[Tensor] = []
    ran: list[Tensor] = []
    with evaluating(model):
        for batch in batches:
            moved = batch.to(device)
            output: ForwardOutput = model(moved.ids, n_loops, return_output=True)
            used.append(output.loops_used[moved.targets != IGNORE].cpu())
            loads.append(pad_loops(output.router_load, n_loops))
            norms.append(pad_loops(output.state_rms, n_loops))
            ran.append(pad_loops(torch.ones(output.n_loops), n_loops))
    n = sum(part.numel() for part in used)
    if not n:
        raise InputError("the batches score no position; nothing can be said of their halting")
    loops = torch.cat(used).double()
    load = torch.stack(loads).sum(0)
    passes = torch.stack(ran).sum(0).clamp(min=1)
    return LoopUse(
        n_loops=n_loops,
        n=n,
        halted_by=tuple(float((loops <= t).double().mean()) for t in range(1, n_loops + 1)),
        mean_loops=float(loops.mean()),
        state_rms=tuple((torch.stack(norms).sum(0) / passes).tolist()),
        expert_load=tuple(
            tuple(row) for row in (load / load.sum(-1, keepdim=True).clamp(min=1)).tolist()
        ),
    )


def pad_loops(values: Tensor, n_loops: int) -> Tensor:
    """Per-loop values (T, ...) as float64 (n_loops, ...), zero where an early exit came first."""
    padded = torch.zeros(n_loops, *values.shape[1:], dtype=torch.float64)
    padded[: values.shape[0]] = values.detach().cpu().double()
    return padded
