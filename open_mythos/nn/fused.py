"""Several bias-free linear maps of one input, stored as one matrix, still named one by one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.nn.linear import Linear
from open_mythos.nn.watched import foreign
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


class FusedLinear(Linear):
    """One matmul for maps that share an input: the parts lie below each other in one weight.

    To the world it is one `nn.Linear`, which libraries find by its name and may wrap (LoRA,
    quantisation). Layers ask it through `only`, `rest` and `part` below, which know of wrappers.
    """

    def __init__(self, dim_in: int, parts: Mapping[str, int]) -> None:
        """Store `parts` (name -> output width) of an input of width `dim_in`."""
        self.parts = dict(parts)
        super().__init__(dim_in, sum(self.parts.values()))

    def reset_parameters(self) -> None:
        """Start at N(0, 0.02), drawing as many numbers as there are weights."""
        nn.init.normal_(self.weight, std=0.02)

    def joined(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., sum of widths), the parts side by side: the call itself."""
        whole: Tensor = self(x)
        return whole

    def span(self, name: str) -> slice:
        """Which rows of the weight, and which outputs, are those of a part.

        Raises:
            KeyError: If there is no such part.
        """
        start = 0
        for known, width in self.parts.items():
            if known == name:
                return slice(start, start + width)
            start += width
        raise KeyError(name)

    def part(self, name: str) -> LinearView:
        """The named part as a linear map of its own."""
        return LinearView(self.weight[self.span(name)])

    def extra_repr(self) -> str:
        """The parts and widths, for `print(model)`."""
        return f"in={self.weight.shape[1]}, {', '.join(f'{k}={v}' for k, v in self.parts.items())}"


class Low(NamedTuple):
    """A correction of a linear map: up @ down, of low rank.

    Attributes:
        down: (rank, in).
        up: (out, rank).
    """

    down: Tensor
    up: Tensor

    def onto(self, y: Tensor, x: Tensor, rows: slice | None = None) -> Tensor:
        """The sum of y (..., out) and the correction's outputs, or those `rows` of them, for x."""
        return linear(linear(x, self.down), self.up if rows is None else self.up[rows], y)


@dataclass(frozen=True, eq=False)  # torch 2.11's compiler hashes it before it has its fields
class CorrectedMap:
    """A linear map with a correction: whatever is asked of it, the correction is in it.

    Attributes:
        base: The map without it; called as a module, so that wrappers and hooks take part.
        low: The correction.
    """

    base: nn.Module
    low: Low

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.low.onto(self.base(x), x)


def fused(module: nn.Module) -> FusedLinear:
    """The fused map itself, also where somebody has put a wrapper of his own around it."""
    if isinstance(module, FusedLinear):
        return module
    return next(found for found in module.modules() if isinstance(found, FusedLinear))


def only(module: nn.Module | CorrectedMap, name: str, x: Tensor) -> Tensor:
    """(..., in) -> (..., width) of one part, without the work of the others where that is known."""
    if isinstance(module, CorrectedMap):
        span = fused(module.base).span(name)
        return module.low.onto(only(module.base, name, x), x, span)
    inner = fused(module)
    if foreign(module):
        whole: Tensor = module(x)
        return whole[..., inner.span(name)]
    return inner.part(name)(x)


def rest(module: nn.Module | CorrectedMap, first: str, x: Tensor) -> Tensor:
    """(..., in) -> (..., sum of widths) of the parts from `first` on, side by side."""
    if isinstance(module, CorrectedMap):
        span = slice(fused(module.base).span(first).start, None)
        return module.low.onto(rest(module.base, first, x), x, span)
    inner = fused(module)
    start = inner.span(first).start
    if foreign(module):
        whole: Tensor = module(x)
        return whole[..., start:]
    return linear(x, inner.weight[start:])


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
