"""TransformerBlock: two residual lines around attention and feed-forward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.attention.gqa import GQAttention, GroupedAttention
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.cache import Entries, LayerCache, LookedUp, StaticSlot
from open_mythos.nn.dict_cache import DictCache
from open_mythos.nn.feed_forward import Expert
from open_mythos.nn.fused import Low
from open_mythos.nn.moe.layer import MoEFFN, Stacks
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.places import Places
from open_mythos.nn.watched import patched
from open_mythos.ops.backend import traced


@dataclass(frozen=True)
class Frozen:
    """Positions that have halted for good, and the keys and values they keep showing.

    Attributes:
        halted: (B, T) boolean.
        entries: What the last loop showed at the T positions.
    """

    halted: Tensor
    entries: Entries

    def hold(self, new: Entries) -> Entries:
        """`new` with the entries of halted positions kept."""
        return {
            name: torch.where(self.halted.view(*self.halted.shape, *[1] * (t.dim() - 2)), old, t)
            for (name, t), old in zip(new.items(), self.entries.values(), strict=True)
        }

    def settle(self, h: Tensor, new: Tensor) -> Tensor:
        """The next state: `new` (B, T, dim), and `h` where positions have halted."""
        return torch.where(self.halted.unsqueeze(-1), h, new)


@dataclass(frozen=True)
class Absent(Frozen):
    """Positions that have halted and are not there: only those in `places` pass through the block.

    Attributes:
        places: Who is there; `entries` are still those of all positions.
    """

    places: Places

    def hold(self, new: Entries) -> Entries:
        """The entries of all positions, with `new` (1, N, ...) where positions are there."""
        kept = zip(new.items(), self.entries.values(), strict=True)
        return {name: self.places.put(old, t) for (name, t), old in kept}

    def settle(self, h: Tensor, new: Tensor) -> Tensor:  # noqa: ARG002
        """All that are there go on."""
        return new


@dataclass(frozen=True)
class BlockTrace:
    """What one pass of a block wrote and learnt.

    Attributes:
        new: Keys and values of the T positions; empty if another loop's were used.
        seen: Keys and values that the positions looked at, the cached ones included.
        load: (E,) tokens per expert, None for a dense block.
    """

    new: Entries
    seen: Entries
    load: Tensor | None


@dataclass(frozen=True)
class LoopLayers:
    """What one loop has of its own in a block that all loops share.

    Attributes:
        attn: Attention; None where it is shared.
        router: (E, dim), the weight of the router; None likewise.
        low: Corrections of the linear maps of a dense block; None where there are none.
        stacks: The experts in another order of memory; None where the block's are read.
    """

    attn: GQAttention | MLAttention | None = None
    router: Tensor | None = None
    low: "Corrected | None" = None
    stacks: Stacks | None = None


class Corrected(NamedTuple):
    """A correction for each linear map of a dense block with grouped-query attention."""

    wqkv: Low
    wo: Low
    gate_up: Low
    down: Low


SHARED = LoopLayers()


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): residual, and normed as cfg.block_norm says.

    "pre" is that. "post" norms each sum instead (Vaswani et al. 2017; Dehghani et al. 2018);
    "sandwich" also norms what each layer says (Ding et al. 2021; Ouro); "pre_post" also norms each
    sum, so that the stream itself keeps unit size (Huginn, which calls it sandwich too).

    Attributes:
        attn_out_norm: Norm behind attention; None where there is none.
        ffn_out_norm: Norm behind the feed-forward; None likewise.
    """

    def __init__(self, cfg: MythosConfig, use_moe: bool = False) -> None:
        """Attention by cfg.attn_type; a mixture of experts if `use_moe`, else a dense SwiGLU."""
        super().__init__()
        self.order = cfg.block_norm
        self.attn_norm = RMSNorm(cfg.dim, cfg.norm_eps)
        self.ffn_norm = RMSNorm(cfg.dim, cfg.norm_eps)
        behind = cfg.block_norm in ("sandwich", "pre_post")
        self.attn_out_norm = RMSNorm(cfg.dim, cfg.norm_eps) if behind else None
        self.ffn_out_norm = RMSNorm(cfg.dim, cfg.norm_eps) if behind else None
        self.attn = MLAttention(cfg) if cfg.attn_type == "mla" else GQAttention(cfg)
        self.ffn = MoEFFN(cfg) if use_moe else Expert(cfg.dim, cfg.dense_width)
        self.drop = nn.Dropout(cfg.dropout)

    def run(  # noqa: PLR0913 -- everything one pass depends on
        self,
        x: Tensor,
        context: AttentionContext,
        slot: LayerCache | None = None,
        frozen: Frozen | None = None,
        active: Tensor | None = None,
        *,
        read: Tensor | None = None,
        shared: Entries | None = None,
        dense: bool = False,
        keep: int | None = None,
        own: LoopLayers = SHARED,
    ) -> tuple[Tensor, BlockTrace]:
        """One pass over (B, T, dim).

        Args:
            x: The stream.
            context: Positions and visibility of the call.
            slot: This layer's cache, extended but not committed.
            frozen: Positions whose keys and values stay as they were.
            active: (B, T) boolean; the experts skip other positions where they can.
            read: What attention reads of `x`, where whoever made `x` has it already.
            shared: Keys and values to look at instead of own ones, which are not formed then.
            dense: Let no position be skipped; the load counts the active ones all the same.
            keep: The stream of the last so many positions (at least 1) is wanted alone: the others
                are seen by them, and cached, and go no further. None is all of them.
            own: What this loop has of its own, in place of the block's or beside it.
        """
        attn = self._attention(own)
        if read is None:
            read = x if self.order == "post" else self.attn_norm(x)
        if keep is not None and keep < x.shape[1]:
            mixed, new, seen = self._look_back(attn, read, context, slot, keep)
            x = x[:, -keep:]
        else:
            mixed, new, seen = self._look(attn, read, context, slot, frozen, shared)
        x, read = self._after(x, self.drop(mixed))
        x, load = self._feed(x, read, active, own, dense=dense)
        return x, BlockTrace(new, seen, load)

    def _attention(self, own: LoopLayers) -> GroupedAttention | MLAttention:
        """Attention as a loop has it."""
        attn = self.attn if own.attn is None else own.attn
        if own.low is None:
            return attn
        assert isinstance(attn, GQAttention)
        return attn.corrected(own.low.wqkv, own.low.wo)

    def _look(
        self,
        attn: GroupedAttention | MLAttention,
        x: Tensor,
        context: AttentionContext,
        slot: LayerCache | None,
        frozen: Frozen | None,
        shared: Entries | None,
    ) -> tuple[Tensor, Entries, Entries]:
        """What attention says, the positions' own entries, and all that were looked at."""
        if isinstance(slot, LookedUp):
            return slot.look(attn, x, context), {}, {}
        if shared is not None:
            q = attn.queries(x, context.rotary)
            return attn.mix(q, shared, context), {}, shared
        if isinstance(slot, StaticSlot) and attn.cfg.halted == "continue":
            return attn.step(x, slot, context), {}, slot.store
        own = slot is not None and frozen is None and not isinstance(slot, StaticSlot)
        if slot is not None and own and attn.fills(x):
            new = slot.room(x.shape[1])
            q = attn.fill(x, context.rotary, new)
            seen = {name: slot.shown(name, x.shape[1]) for name in new}
            return attn.mix(q, seen, context), new, seen
        q, new = attn.project(x, context.rotary)
        if frozen is not None:
            new = frozen.hold(new)
        seen = new if slot is None else slot.extend(new)
        return attn.mix(q, seen, context), new, seen

    @staticmethod
    def _look_back(
        attn: GroupedAttention | MLAttention,
        x: Tensor,
        context: AttentionContext,
        slot: LayerCache | None,
        keep: int,
    ) -> tuple[Tensor, Entries, Entries]:
        """`_look` for the last `keep` positions, from the entries of all."""
        new = attn.entries(x, context.rotary)
        seen = new if slot is None else slot.extend(new)
        own = context.last(keep)
        return attn.mix(attn.queries(x[:, -keep:], own.rotary), seen, own), new, seen

    def _after(self, x: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """The stream after attention, and what the feed-forward reads of it."""
        if self.order == "post":
            x = self.attn_norm.after(x, mixed)[1]
            return x, x
        if self.attn_out_norm is None:
            return self.ffn_norm.after(x, mixed)
        if self.order == "sandwich":
            return self.ffn_norm.after(x, self.attn_out_norm(mixed))
        x = self.attn_out_norm.after(x, mixed)[1]
        return x, self.ffn_norm(x)

    def _feed(
        self,
        x: Tensor,
        read: Tensor,
        active: Tensor | None,
        own: LoopLayers,
        *,
        dense: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The stream after the feed-forward, and the load of its experts."""
        if self.order == "sandwich":
            assert self.ffn_out_norm is not None
            y, load = self._say(read, active, own, dense=dense)
            return x + self.ffn_out_norm(y), load
        x, load = self._say(read, active, own, plus=x, dense=dense)
        if self.order == "post":
            x = self.ffn_norm(x)
        elif self.ffn_out_norm is not None:
            x = self.ffn_out_norm(x)
        return x, load

    def _say(
        self,
        read: Tensor,
        active: Tensor | None,
        own: LoopLayers,
        *,
        plus: Tensor | None = None,
        dense: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """What the feed-forward says, added to `plus`; and the load of its experts."""
        ffn = self.ffn
        joined = not patched(ffn) and not (self.training and self.drop.p > 0.0)
        if not isinstance(ffn, MoEFFN):
            # `plus` is this block's own sum; post-norm blocks read it too, and keep it for that.
            low = {} if own.low is None else {"gate_up": own.low.gate_up, "down": own.low.down}
            if joined and plus is not None and plus is not read:
                return ffn(read, plus, spare=True, **low), None
            y, load = ffn(read, **low), None
        elif patched(ffn):  # the eager dense path, so that whoever watches sees every position
            y, load = ffn(read), ffn.count(read if active is None else read[active])
        elif joined and active is None and plus is not read:
            return ffn.routed(read, plus=plus, router=own.router, stacks=own.stacks)
        else:
            y, load = ffn.routed(read, active, dense=dense, router=own.router, stacks=own.stacks)
        return self.drop(y) if plus is None else plus + self.drop(y), load

    @property
    def watched(self) -> bool:
        """Whether somebody looks into the block or a part of it, and expects every position."""
        return any(patched(module) for module in self.modules())

    def forward(
        self,
        x: Tensor,
        freqs_cis: Tensor,
        mask: Tensor | None = None,
        kv_cache: DictCache | None = None,
        cache_key: str = "default",
    ) -> Tensor:
        """One pass in the call form of open-mythos 0.5.0; see `GQAttention.forward`."""
        read = x if self.order == "post" else self.attn_norm(x)
        mixed: Tensor = self.attn(read, freqs_cis, mask, kv_cache, cache_key)
        x, read = self._after(x, self.drop(mixed))
        return self._feed(x, read, None, SHARED, dense=True)[0]


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    context: AttentionContext,
    slots: Sequence[LayerCache] | None,
    keep: int | None = None,
) -> Tensor:
    """The stream after dense blocks, one behind the other.

    Args:
        blocks: `TransformerBlock`s.
        x: (B, T, dim).
        context: Positions and visibility of the call.
        slots: One cache per block, or None.
        keep: Only so many positions are wanted, the last ones; the last block may leave the others
            out: a twelfth of a prompt's work in a network of 4 blocks and 8 loops.
    """
    for i, block in enumerate(blocks):
        assert isinstance(block, TransformerBlock)
        slot = None if slots is None else slots[i]
        if keep is None or i < len(blocks) - 1 or traced() or block.watched:
            x, _ = block.run(x, context, slot)
        else:  # as written, where `run` may be compiled: a graph for so little does not pay
            x, _ = TransformerBlock.run(block, x, context, slot, keep=max(keep, 1))
    return x
