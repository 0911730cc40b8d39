"""Muon: momentum whose matrices are orthogonalised, expert stacks and fused matrices part by part.

The mathematics is that of torch.optim.Muon (Jordan et al. 2024, with the step size of Moonshot's
"Muon is scalable for LLM training", arXiv 2502.16982), which takes 2-D parameters one by one and
cannot leave a step out without asking the host. Here equal shapes are orthogonalised together.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.optim import Optimizer


# The quintic iteration of Jordan et al.: steep at zero, so that five turns bring every singular
# value to about 0.7 .. 1.2; exactness was found not to matter.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TURNS = 5
LEAST_NORM = 1e-7
# Root mean square of an update before the rate: about AdamW's, so that one rate serves both.
UPDATE_RMS = 0.2
# Numbers that one call of the iteration works on: three times so many exist beside them.
BATCH_NUMBERS = 2**27


@dataclass(frozen=True)
class Cut:
    """Where one stored tensor holds several matrices side by side.

    Attributes:
        dim: The axis along which they lie; of a stack's, counted from the end.
        widths: Their widths, in order.
    """

    dim: int
    widths: tuple[int, ...]


class Muon(Optimizer):
    """Orthogonalised momentum for (rows, columns) matrices and (E, rows, columns) stacks of them.

    A group's "cut" names the parts of its fused tensors: each map gets an update of its own
    spectrum and of its own size, as if it were stored by itself; orthogonalising q | k | v as one
    would let the rows of one push those of another.

    A sharded matrix (DTensor) is gathered after the momentum, in bfloat16, orthogonalised on every
    rank, and each keeps its shard; a stack sharded along its experts needs no other rank.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """`params`: groups of named parameters, with "cut" where they are fused."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "cut": None}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Where a caller has set `found_inf`, as for torch's fused optimizers, and it is 1, nothing
        moves, momentum included.
        """
        assert closure is None
        flag: Tensor | None = getattr(self, "found_inf", None)
        skipped = None if flag is None else flag.bool()
        moving = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        matrices = [
            matrices_of(whole(self._advance(p, group["momentum"], skipped), p), group["cut"])
            for p, group in moving
        ]
        turned = iter(orthogonalise([m for found in matrices for m in found]))
        for (p, group), found in zip(moving, matrices, strict=True):
            scaled = [next(turned).float().mul_(step_size(m)) for m in found]
            _move(p, joined(scaled, p, group["cut"]), group, skipped)

    def _advance(self, p: Tensor, momentum: float, skipped: Tensor | None) -> Tensor:
        """Take a gradient into its momentum; Nesterov's look ahead, in bfloat16, sharded as `p`."""
        assert p.grad is not None
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        grad, kept = local(p.grad), local(state["momentum_buffer"])
        if skipped is not None:
            grad = torch.where(skipped, kept, grad)  # which leaves the momentum as it is
        kept.lerp_(grad, 1 - momentum)
        return grad.lerp(kept, momentum).bfloat16()


def _move(p: Tensor, update: Tensor, group: dict[str, Any], skipped: Tensor | None) -> None:
    value, decay = local(p), 1 - group["lr"] * group["weight_decay"]
    if skipped is None:
        value.mul_(decay)
    else:
        value.mul_(torch.where(skipped, 1.0, decay))
        update = update.masked_fill_(skipped, 0.0)
    value.add_(update, alpha=-group["lr"])


# -- matrices ------------------------------------------------------------------------------------


def step_size(matrices: Tensor) -> float:
    """What an orthogonal (.., rows, columns) is multiplied by for a root mean square of 0.2."""
    return float(UPDATE_RMS * max(matrices.shape[-2:]) ** 0.5)


def matrices_of(tensor: Tensor, cut: Cut | None) -> list[Tensor]:
    """The matrices of a tensor (rows, columns) or (E, rows, columns): views (n, rows, columns)."""
    parts = (tensor,) if cut is None else tensor.split(cut.widths, dim=cut.dim)
    return [part if part.ndim == 3 else part.unsqueeze(0) for part in parts]


def joined(matrices: list[Tensor], p: Tensor, cut: Cut | None) -> Tensor:
    """The inverse of `whole` and `matrices_of`: one update, of what this rank keeps of `p`."""
    parts = matrices if p.ndim == 3 else [m.squeeze(0) for m in matrices]
    together = parts[0] if cut is None else torch.cat(parts, dim=cut.dim)
    if not isinstance(p, DTensor) or whole_here(p):
        return together
    everywhere: list[Placement] = [Replicate()] * p.device_mesh.ndim
    full = DTensor.from_local(together, p.device_mesh, everywhere, run_check=False)
    return local(full.redistribute(placements=p.placements))


def orthogonalise(matrices: list[Tensor]) -> list[Tensor]:
    """The nearest orthogonal matrices, roughly, of bfloat16 (n, rows, columns) of any shapes.

    A tall matrix is turned on its side first: the transpose of the answer is that of the transpose.
    """
    lying = [m if m.shape[-2] <= m.shape[-1] else m.mT for m in matrices]
    alike: dict[torch.Size, list[int]] = {}
    for i, m in enumerate(lying):
        alike.setdefault(m.shape[1:], []).append(i)
    found: dict[int, Tensor] = {}
    for shape, members in alike.items():
        together = torch.cat([lying[i] for i in members])
        most = max(1, BATCH_NUMBERS // shape.numel())
        turned = torch.cat([newton_schulz(some) for some in together.split(most)])
        found.update(zip(members, turned.split([len(lying[i]) for i in members]), strict=True))
    return [found[i] if m.shape[-2] <= m.shape[-1] else found[i].mT for i, m in enumerate(matrices)]


def newton_schulz(matrices: Tensor) -> Tensor:
    """U S' V^T for every matrix U S V^T of (n, rows, columns), S' in about 0.7 .. 1.2.

    Where S is much below 1e-3 of its largest, S' is smaller; a matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    x: Tensor = matrices / norm.clamp(min=LEAST_NORM)  # no singular value exceeds 1
    for _ in range(TURNS):
        gram: Tensor = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


# -- shards --------------------------------------------------------------------------------------


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; itself, if it is not sharded. To be used without grad."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_here(p: DTensor) -> bool:
    """Whether every matrix that this rank holds a part of is here whole."""
    apart = [placement for placement in p.placements if not placement.is_replicate()]
    return not apart or (p.ndim == 3 and all(isinstance(a, Shard) and a.dim == 0 for a in apart))


def whole(mine: Tensor, p: Tensor) -> Tensor:
    """The whole matrices behind `mine`, this rank's share of a tensor that is sharded as `p`."""
    if not isinstance(p, DTensor) or whole_here(p):
        return mine
    whole_tensor: Tensor = DTensor.from_local(
        mine, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    ).full_tensor()
    return whole_tensor
