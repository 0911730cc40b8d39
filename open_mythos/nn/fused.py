"""Several bias-free linear maps of one input, stored as one matrix, still named one by one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.ops.few import linear


class LinearView:
    """A named slice of a fused weight that looks like `nn.Linear` without bias.

    `weight` is (out, in) and shares storage with the parameter, so reading it and writing to it
    in place under `no_grad` see and change the real values.
    """

    bias = None

    def __init__(self, weight: Tensor) -> None:
        """Wrap a (out, in) view."""
        self._weight = weight

    @property
    def weight(self) -> Tensor:
        """(out, in); read-only as an attribute, since a new tensor would not reach the layer."""
        return self._weight

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self.weight.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.weight)


class FusedLinear(nn.Module):
    """One matmul for maps that share an input: the parts lie below each other in one weight."""

    def __init__(self, dim_in: int, parts: Mapping[str, int]) -> None:
        """Store `parts` (name -> output width) of an input of width `dim_in`."""
        super().__init__()
        self.parts = dict(parts)
        self.weight = nn.Parameter(torch.empty(sum(self.parts.values()), dim_in))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., in) -> one (..., width) per part, in the order given."""
        parts: tuple[Tensor, ...] = self.joined(x).split(list(self.parts.values()), dim=-1)
        return parts

    def joined(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., sum of widths), the parts side by side."""
        return linear(x, self.weight)

    def only(self, name: str, x: Tensor) -> Tensor:
        """(..., in) -> (..., width) of one part, without the work of the others."""
        return self.part(name)(x)

    def rest(self, first: str, x: Tensor) -> Tensor:
        """(..., in) -> (..., sum of widths) of the parts from `first` on, side by side."""
        names = list(self.parts)
        start = sum(self.parts[name] for name in names[: names.index(first)])
        return linear(x, self.weight[start:])

    def part(self, name: str) -> LinearView:
        """The named part as a linear map of its own."""
        start = 0
        for known, width in self.parts.items():
            if known == name:
                return LinearView(self.weight[start : start + width])
            start += width
        raise KeyError(name)

    def extra_repr(self) -> str:
        """The parts and widths, for `print(model)`."""
        return f"in={self.weight.shape[1]}, {', '.join(f'{k}={v}' for k, v in self.parts.items())}"


class HasParts(nn.Module):
    """A layer whose published sub-modules are views of fused storage: they cannot be swapped.

    Without this, `attn.wq = MyLinear(...)` would register a module that nobody runs.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            raise AttributeError(
                f"{type(self).__name__}.{name} is a view of fused storage and cannot be replaced; "
                f"change its values in place under torch.no_grad(), or replace the whole layer"
            )
        super().__setattr__(name, value)
