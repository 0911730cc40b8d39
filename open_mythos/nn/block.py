"""TransformerBlock: two residual lines around attention and feed-forward."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.attention.gqa import GQAttention
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.cache import Entries, LayerCache
from open_mythos.nn.dict_cache import DictCache
from open_mythos.nn.feed_forward import Expert
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.nn.norm import RMSNorm


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
        entries: Keys and values of the T positions.
        load: (E,) tokens per expert, None for a dense block.
    """

    entries: Entries
    load: Tensor | None


def patched(module: nn.Module) -> bool:
    """Whether somebody replaced the module's forward on the instance, or hooked it."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return "forward" in vars(module) or any(hooks)


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
        dense: bool = False,
    ) -> tuple[Tensor, BlockTrace]:
        """One pass over (B, T, dim).

        Args:
            x: The stream.
            context: Positions and visibility of the call.
            slot: This layer's cache, extended but not committed.
            frozen: Positions whose keys and values stay as they were.
            active: (B, T) boolean; the experts skip other positions where they can.
            dense: Let no position be skipped; the load counts the active ones all the same.
        """
        q, new = self.attn.project(self.attn_norm(x), context.rotary)
        if frozen is not None:
            new = frozen.hold(new)
        seen = new if slot is None else slot.extend(new)
        x = x + self.drop(self.attn.mix(q, seen, context))
        y, load = self._feed(self.ffn_norm(x), active, dense=dense)
        return x + self.drop(y), BlockTrace(new, load)

    def _feed(
        self, x: Tensor, active: Tensor | None, *, dense: bool
    ) -> tuple[Tensor, Tensor | None]:
        if not isinstance(self.ffn, MoEFFN):
            plain: Tensor = self.ffn(x)
            return plain, None
        if patched(self.ffn):  # the eager dense path, so that whoever watches sees every position
            watched: Tensor = self.ffn(x)
            return watched, self.ffn.count(x if active is None else x[active])
        routed: tuple[Tensor, Tensor] = self.ffn.routed(x, active, dense=dense)
        return routed

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
