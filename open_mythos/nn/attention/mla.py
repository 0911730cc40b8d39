"""Multi-head latent attention: cache one small latent per token (DeepSeek-V2, arXiv 2405.04434)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.by_hand import attend_by_hand
from open_mythos.nn.attention.by_rows import by_rows
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import Entries, StaticSlot
from open_mythos.nn.dict_cache import DictCache
from open_mythos.nn.fused import FusedLinear, HasParts, LinearView, fused, only
from open_mythos.nn.linear import Linear
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.rotary import Rotary
from open_mythos.nn.watched import foreign, patched
from open_mythos.ops.attend import attend
from open_mythos.ops.decode import attend_static_latent, has_kernel
from open_mythos.ops.paged import Blocks, attend_blocks_latent
from open_mythos.ops.projections import (
    heads_backend,
    join_keys,
    put_ends,
    turn_ends,
    turn_queries,
)
from open_mythos.ops.rows import rows_backend
from open_mythos.ops.store import rotate_query, store_latent


Form = Literal["auto", "expanded", "absorbed"]


def absorbed_is_cheaper(cfg: MythosConfig, queries: int, keys: int) -> bool:
    """Whether attending in the latent space takes fewer multiply-adds.

    Expanded, every key passes through kv_up once and the products are narrow; absorbed, every
    query does and the products are as wide as the latent. With one query against many keys the
    absorbed form wins, with a whole prompt the expanded one.
    """
    r, rope, up = cfg.kv_lora_rank, cfg.qk_rope_head_dim, cfg.qk_nope_head_dim + cfg.v_head_dim
    expanded = keys * r * up + queries * keys * (up + rope)
    absorbed = queries * r * up + queries * keys * (2 * r + rope)
    return absorbed < expanded


class MLAttention(HasParts):
    """Low-rank queries, and keys and values rebuilt from a normalised latent c_kv.

    One set of weights, two forms of the same product: expanded (keys and values per head, for
    training and prompts) and absorbed (kv_up folded into query and output, for decoding). The
    cache holds kv_lora_rank + qk_rope_head_dim numbers per token: the latent after its norm and
    one rotated key shared by all heads.

    Attributes:
        heads: Heads in this process.
        form: Which of the two; "auto" takes the cheaper.
    """

    form: Form = "auto"

    def __init__(self, cfg: MythosConfig) -> None:
        """Use the MLA fields of `cfg`."""
        super().__init__()
        self.cfg = cfg
        self.heads = cfg.n_heads
        heads, nope, rope = cfg.n_heads, cfg.qk_nope_head_dim, cfg.qk_rope_head_dim
        self.down = FusedLinear(cfg.dim, {"q": cfg.q_lora_rank, "kv": cfg.kv_lora_rank + rope})
        self.q_norm = RMSNorm(cfg.q_lora_rank, cfg.norm_eps)
        self.q_up = FusedLinear(cfg.q_lora_rank, {"nope": heads * nope, "rope": heads * rope})
        self.kv_norm = RMSNorm(cfg.kv_lora_rank, cfg.norm_eps)
        self.kv_up = Linear(cfg.kv_lora_rank, heads * (nope + cfg.v_head_dim))
        self.wo = Linear(heads * cfg.v_head_dim, cfg.dim)

    @property
    def scale(self) -> float:
        """Factor on the scores: the width of the uncompressed head sets it, in both forms."""
        return float((self.cfg.qk_nope_head_dim + self.cfg.qk_rope_head_dim) ** -0.5)

    @property
    def q_down(self) -> LinearView:
        """Query down map, a view of the fused weight."""
        return fused(self.down).part("q")

    @property
    def kv_down(self) -> LinearView:
        """Latent and shared rotary key, a view of the fused weight."""
        return fused(self.down).part("kv")

    @property
    def q_up_nope(self) -> LinearView:
        """Unrotated query map, a view of the fused weight."""
        return fused(self.q_up).part("nope")

    @property
    def q_up_rope(self) -> LinearView:
        """Rotated query map, a view of the fused weight."""
        return fused(self.q_up).part("rope")

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Entries]:
        """Queries (B, T, H, nope + rope), and the entries c_kv (B, T, r), k_rope (B, T, rope)."""
        q_latent, kv = self.down(x).split(list(fused(self.down).parts.values()), dim=-1)
        entries = self._keep(kv, rotary)
        return self._raise(q_latent, rotary), entries

    def entries(self, x: Tensor, rotary: Rotary) -> Entries:
        """What a cache keeps alone, where not every position asks a query."""
        return self._keep(only(self.down, "kv", x), rotary)

    def _keep(self, kv: Tensor, rotary: Rotary) -> Entries:
        """(B, T, r + rope) -> the normed latent, and the key that all heads share, rotated."""
        latent, key = kv.split([self.cfg.kv_lora_rank, self.cfg.qk_rope_head_dim], dim=-1)
        return {
            "c_kv": self.kv_norm(latent),
            "k_rope": rotary.turn(key.unsqueeze(2)).squeeze(2),
        }

    def queries(self, x: Tensor, rotary: Rotary) -> Tensor:
        """Queries alone, for a loop that looks at the keys of another."""
        return self._raise(only(self.down, "q", x), rotary)

    def fills(self, x: Tensor) -> bool:
        """Whether entries are written where a cache keeps them, not formed first and copied."""
        looked_at = patched(self.q_norm) or patched(self.kv_norm)
        return rows_backend(x) == "triton" and not looked_at

    def fill(self, x: Tensor, rotary: Rotary, room: Entries, where: Tensor | None = None) -> Tensor:
        """Queries (B, T, H, nope + rope); the entries of the T positions go into `room`.

        Where T is 1, `where` (B,) may say at which place of its room each row's goes.
        """
        q_latent = self._store(x, rotary, room, where)
        return self._queries(q_latent, rotary)

    def _store(self, x: Tensor, rotary: Rotary, room: Entries, position: Tensor | None) -> Tensor:
        """The normed query latent (B, T, q_lora_rank); the entries go into `room`."""
        return store_latent(
            self.down(x),
            (self.q_norm.weight, self.q_norm.eps),
            (self.kv_norm.weight, self.kv_norm.eps),
            rotary.cos,
            rotary.sin,
            room["c_kv"],
            room["k_rope"],
            position,
        )

    def _raise(self, q_latent: Tensor, rotary: Rotary) -> Tensor:
        """(B, T, q_lora_rank) -> queries (B, T, H, nope + rope), the last part rotated."""
        return self._queries(self.q_norm(q_latent), rotary)

    def _queries(self, q_latent: Tensor, rotary: Rotary) -> Tensor:
        """The normed latent -> queries, in a projection that lays them out so where that pays."""
        weight = fused(self.q_up).weight
        if patched(self.q_up) or heads_backend(q_latent, weight) != "in place":
            return self._turned(self.q_up(q_latent), rotary)
        count = self.heads * self.cfg.qk_nope_head_dim
        parts = weight.tensor_split([count])
        weight = torch.cat([part.unflatten(0, (self.heads, -1)) for part in parts], dim=1)
        heads = F.linear(q_latent, weight.flatten(0, 1)).unflatten(-1, (self.heads, -1))
        return turn_ends(heads, rotary.cos, rotary.sin)

    def _turned(self, joint: Tensor, rotary: Rotary) -> Tensor:
        """Both parts of all heads -> queries (B, T, H, nope + rope), the last part rotated."""
        heads, still = self.heads, self.cfg.qk_nope_head_dim
        return turn_queries(joint, rotary.cos, rotary.sin, heads, still)

    def mix(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """Attend to all `seen` entries (B, S, ...) and map back to (B, T, dim)."""
        if context.places is None:
            heads = self._look(q, seen, context)
        else:
            heads = by_rows(self._look, q, seen, context)
        mixed: Tensor = self.wo(heads.flatten(-2))
        return mixed

    def mix_blocks(self, q: Tensor, store: Entries, blocks: Blocks) -> Tensor:
        """`mix` of rows (N, 1, H, nope + rope), each alone, with entries (P, size, ...)."""
        up_k, up_v = self._ups(q.dtype)
        query = self._lifted(q, up_k)
        latent = attend_blocks_latent(query, store["c_kv"], store["k_rope"], blocks, self.scale)
        mixed: Tensor = self.wo(torch.einsum("bthr,hvr->bthv", latent, up_v).flatten(-2))
        return mixed

    def _look(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """What every head finds, (B, T, H, v), in the form of the two that serves."""
        form = self.form
        if context.lengths is not None:
            form = "absorbed"
        elif form == "auto":
            queries, keys = q.shape[1], seen["c_kv"].shape[1]
            cheaper = absorbed_is_cheaper(self.cfg, queries, keys) and not foreign(self.kv_up)
            form = "absorbed" if cheaper else "expanded"
        return (self._absorbed if form == "absorbed" else self._expanded)(q, seen, context)

    def _expanded(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """K = [kv_up_k(c) | k_rope for every head], v = kv_up_v(c)."""
        c, shared, still = seen["c_kv"], seen["k_rope"], self.cfg.qk_nope_head_dim
        if patched(self.kv_up) or heads_backend(c, shared, self.kv_up.weight) != "in place":
            k, v = join_keys(self.kv_up(c), shared, self.heads, still)
            return self._attend(q, k, v, context)
        key, value = self._ups(c.dtype)
        room = key.new_zeros(self.heads, shared.shape[-1], key.shape[-1])
        weight = torch.cat((key, room, value), dim=1).flatten(0, 1)
        joint = put_ends(F.linear(c, weight).unflatten(-1, (self.heads, -1)), shared, still)
        k, v = joint.tensor_split([still + shared.shape[-1]], dim=-1)
        return self._attend(q, k, v, context)

    def _absorbed(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """(q W_k) . c instead of q . (W_k c), and W_v (sum a c) instead of sum a (W_v c)."""
        up_k, up_v = self._ups(q.dtype)
        query, lengths = self._lifted(q, up_k), context.lengths
        if (
            lengths is None
            and context.mask is None
            and has_kernel(query, seen["c_kv"], seen["k_rope"])
        ):  # one query of a growing cache or of a prompt's last block: it sees every key
            lengths = q.new_full(q.shape[:1], seen["c_kv"].shape[1], dtype=torch.int64)
        if lengths is not None:
            latent = attend_static_latent(
                query, seen["c_kv"], seen["k_rope"], lengths, context.starts, self.scale
            )
        else:
            keys = torch.cat((seen["c_kv"], seen["k_rope"]), dim=-1).unsqueeze(2)
            latent = self._attend(query, keys, seen["c_kv"].unsqueeze(2), context)
        return torch.einsum("bthr,hvr->bthv", latent, up_v)

    def _lifted(self, q: Tensor, up_k: Tensor) -> Tensor:
        """Queries (B, T, H, nope + rope) in the latent space, (B, T, H, r + rope)."""
        nope, turned = q.split([self.cfg.qk_nope_head_dim, self.cfg.qk_rope_head_dim], dim=-1)
        return torch.cat((torch.einsum("bthn,hnr->bthr", nope, up_k), turned), dim=-1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        return attend(
            q,
            k,
            v,
            mask=context.mask,
            causal=context.causal,
            scale=self.scale,
            dropout=self.cfg.dropout if self.training else 0.0,
        )

    def step(self, x: Tensor, slot: StaticSlot, context: AttentionContext) -> Tensor:
        """One new position per row (B, 1, dim) against a static cache, which takes it in."""
        assert context.lengths is not None
        if patched(self.q_norm) or patched(self.kv_norm):
            q, new = self.project(x, context.rotary)
            return self.mix(q, slot.extend(new), context)
        cfg, tables, store = self.cfg, context.rotary, slot.store
        joint = self.q_up(self._store(x, tables, store, slot.position))
        nope = joint[..., : self.heads * cfg.qk_nope_head_dim].unflatten(-1, (self.heads, -1))
        up_k, up_v = self._ups(joint.dtype)
        query = rotate_query(
            torch.einsum("bthn,hnr->bthr", nope, up_k), joint, tables.cos, tables.sin
        )
        latent = attend_static_latent(
            query, store["c_kv"], store["k_rope"], context.lengths, context.starts, self.scale
        )
        mixed: Tensor = self.wo(torch.einsum("bthr,hvr->bthv", latent, up_v).flatten(-2))
        return mixed

    def _ups(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Per head, kv_up's key part (H, nope, r) and value part (H, v, r): views."""
        weight = self.kv_up.weight
        if foreign(self.kv_up):  # what a wrapper does to the unit vectors is its weight
            axes = torch.eye(self.cfg.kv_lora_rank, device=weight.device, dtype=dtype)
            weight = self.kv_up(axes).t()
        up = weight.to(dtype).unflatten(0, (self.heads, -1))
        key, value = up.split([self.cfg.qk_nope_head_dim, self.cfg.v_head_dim], dim=1)
        return key, value

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
            freqs_cis: Complex table of width qk_rope_head_dim; its first T rows are the
                positions of `x`.
            mask: Additive or boolean; None hides nothing.
            kv_cache: Dict whose entry `cache_key` is extended in place.
            cache_key: This layer's entry.
        """
        return attend_by_hand(self, x, freqs_cis, mask, kv_cache, cache_key)
