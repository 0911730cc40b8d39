"""The core: the blocks that one loop runs, one after the other, each with its own cache."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from open_mythos.config.mythos import layer_name
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import SHARED, BlockTrace, Frozen, LoopLayers, TransformerBlock
from open_mythos.nn.cache import Entries, LayerCache


def run_core(  # noqa: PLR0913 -- everything one pass depends on
    blocks: Sequence[TransformerBlock],
    x: Tensor,
    context: AttentionContext,
    slot: LayerCache | None = None,
    frozen: Frozen | None = None,
    active: Tensor | None = None,
    *,
    read: Tensor | None = None,
    shared: Entries | None = None,
    dense: bool = False,
    own: Sequence[LoopLayers] = (),
) -> tuple[Tensor, BlockTrace]:
    """`TransformerBlock.run` for several blocks as if they were one.

    Entries of all layers stand side by side under `layer_name`, loads one behind the other.

    Args:
        blocks: The core's layers.
        x: (B, T, dim).
        context: Positions and visibility of the call.
        slot: The loop's cache, with the entries of all layers; extended but not committed.
        frozen: Positions whose keys and values stay as they were, in every layer.
        active: (B, T) boolean; the experts skip other positions where they can.
        read: What the first layer's attention reads of `x`, where it is known already.
        shared: Keys and values of all layers to look at instead of own ones.
        dense: Let no position be skipped.
        own: By layer, what this loop has of its own; empty where it has nothing.
    """
    if len(blocks) == 1:
        return blocks[0].run(
            x, context, slot, frozen, active,
            read=read, shared=shared, dense=dense, own=own[0] if own else SHARED,
        )  # fmt: skip
    new: Entries = {}
    seen: Entries = {}
    loads: list[Tensor] = []
    for i, block in enumerate(blocks):
        x, trace = block.run(
            x,
            context,
            None if slot is None else slot.layer(i),
            None if frozen is None else replace(frozen, entries=_of_layer(frozen.entries, i)),
            active,
            read=None if i else read,
            shared=None if shared is None else _of_layer(shared, i),
            dense=dense,
            own=own[i] if own else SHARED,
        )
        new |= {layer_name(name, i): entry for name, entry in trace.new.items()}
        seen |= {layer_name(name, i): entry for name, entry in trace.seen.items()}
        if trace.load is not None:
            loads.append(trace.load)
    return x, BlockTrace(new, seen, torch.cat(loads) if loads else None)


def _of_layer(entries: Entries, layer: int) -> Entries:
    """One layer's entries, under their plain names."""
    plain = [name for name in entries if "." not in name]
    return {name: entries[layer_name(name, layer)] for name in plain}
