"""TransformerBlock: two residual lines around attention and feed-forward."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.attention.gqa import GQAttention
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.cache import Entries, LayerCache, StaticSlot
from open_mythos.nn.dict_cache import DictCache
from open_mythos.nn.feed_forward import Expert
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.watched import patched


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


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); pre-norm, residual."""

    def __init__(self, cfg: MythosConfig, use_moe: bool = False) -> None:
        """Attention by cfg.attn_type; a mixture of experts if `use_moe`, else a dense SwiGLU."""
        super().__init__()
        self.attn_norm = RMSNorm(cfg.dim)
        self.ffn_norm = RMSNorm(cfg.dim)
        self.attn = MLAttention(cfg) if cfg.attn_type == "mla" else GQAttention(cfg)
        self.ffn = MoEFFN(cfg) if use_moe else Expert(cfg.dim, cfg.dense_width)
        self.drop = nn.Dropout(cfg.dropout)

    def run(
        self,
        x: Tensor,
        context: AttentionContext,
        slot: LayerCache | None = None,
        frozen: Frozen | None = None,
        active: Tensor | None = None,
        *,
        shared: Entries | None = None,
        dense: bool = False,
    ) -> tuple[Tensor, BlockTrace]:
        """One pass over (B, T, dim).

        Args:
            x: The stream.
            context: Positions and visibility of the call.
            slot: This layer's cache, extended but not committed.
            frozen: Positions whose keys and values stay as they were.
            active: (B, T) boolean; the experts skip other positions where they can.
            shared: Keys and values to look at instead of own ones, which are not formed then.
            dense: Let no position be skipped; the load counts the active ones all the same.
        """
        mixed, new, seen = self._look(self.attn_norm(x), context, slot, frozen, shared)
        x, normed = self.ffn_norm.after(x, self.drop(mixed))
        x, load = self._feed(x, normed, active, dense=dense)
        return x, BlockTrace(new, seen, load)

    def _look(
        self,
        x: Tensor,
        context: AttentionContext,
        slot: LayerCache | None,
        frozen: Frozen | None,
        shared: Entries | None,
    ) -> tuple[Tensor, Entries, Entries]:
        """What attention says, the positions' own entries, and all that were looked at."""
        if shared is not None:
            q = self.attn.queries(x, context.rotary)
            return self.attn.mix(q, shared, context), {}, shared
        if isinstance(slot, StaticSlot) and self.attn.cfg.halted == "continue":
            return self.attn.step(x, slot, context), {}, slot.store
        q, new = self.attn.project(x, context.rotary)
        if frozen is not None:
            new = frozen.hold(new)
        seen = new if slot is None else slot.extend(new)
        return self.attn.mix(q, seen, context), new, seen

    def _feed(
        self, x: Tensor, normed: Tensor, active: Tensor | None, *, dense: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The stream after the feed-forward, and the load of its experts."""
        ffn = self.ffn
        joined = not patched(ffn) and not (self.training and self.drop.p > 0.0)
        if not isinstance(ffn, MoEFFN):
            return (ffn(normed, x) if joined else x + self.drop(ffn(normed))), None
        if patched(ffn):  # the eager dense path, so that whoever watches sees every position
            y, load = ffn(normed), ffn.count(normed if active is None else normed[active])
        elif joined and active is None:
            return ffn.routed(normed, plus=x)
        else:
            y, load = ffn.routed(normed, active, dense=dense)
        return x + self.drop(y), load

    def forward(
        self,
        x: Tensor,
        freqs_cis: Tensor,
        mask: Tensor | None = None,
        kv_cache: DictCache | None = None,
        cache_key: str = "default",
    ) -> Tensor:
        """One pass in the call form of open-mythos 0.5.0; see `GQAttention.forward`."""
        mixed: Tensor = self.attn(self.attn_norm(x), freqs_cis, mask, kv_cache, cache_key)
        x = x + self.drop(mixed)
        out: Tensor = x + self.drop(self.ffn(self.ffn_norm(x)))
        return out


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, context: AttentionContext, slots: Sequence[LayerCache] | None
) -> Tensor:
    """The stream (B, T, dim) after one block after the other, each with its cache."""
    for i, block in enumerate(blocks):
        assert isinstance(block, TransformerBlock)
        x, _ = block.run(x, context, None if slots is None else slots[i])
    return x
