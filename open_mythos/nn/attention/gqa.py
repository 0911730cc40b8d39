"""Grouped-query attention: several query heads share one key/value head (Ainslie et al. 2023)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.by_hand import attend_by_hand
from open_mythos.nn.attention.by_rows import by_rows
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import Entries, StaticSlot
from open_mythos.nn.dict_cache import DictCache
from open_mythos.nn.fused import (
    CorrectedMap,
    FusedLinear,
    HasParts,
    LinearView,
    Low,
    fused,
    only,
    rest,
)
from open_mythos.nn.linear import Linear
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.rotary import Rotary
from open_mythos.ops.attend import attend
from open_mythos.ops.decode import attend_static
from open_mythos.ops.paged import Blocks, attend_blocks
from open_mythos.ops.projections import turn_qkv
from open_mythos.ops.rows import rows_backend
from open_mythos.ops.store import rotate_store


class GroupedAttention:
    """What grouped-query attention computes, whoever holds its maps.

    Attributes:
        cfg: The network's config.
        heads: Query heads in this process.
        kv_heads: Key/value heads in this process.
        wqkv: Queries, keys and values of one input, side by side.
        wo: From all heads to the stream.
        bias: Of the fused projection, side by side; None without cfg.attention_bias.
        q_norm: Of each query head before it turns; None without cfg.qk_norm.
        k_norm: Likewise of the keys.
        training: Whether dropout is drawn.
    """

    cfg: MythosConfig
    heads: int
    kv_heads: int
    wqkv: FusedLinear | CorrectedMap
    wo: Linear | CorrectedMap
    bias: Tensor | None
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    training: bool

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Entries]:
        """Queries (B, T, H, d), and the entries k, v (B, T, K, d) that a cache keeps."""
        q, k, v = turn_qkv(self._joint(x), rotary.cos, rotary.sin, self.heads, self.kv_heads)
        return q, {"k": k, "v": v}

    def entries(self, x: Tensor, rotary: Rotary) -> Entries:
        """What a cache keeps alone, where not every position asks a query."""
        joint = rest(self.wqkv, "k", x)
        if self.bias is not None:
            joint = joint + self.bias[-joint.shape[-1] :]
        k, v = joint.unflatten(-1, (-1, self.cfg.head_dim)).chunk(2, dim=2)
        return {"k": rotary.turn(k if self.k_norm is None else self.k_norm(k)), "v": v}

    def queries(self, x: Tensor, rotary: Rotary) -> Tensor:
        """Queries alone, for a loop that looks at the keys of another."""
        joint = only(self.wqkv, "q", x)
        if self.bias is not None:
            joint = joint + self.bias[: joint.shape[-1]]
        q = joint.unflatten(-1, (-1, self.cfg.head_dim))
        return rotary.turn(q if self.q_norm is None else self.q_norm(q))

    def _joint(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, biased and normed, not turned yet."""
        joint: Tensor = self.wqkv(x)
        if self.bias is not None:
            joint = joint + self.bias
        if self.q_norm is None or self.k_norm is None:
            return joint
        every = joint.unflatten(-1, (-1, self.cfg.head_dim))
        q, k, v = every.split([self.heads, self.kv_heads, self.kv_heads], dim=-2)
        return torch.cat((self.q_norm(q), self.k_norm(k), v), dim=-2).flatten(-2)

    def fills(self, x: Tensor) -> bool:
        """Whether entries are written where a cache keeps them, not formed first and copied."""
        return rows_backend(x) == "triton"

    def fill(self, x: Tensor, rotary: Rotary, room: Entries, where: Tensor | None = None) -> Tensor:
        """Queries (B, T, H, d); the entries of the T positions go into `room`.

        Where T is 1, `where` (B,) may say at which place of its room each row's goes.
        """
        return rotate_store(self._joint(x), rotary.cos, rotary.sin, room["k"], room["v"], where)

    def mix(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """Attend to all `seen` entries (B, S, ...) and map back to (B, T, dim)."""
        if context.lengths is not None:
            return self._static(q, seen, context.lengths, context.starts)
        if context.places is None:
            out = self._attend(q, seen, context)
        else:
            out = by_rows(self._attend, q, seen, context)
        mixed: Tensor = self.wo(out.flatten(-2))
        return mixed

    def mix_blocks(self, q: Tensor, store: Entries, blocks: Blocks) -> Tensor:
        """`mix` of rows (N, 1, H, d), each alone or in pieces, with entries (P, size, K, d)."""
        out = attend_blocks(q, store["k"], store["v"], blocks, self.cfg.head_dim**-0.5)
        mixed: Tensor = self.wo(out.flatten(-2))
        return mixed

    def _attend(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        return attend(
            q,
            seen["k"],
            seen["v"],
            mask=context.mask,
            causal=context.causal,
            dropout=self.cfg.dropout if self.training else 0.0,
        )

    def step(self, x: Tensor, slot: StaticSlot, context: AttentionContext) -> Tensor:
        """One new position per row (B, 1, dim) against a static cache, which takes it in."""
        assert context.lengths is not None
        tables, store = context.rotary, slot.store
        q = rotate_store(
            self._joint(x), tables.cos, tables.sin, store["k"], store["v"], slot.position
        )
        return self._static(q, store, context.lengths, context.starts)

    def _static(self, q: Tensor, seen: Entries, lengths: Tensor, starts: Tensor | None) -> Tensor:
        out = attend_static(q, seen["k"], seen["v"], lengths, starts, self.cfg.head_dim**-0.5)
        mixed: Tensor = self.wo(out.flatten(-2))
        return mixed


@dataclass(frozen=True)
class CorrectedAttention(GroupedAttention):
    """An attention layer as one loop has it: its maps corrected, all else its own."""

    cfg: MythosConfig
    heads: int
    kv_heads: int
    wqkv: CorrectedMap
    wo: CorrectedMap
    bias: Tensor | None
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    training: bool


class GQAttention(HasParts, GroupedAttention):
    """n_heads query heads over n_kv_heads key/value heads, rotated over the whole head width."""

    wqkv: FusedLinear
    wo: Linear

    def __init__(self, cfg: MythosConfig) -> None:
        """Use the sizes of `cfg`, and its choice of biases and norms."""
        super().__init__()
        self.cfg = cfg
        self.heads, self.kv_heads = cfg.n_heads, cfg.n_kv_heads
        d = cfg.head_dim
        self.wqkv = FusedLinear(
            cfg.dim, {"q": cfg.n_heads * d, "k": cfg.n_kv_heads * d, "v": cfg.n_kv_heads * d}
        )
        self.wo = Linear(cfg.n_heads * d, cfg.dim)
        self.bias = None
        if cfg.attention_bias:
            self.bias = nn.Parameter(torch.zeros((cfg.n_heads + 2 * cfg.n_kv_heads) * d))
        self.q_norm = RMSNorm(d, cfg.norm_eps) if cfg.qk_norm else None
        self.k_norm = RMSNorm(d, cfg.norm_eps) if cfg.qk_norm else None

    @property
    def wq(self) -> LinearView:
        """Query map, a view of the fused weight."""
        return fused(self.wqkv).part("q")

    @property
    def wk(self) -> LinearView:
        """Key map, a view of the fused weight."""
        return fused(self.wqkv).part("k")

    @property
    def wv(self) -> LinearView:
        """Value map, a view of the fused weight."""
        return fused(self.wqkv).part("v")

    def corrected(self, wqkv: Low, wo: Low) -> CorrectedAttention:
        """The layer with corrections of its maps."""
        return CorrectedAttention(
            self.cfg,
            self.heads,
            self.kv_heads,
            CorrectedMap(self.wqkv, wqkv),
            CorrectedMap(self.wo, wo),
            self.bias,
            self.q_norm,
            self.k_norm,
            self.training,
        )

    def forward(
        self,
        x: Tensor,
        freqs_cis: Tensor,
        mask: Tensor | None = None,
        kv_cache: DictCache | None = None,
        cache_key: str = "default",
    ) -> Tensor:
        """Attention in the call form of open-mythos 0.5.0.

        Args:
            x: (B, T, dim).
            freqs_cis: Complex table, its first T rows are the positions of `x`.
            mask: Additive or boolean; None hides nothing.
            kv_cache: Dict whose entry `cache_key` is extended in place.
            cache_key: This layer's entry.
        """
        return attend_by_hand(self, x, freqs_cis, mask, kv_cache, cache_key)
