"""MoDABlock: attention to sequence and depth, a mixture of experts, and what is left for above."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_mythos.moda.config import MoDAConfig
from open_mythos.moda.depths import attend_depths
from open_mythos.moda.experts import DeepSeekMoE, Mixed
from open_mythos.nn.cache import Entries, LayerCache
from open_mythos.nn.fused import FusedLinear, HasParts, LinearView
from open_mythos.nn.linear import Linear
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.rotary import Rotary
from open_mythos.ops.projections import turn_qkv


@dataclass(frozen=True)
class Depths:
    """Keys and values that layers have written at the T positions of a pass, the lowest first.

    Attributes:
        keys: (B, T, K, d) each, turned to their position.
        values: (B, T, K, d) each.
    """

    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()

    def plus(self, key: Tensor, value: Tensor) -> "Depths":
        """These and one entry more, for the layers above."""
        return Depths((*self.keys, key), (*self.values, value))


class MoDAttention(HasParts):
    """Grouped-query attention, each head under one softmax over its sequence and its depth."""

    def __init__(self, cfg: MoDAConfig) -> None:
        """Use the attention fields of `cfg`."""
        super().__init__()
        self.cfg = cfg
        q, kv = cfg.n_heads_q * cfg.head_dim, cfg.n_heads_kv * cfg.head_dim
        self.qkv = FusedLinear(cfg.d_model, {"q": q, "k": kv, "v": kv})
        self.o_proj = Linear(q, cfg.d_model)

    @property
    def q_proj(self) -> LinearView:
        """Query map, a view of the fused weight."""
        return self.qkv.part("q")

    @property
    def k_proj(self) -> LinearView:
        """Key map, a view of the fused weight."""
        return self.qkv.part("k")

    @property
    def v_proj(self) -> LinearView:
        """Value map, a view of the fused weight."""
        return self.qkv.part("v")

    def forward(
        self, x: Tensor, rotary: Rotary, depths: Depths, slot: LayerCache | None = None
    ) -> tuple[Tensor, Entries]:
        """What attention says of (B, T, d_model), and the T positions' own keys and values."""
        cfg = self.cfg
        joint = self.qkv.joined(x)
        q, k, v = turn_qkv(joint, rotary.cos, rotary.sin, cfg.n_heads_q, cfg.n_heads_kv)
        new = {"k": k, "v": v}
        seen = new if slot is None else slot.extend(new)
        dropout = cfg.attn_dropout if self.training else 0.0
        out = attend_depths(q, seen["k"], seen["v"], depths.keys, depths.values, dropout=dropout)
        mixed: Tensor = self.o_proj(out.flatten(-2))
        return mixed, new

    @torch.no_grad()
    def depth_share(self, x: Tensor, rotary: Rotary, depths: Depths) -> Tensor:
        """(B, T, H): the part of each head's softmax that goes down, of a whole sequence."""
        cfg = self.cfg
        joint = self.qkv.joined(x)
        q, k, v = turn_qkv(joint, rotary.cos, rotary.sin, cfg.n_heads_q, cfg.n_heads_kv)
        ones = tuple(torch.ones_like(value) for value in depths.values)
        return attend_depths(q, k, torch.zeros_like(v), depths.keys, ones)[..., 0]


class MoDABlock(nn.Module):
    """Attention, then experts, both residual and normed as cfg.block_norm says; then it writes.

    Attributes:
        write: Keys and values of the block's output, for the layers above; None in the top layer,
            which has none above, and where attention's own are left instead.
        norm_write: Of what `write` reads, where the stream itself is not normed.
    """

    def __init__(self, cfg: MoDAConfig, *, top: bool = False) -> None:
        """A block of `cfg`; `top` if no block follows."""
        super().__init__()
        self.cfg, self.top = cfg, top
        self.attn, self.moe = MoDAttention(cfg), DeepSeekMoE(cfg)
        self.norm_attn = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.norm_ffn = RMSNorm(cfg.d_model, cfg.norm_eps)
        writes = cfg.depth_from != "attention" and not top
        kv = cfg.n_heads_kv * cfg.head_dim
        self.write = FusedLinear(cfg.d_model, {"k": kv, "v": kv}) if writes else None
        behind = writes and cfg.block_norm == "pre"
        self.norm_write = RMSNorm(cfg.d_model, cfg.norm_eps) if behind else None

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        depths: Depths,
        slot: LayerCache | None = None,
        *,
        weigh: bool = False,
    ) -> tuple[Tensor, Depths, Mixed]:
        """One pass over (B, T, d_model): the stream, what layers above read, what experts did.

        Args:
            x: The stream.
            rotary: Tables of the T positions.
            depths: What the layers below have written.
            slot: This layer's cache, extended but not committed.
            weigh: Whether the balance loss is wanted.
        """
        if self.cfg.block_norm == "post":
            said, own = self.attn(x, rotary, depths, slot)
            x = self.norm_attn.after(x, said)[1]
            mixed = self.moe(x, weigh=weigh)
            x = self.norm_ffn.after(x, mixed.out)[1]
        else:
            said, own = self.attn(self.norm_attn(x), rotary, depths, slot)
            x, read = self.norm_ffn.after(x, said)
            mixed = self.moe(read, weigh=weigh)
            x = x + mixed.out
        return x, self._written(x, own, rotary, depths), mixed

    def _written(self, x: Tensor, own: Entries, rotary: Rotary, depths: Depths) -> Depths:
        """`depths` with what this layer leaves, attention's keys before those of its output."""
        if self.top:
            return depths
        if self.cfg.depth_from != "ffn":
            depths = depths.plus(own["k"], own["v"])
        if self.write is not None:
            read = x if self.norm_write is None else self.norm_write(x)
            heads = self.write(read).unflatten(-1, (-1, self.cfg.head_dim))
            key, value = heads.chunk(2, dim=-2)
            # A query at the same position turns as far, so that the product is that of unturned
            # ones: the depth has no distance.
            depths = depths.plus(rotary.turn(key), value)
        return depths
