"""Published: what public tutorials look at on a model of open-mythos 0.5.0."""

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.rotary import precompute_rope_freqs


class Published(nn.Module):
    """Rotary tables and a causal mask, made when asked; no pass of this library reads them."""

    cfg: MythosConfig
    embed: nn.Embedding

    @property
    def freqs_cis(self) -> Tensor:
        """Complex rotary table (max_seq_len, head_dim / 2)."""
        return self._phasors(self.cfg.head_dim)

    @property
    def freqs_cis_mla(self) -> Tensor:
        """Complex rotary table (max_seq_len, qk_rope_head_dim / 2)."""
        return self._phasors(self.cfg.qk_rope_head_dim)

    def _phasors(self, dim: int) -> Tensor:
        table = precompute_rope_freqs(dim, self.cfg.max_seq_len, self.cfg.rope_theta)
        return table.to(self.embed.weight.device)

    @staticmethod
    def _causal_mask(
        seq_len: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Additive mask (1, 1, S, S): 0 where a position may look, -inf above the diagonal."""
        mask = torch.full((1, 1, seq_len, seq_len), float("-inf"), device=device, dtype=dtype)
        return mask.triu(diagonal=1)
