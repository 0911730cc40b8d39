"""The norm of gradients that lie in parts on many ranks, and their clipping to it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: of a DTensor its storage, else the tensor itself."""
    to_local = getattr(tensor, "to_local", None)  # asked by name: DTensor takes a second to import
    part: Tensor = tensor if to_local is None else to_local()
    return part


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor],
    limit: float,
    counted: Iterable[Tensor] | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Scale gradients to a norm of at most `limit`, all together; the norm before that.

    Nothing is read on the host. Each part is counted by one of the ranks that hold it, whatever is
    sharded, divided or repeated: one sum over the world does the rest.

    Args:
        parameters: Those without a gradient are left out.
        limit: 0 leaves the gradients as they are.
        counted: Those of which this rank counts its part; None is all.
        total: Sums a scalar over the world, in place; None is a world of one.

    Returns:
        A scalar on the gradients' device.
    """
    grads = gradients(parameters)
    mine = grads if counted is None else gradients(counted)
    norms = torch._foreach_norm(mine) if mine else (grads[0].new_zeros(()),)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    if total is not None:
        norm = total(norm.square()).sqrt()
    if limit:
        torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """What this rank holds of the gradients, where there are any."""
    return [local_part(p.grad) for p in parameters if p.grad is not None]
