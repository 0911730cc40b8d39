"""Hugging Face's Mixtral: a mixture of experts in every layer, none of them always on."""

from typing import Any

from open_mythos.bench.peers.hugging_face import HuggingFace, Stack


class Mixtral(HuggingFace):
    """The config's experts; as many more picks per token as its always-on experts are wide."""

    family = "Mixtral"

    @property
    def picks(self) -> int:
        """Experts that each token visits."""
        cfg = self.cfg
        return min(cfg.n_experts, cfg.n_experts_per_tok * (1 + cfg.n_shared_experts))

    def stack(self, seq_len: int) -> Stack:
        """As many layers as cost what the looped network costs."""
        cfg = self.cfg
        feed = 6 * cfg.dim * cfg.expert_dim * self.picks + 2 * cfg.dim * cfg.n_experts
        return self.fitted(self.attention_flops(seq_len) + feed, seq_len)

    def settings(self, layers: int) -> Any:
        """A MixtralConfig whose experts run by the grouped matmul."""
        settings = self.transformers.MixtralConfig(
            **self.basics(),
            num_key_value_heads=self.cfg.n_kv_heads,
            head_dim=self.cfg.head_dim,
            intermediate_size=self.cfg.expert_dim,
            num_local_experts=self.cfg.n_experts,
            num_experts_per_tok=self.picks,
            num_hidden_layers=layers,
        )
        settings._experts_implementation = "grouped_mm"
        return settings
