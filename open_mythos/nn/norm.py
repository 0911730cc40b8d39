"""RMSNorm, the only normalisation."""

import torch
from torch import Tensor, nn

from open_mythos.nn.watched import patched
from open_mythos.ops.rows import add_norm, sum_norm, sum_norm_norm


class RMSNorm(nn.Module):
    """Scale to unit root mean square, then by a learned weight (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        """Normalise the last axis, of width `dim`; `eps` is added to the mean square."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim), in the input's dtype."""
        return add_norm(x, None, self.weight, self.eps)[1]

    def after(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum x + y, and its norm: a residual line and what the next layer reads of it."""
        if patched(self):
            total = x + y
            return total, self(total)
        return add_norm(x, y, self.weight, self.eps)

    def of_sum(self, h: Tensor, signal: Tensor | None, e: Tensor | None) -> Tensor:
        """The norm of h + signal + e: what a loop reads of its state, its number and its input."""
        if patched(self) or e is None:
            normed: Tensor = self(total(h, signal, e))
            return normed
        return sum_norm(h, signal, e, self.weight, self.eps)

    def of_sum_then(
        self, then: "RMSNorm", h: Tensor, signal: Tensor | None, e: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`of_sum`, and what the norm behind it makes of that."""
        if patched(self) or patched(then) or e is None:
            x = self.of_sum(h, signal, e)
            return x, then(x)
        first, second = (self.weight, self.eps), (then.weight, then.eps)
        return sum_norm_norm(h, signal, e, first, second)


def total(h: Tensor, signal: Tensor | None, e: Tensor | None) -> Tensor:
    """The sum h + signal + e, of those that there are."""
    if signal is not None:
        h = h + signal
    return h if e is None else h + e
