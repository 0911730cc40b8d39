"""The Jacobian dh'/dh of one whole loop: its spectral radius and its largest singular value.

Attention is causal, so with positions in order the Jacobian of a row is block triangular: its
eigenvalues are those of the blocks dh'_i/dh_i of single positions, which are small.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.data.batch import Batch
from open_mythos.errors import InputError
from open_mythos.eval.doctor.walk import Turn, beginning, part, walk
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.recurrent import RecurrentBlock


# Blocks up to this width are formed and their eigenvalues found by LAPACK: a product per channel.
# Wider ones are estimated by GROWTH products, of which the first half only lets small eigenvalues
# die out: at width 512 they take a tenth of the time.
EXACT_WIDTH = 256
GROWTH = 96
# Positions of a row that are looked at, the first ones: they do not depend on later ones.
LENGTH = 64
# Products behind the largest singular value; its error falls with the square of their number's
# power, so that it is right to 1 % unless the next one is closer than 5 %.
STRETCHES = 40
# Difference quotients step this share of the state's norm: the square of it is the error left in
# float64, and rounding adds 1e-16 over it.
STEP = 1e-5
# Positions of a pass: as many copies of a row as this allows are differentiated together.
POSITIONS = 4096


@dataclass(frozen=True)
class Jacobian:
    """What one loop does to a small change of its state.

    Attributes:
        radii: Spectral radius of the block of each position that was looked at; their largest is
            that of the whole Jacobian if these are all positions, and a lower bound otherwise.
        stretch: Largest singular value over all positions of a row jointly: the most that one loop
            can make of a change, whatever happens later. From below, usually within 1 %.
        exact: Whether the radii are eigenvalues to rounding. Else they are the growth of a change
            over some dozens of loops, a few per cent off where eigenvalues crowd.
    """

    radii: tuple[float, ...]
    stretch: float
    exact: bool

    @property
    def radius(self) -> float:
        """The largest of them: a small change shrinks for good if it is below one."""
        return max(self.radii)


def loop_jacobian(
    model: OpenMythos,
    batch: Batch,
    n_loops: int,
    *,
    rows: int = 2,
    positions: int = 4,
    exact: bool | None = None,
) -> Jacobian:
    """The Jacobian of loop number `n_loops` at the state that it starts from.

    The loop is a function of the state: its input e, its number, and keys that the first loop made
    for all are as they were, and no position has halted. Taken in float64 from a copy of the
    network. Routing is piecewise constant, and differentiated as it stands.

    Args:
        model: The network.
        batch: Rows to look at, of which the first 64 positions are.
        n_loops: Loops; the last of them is differentiated.
        rows: Rows, the first ones.
        positions: Positions of each row, evenly apart, the last of them included.
        exact: Whether to form the blocks; None decides by their width.

    Raises:
        InputError: If a state is not finite.
    """
    wide = copy.deepcopy(model)
    if model.embed.weight.device.type == "mps":  # it has no float64
        wide = wide.cpu()
    wide = wide.double().requires_grad_(False)
    few = beginning(part(batch, torch.arange(min(rows, len(batch.ids)))), LENGTH)
    turn = walk(wide, few, n_loops).turns[-1]
    if not bool(torch.isfinite(turn.after).all()):
        raise InputError(f"the state is not finite at loop {n_loops}, so that it has no Jacobian")
    places = spaced(few.ids.shape[1], positions)
    formed = turn.after.shape[-1] <= EXACT_WIDTH if exact is None else exact
    if formed:
        radii = [radius for row in range(len(few.ids)) for radius in
                 _eigenvalues(wide, part(few, torch.tensor([row])), n_loops, places)]  # fmt: skip
    else:
        radii = _growths(wide, few, n_loops, places)
    return Jacobian(tuple(radii), _stretch(wide.recurrent, turn), formed)


def spaced(length: int, count: int) -> list[int]:
    """Up to `count` of `length` positions, evenly apart, the last one included, ascending."""
    count = min(count, length)
    return [length * (i + 1) // count - 1 for i in range(count)]


def _eigenvalues(model: OpenMythos, row: Batch, n_loops: int, places: Sequence[int]) -> list[float]:
    """Spectral radii of the blocks of some positions of one row (1, S).

    Row k of a block is the gradient of channel k: copies of the row have one channel each.
    """
    length = row.ids.shape[1]
    copies = max(1, min(POSITIONS // length, model.cfg.dim))
    turn = walk(model, part(row, torch.zeros(copies, dtype=torch.int64)), n_loops).turns[-1]
    h, after = _differentiable(model.recurrent, turn)
    width, found = after.shape[-1], []
    for place in places:
        block = after.new_empty(width, width)
        for first in range(0, width, copies):
            here = torch.arange(min(copies, width - first), device=after.device)
            cotangent = torch.zeros_like(after)
            cotangent[here, place, first + here] = 1.0
            (gradient,) = torch.autograd.grad(after, h, cotangent, retain_graph=True)
            block[first + here] = gradient[here, place]
        finite = bool(torch.isfinite(block).all())
        found.append(float(torch.linalg.eigvals(block.cpu()).abs().max()) if finite else math.inf)
    return found


def _growths(model: OpenMythos, rows: Batch, n_loops: int, places: Sequence[int]) -> list[float]:
    """The same by the growth of a random change, one copy of a row for each position of it.

    Powers of the transposed block: it has the same eigenvalues. A complex pair makes single factors
    swing; their geometric mean over half of the products does not.
    """
    numbers = torch.arange(len(rows.ids)).repeat_interleave(len(places))
    turn = walk(model, part(rows, numbers), n_loops).turns[-1]
    h, after = _differentiable(model.recurrent, turn)
    here = torch.arange(len(numbers), device=after.device)
    there = torch.tensor(list(places) * len(rows.ids), device=after.device)
    change = _random(after[:, 0])
    logs = []
    for _ in range(GROWTH):
        cotangent = torch.zeros_like(after)
        cotangent[here, there] = change
        (gradient,) = torch.autograd.grad(after, h, cotangent, retain_graph=True)
        change = gradient[here, there]
        norm = change.norm(dim=-1, keepdim=True)
        logs.append(norm.squeeze(-1).log())
        change = change / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return [float(x) for x in torch.stack(logs[GROWTH // 2 :]).mean(0).exp()]


def _stretch(loop: RecurrentBlock, turn: Turn) -> float:
    """The largest singular value of the Jacobian of any row, by powers of J^T J."""
    h, after = _differentiable(loop, turn)
    size = h.detach().flatten(1).norm(dim=-1).view(-1, 1, 1)
    step = STEP * torch.where(size > 0.0, size, 1.0)
    change = _random(after)
    for _ in range(STRETCHES):
        with torch.no_grad():
            ahead = turn.again(loop, h + step * change)
            pushed = (ahead - turn.again(loop, h - step * change)) / (2.0 * step)
        (pulled,) = torch.autograd.grad(after, h, pushed, retain_graph=True)
        norm = pulled.flatten(1).norm(dim=-1).view(-1, 1, 1)
        change = pulled / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return float(pushed.flatten(1).norm(dim=-1).max())


def _differentiable(loop: RecurrentBlock, turn: Turn) -> tuple[Tensor, Tensor]:
    """A turn's state as a leaf, and what the turn makes of it."""
    h = turn.before.h.detach().clone().requires_grad_()
    with torch.enable_grad():
        return h, turn.again(loop, h)


def _random(like: Tensor) -> Tensor:
    """Random rows of norm one, the same in every call."""
    draws = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype)
    norms = draws.flatten(1).norm(dim=-1).view(-1, *[1] * (draws.dim() - 1))
    unit: Tensor = draws / norms
    return unit.to(like.device)
