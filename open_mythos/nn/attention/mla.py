"""Multi-head latent attention: cache one small latent per token (DeepSeek-V2, arXiv 2405.04434)."""

from typing import Literal

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.by_hand import attend_by_hand
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import Entries
from open_mythos.nn.dict_cache import DictCache
from open_mythos.nn.fused import FusedLinear, HasParts, LinearView
from open_mythos.nn.norm import RMSNorm
from open_mythos.nn.rotary import Rotary
from open_mythos.ops.attend import attend


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
    """

    form: Form = "auto"

    def __init__(self, cfg: MythosConfig) -> None:
        """Use the MLA fields of `cfg`."""
        super().__init__()
        self.cfg = cfg
        heads, nope, rope = cfg.n_heads, cfg.qk_nope_head_dim, cfg.qk_rope_head_dim
        self.down = FusedLinear(cfg.dim, {"q": cfg.q_lora_rank, "kv": cfg.kv_lora_rank + rope})
        self.q_norm = RMSNorm(cfg.q_lora_rank)
        self.q_up = FusedLinear(cfg.q_lora_rank, {"nope": heads * nope, "rope": heads * rope})
        self.kv_norm = RMSNorm(cfg.kv_lora_rank)
        self.kv_up = nn.Linear(cfg.kv_lora_rank, heads * (nope + cfg.v_head_dim), bias=False)
        self.wo = nn.Linear(heads * cfg.v_head_dim, cfg.dim, bias=False)

    @property
    def q_down(self) -> LinearView:
        """Query down map, a view of the fused weight."""
        return self.down.part("q")

    @property
    def kv_down(self) -> LinearView:
        """Latent and shared rotary key, a view of the fused weight."""
        return self.down.part("kv")

    @property
    def q_up_nope(self) -> LinearView:
        """Unrotated query map, a view of the fused weight."""
        return self.q_up.part("nope")

    @property
    def q_up_rope(self) -> LinearView:
        """Rotated query map, a view of the fused weight."""
        return self.q_up.part("rope")

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Entries]:
        """Queries (B, T, H, nope + rope), and the entries c_kv (B, T, r), k_rope (B, T, rope)."""
        rope = self.cfg.qk_rope_head_dim
        q_latent, kv = self.down(x)
        nope, turned = self.q_up(self.q_norm(q_latent))
        nope = nope.unflatten(-1, (self.cfg.n_heads, -1))
        turned = rotary.turn(turned.unflatten(-1, (self.cfg.n_heads, -1)))
        latent, key = kv.split([self.cfg.kv_lora_rank, rope], dim=-1)
        entries = {
            "c_kv": self.kv_norm(latent),
            "k_rope": rotary.turn(key.unsqueeze(2)).squeeze(2),
        }
        return torch.cat((nope, turned), dim=-1), entries

    def mix(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """Attend to all `seen` entries (B, S, ...) and map back to (B, T, dim)."""
        form = self.form
        if form == "auto":
            queries, keys = q.shape[1], seen["c_kv"].shape[1]
            form = "absorbed" if absorbed_is_cheaper(self.cfg, queries, keys) else "expanded"
        heads = (self._absorbed if form == "absorbed" else self._expanded)(q, seen, context)
        mixed: Tensor = self.wo(heads.flatten(-2))
        return mixed

    def _expanded(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """K = [kv_up_k(c) | k_rope for every head], v = kv_up_v(c)."""
        kv = self.kv_up(seen["c_kv"]).unflatten(-1, (self.cfg.n_heads, -1))
        k, v = kv.split([self.cfg.qk_nope_head_dim, self.cfg.v_head_dim], dim=-1)
        shared = seen["k_rope"].unsqueeze(2).expand(*k.shape[:3], -1)
        return self._attend(q, torch.cat((k, shared), dim=-1), v, context)

    def _absorbed(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """(q W_k) . c instead of q . (W_k c), and W_v (sum a c) instead of sum a (W_v c)."""
        cfg = self.cfg
        up = self.kv_up.weight.unflatten(0, (cfg.n_heads, -1))
        up_k, up_v = up.split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=1)
        nope, turned = q.split([cfg.qk_nope_head_dim, cfg.qk_rope_head_dim], dim=-1)
        latent_q = torch.einsum("bthn,hnr->bthr", nope, up_k.to(q.dtype))
        keys = torch.cat((seen["c_kv"], seen["k_rope"]), dim=-1).unsqueeze(2)
        latent = self._attend(
            torch.cat((latent_q, turned), dim=-1), keys, seen["c_kv"].unsqueeze(2), context
        )
        return torch.einsum("bthr,hvr->bthv", latent, up_v.to(q.dtype))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        cfg = self.cfg
        return attend(
            q,
            k,
            v,
            mask=context.mask,
            causal=context.causal,
            # The width of the uncompressed head sets the scale, in both forms.
            scale=(cfg.qk_nope_head_dim + cfg.qk_rope_head_dim) ** -0.5,
            dropout=cfg.dropout if self.training else 0.0,
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
            freqs_cis: Complex table of width qk_rope_head_dim; its first T rows are the
                positions of `x`.
            mask: Additive or boolean; None hides nothing.
            kv_cache: Dict whose entry `cache_key` is extended in place.
            cache_key: This layer's entry.
        """
        return attend_by_hand(self, x, freqs_cis, mask, kv_cache, cache_key)
