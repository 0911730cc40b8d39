"""What the loops of one pass have in common, formed once for all of them."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from open_mythos.nn.block import LoopLayers
from open_mythos.nn.loop.injection import Coefficients


@dataclass(frozen=True)
class Tick:
    """What tells one loop from another, as tensors: numbers would each need a compiled graph.

    Attributes:
        signal: (dim,) loop-index signal, in the state's dtype; None without one.
        scale: (rank,) scale of the per-loop adapter; None without one.
        last: Whether no loop follows: a boolean scalar while training, a bool otherwise.
        own: By layer of the core, what no other loop uses; empty where all is shared.
    """

    signal: Tensor | None
    scale: Tensor | None
    last: bool | Tensor
    own: tuple[LoopLayers, ...] = ()


@dataclass(frozen=True)
class Constants:
    """What the loops of a pass need and no loop changes: formed once for all of them.

    Attributes:
        ticks: One per loop.
        coefficients: A and B of the injection; None where it has none.
    """

    ticks: tuple[Tick, ...]
    coefficients: Coefficients | None

    def copy(self) -> "Constants":
        """The same in storage of its own: a scale, or B, may be a view of its parameter."""

        def own(part: Any) -> Any:
            return part.clone() if isinstance(part, Tensor) else part

        def of_layers(tick: Tick) -> tuple[LoopLayers, ...]:
            return tuple(LoopLayers(part.attn, own(part.router)) for part in tick.own)

        ticks = tuple(
            Tick(own(t.signal), own(t.scale), own(t.last), of_layers(t)) for t in self.ticks
        )
        c = self.coefficients
        return Constants(ticks, None if c is None else Coefficients(own(c.a), own(c.b)))

    def tensors(self) -> list[Tensor]:
        """Every tensor, in a fixed order."""
        parts = [part for tick in self.ticks for part in (tick.signal, tick.scale, tick.last)]
        parts += [layers.router for tick in self.ticks for layers in tick.own]
        if self.coefficients is not None:
            parts += [self.coefficients.a, self.coefficients.b]
        return [part for part in parts if isinstance(part, Tensor)]
