"""Hugging Face's DeepSeek-V3: latent attention and shared experts, unrolled instead of looped."""

from typing import Any

from open_mythos.bench.peers.hugging_face import HuggingFace, Stack
from open_mythos.config.budget import flops_per_token


class DeepSeekV3(HuggingFace):
    """The same blocks as the config's, every loop a layer of its own: equal FLOPs by design."""

    family = "DeepSeek-V3"

    @property
    def dense(self) -> int:
        """Layers without experts; they all stand first."""
        return self.cfg.prelude_layers + self.cfg.coda_layers

    def stack(self, seq_len: int) -> Stack:
        """A layer for each block and each loop; adapter and halting it has not."""
        cfg = self.cfg
        layers = self.dense + cfg.max_loop_iters
        head = 2.0 * cfg.vocab_size * cfg.dim
        extras = cfg.max_loop_iters * (4 * cfg.dim * cfg.lora_rank * cfg.loop_lora + 2 * cfg.dim)
        body = flops_per_token(cfg, None, seq_len).total - head - extras
        return Stack(layers, body / layers, head)

    def settings(self, layers: int) -> Any:
        """A DeepseekV3Config whose experts run by the grouped matmul."""
        cfg = self.cfg
        settings = self.transformers.DeepseekV3Config(
            **self.basics(),
            num_key_value_heads=cfg.n_heads,
            kv_lora_rank=cfg.kv_lora_rank,
            q_lora_rank=cfg.q_lora_rank,
            qk_rope_head_dim=cfg.qk_rope_head_dim,
            qk_nope_head_dim=cfg.qk_nope_head_dim,
            v_head_dim=cfg.v_head_dim,
            head_dim=cfg.qk_rope_head_dim,
            intermediate_size=cfg.dense_width,
            moe_intermediate_size=cfg.expert_dim,
            n_routed_experts=cfg.n_experts,
            num_experts_per_tok=cfg.n_experts_per_tok,
            n_shared_experts=cfg.n_shared_experts * cfg.n_experts_per_tok,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=self.dense,
            num_hidden_layers=layers,
        )
        settings._experts_implementation = "grouped_mm"
        return settings
