"""What the loops of one pass have in common, formed once for all of them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from open_mythos.nn.block import SHARED, Corrected, LoopLayers
from open_mythos.nn.fused import Low
from open_mythos.nn.loop.adapter import loop_signals
from open_mythos.nn.loop.corrections import Corrections
from open_mythos.nn.loop.injection import Coefficients
from open_mythos.nn.moe.layer import MoEFFN, Stacks
from open_mythos.ops.backend import plain


if TYPE_CHECKING:
    from open_mythos.nn.loop.recurrent import RecurrentBlock


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
        """The same in storage of its own: a scale, or B, may be a view of its parameter.

        Experts are laid out by output (`Stacks.by_output`), once for all loops.
        """
        laid: dict[Tensor, Stacks] = {}

        def own(part: Any) -> Any:
            return part.clone() if isinstance(part, Tensor) else part

        def by_output(stacks: Stacks) -> Stacks:  # one copy, which all loops read
            if stacks.gate_up not in laid:
                laid[stacks.gate_up] = stacks.by_output()
            return laid[stacks.gate_up]

        def of_layers(tick: Tick) -> tuple[LoopLayers, ...]:
            return tuple(
                LoopLayers(
                    part.attn,
                    own(part.router),
                    None if part.low is None else copied(part.low),
                    None if part.stacks is None else by_output(part.stacks),
                )
                for part in tick.own
            )

        def copied(low: Corrected) -> Corrected:
            return Corrected(*(Low(own(each.down), own(each.up)) for each in low))

        ticks = tuple(
            Tick(own(t.signal), own(t.scale), own(t.last), of_layers(t)) for t in self.ticks
        )
        c = self.coefficients
        return Constants(ticks, None if c is None else Coefficients(own(c.a), own(c.b)))

    @property
    def stacked(self) -> bool:
        """Whether the experts are among them."""
        return any(own.stacks is not None for tick in self.ticks for own in tick.own)

    def tensors(self) -> list[Tensor]:
        """Every tensor, in a fixed order."""
        parts = [part for tick in self.ticks for part in (tick.signal, tick.scale, tick.last)]
        every = [layers for tick in self.ticks for layers in tick.own]
        parts += [layers.router for layers in every]
        parts += [
            t for layers in every if layers.low is not None for each in layers.low for t in each
        ]
        if self.stacked:
            parts += [t for own in self.ticks[0].own if own.stacks is not None for t in own.stacks]
        if self.coefficients is not None:
            parts += [self.coefficients.a, self.coefficients.b]
        return [part for part in parts if isinstance(part, Tensor)]


def form_constants(
    loop: "RecurrentBlock", n_loops: int, like: Tensor, *, stacked: bool = False
) -> Constants:
    """The constants of `n_loops` loops, on the device of `like`, in its dtype.

    What is the last loop is told by tensors where gradients are asked for, which fix no compiled
    graph, and by bools elsewhere, which rule out no kernel. With `stacked` the experts are among
    the constants: the layers' own, until they are copied.
    """
    cfg, rows = loop.cfg, [loop.cfg.loop_row(t) for t in range(n_loops)]
    lasts: list[bool | Tensor] = [t == n_loops - 1 for t in range(n_loops)]
    if torch.is_grad_enabled():
        lasts = list((torch.arange(n_loops, device=like.device) == n_loops - 1).unbind())
    signals: list[Tensor | None] = [None] * n_loops
    if cfg.loop_index:
        counted = list(range(n_loops)) if cfg.loops_beyond == "continue" else rows
        table = loop_signals(max(counted) + 1, cfg.loop_dim, cfg.dim, device=like.device)
        every = (cfg.loop_index_scale * table).to(like.dtype).unbind()
        signals = [every[t] for t in counted]
    scales: list[Tensor | None] = [None] * n_loops
    if loop.lora is not None:
        scales = [loop.lora.row(row) for row in rows]
    own = [_layers_of(loop, row) for row in rows]
    if stacked:
        own = [_with_stacks(loop, layers) for layers in own]
    ticks = tuple(Tick(*parts) for parts in zip(signals, scales, lasts, own, strict=True))
    return Constants(ticks, loop.injection.coefficients())


def _layers_of(loop: "RecurrentBlock", row: int) -> tuple[LoopLayers, ...]:
    """What the loops of a table row have of their own, by layer.

    Row 0 uses the block's attention and router; corrections are every row's own.
    """
    if not loop.owning or (row == 0 and loop.corrections is None):
        return ()
    nothing: list[Any] = [None] * loop.cfg.core_layers
    attentions: Any = nothing
    routers, lows = nothing, nothing
    if row and loop.attentions is not None:
        attentions = loop.attentions[row - 1]
    if row and loop.routers is not None:
        routers = list(loop.routers[row - 1].unbind())
    if loop.corrections is not None:
        lows = [part.of(row) for part in loop.corrections if isinstance(part, Corrections)]
    return tuple(LoopLayers(*parts) for parts in zip(attentions, routers, lows, strict=True))


def _with_stacks(loop: "RecurrentBlock", layers: tuple[LoopLayers, ...]) -> tuple[LoopLayers, ...]:
    """A loop's layers with the experts of their blocks, where those are all here, and plain."""
    given = layers or (SHARED,) * len(loop.blocks)

    def stacks(ffn: object) -> Stacks | None:
        if isinstance(ffn, MoEFFN) and ffn.together and plain(ffn.gate_up):
            return Stacks(ffn.gate_up, ffn.down)
        return None

    found = [stacks(block.ffn) for block in loop.blocks]
    return tuple(replace(own, stacks=each) for own, each in zip(given, found, strict=True))
