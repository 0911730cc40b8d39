"""Hugging Face's Llama: the dense stack that a looped network has to be worth."""

from typing import Any

from open_mythos.bench.peers.hugging_face import HuggingFace, Stack


# Hidden width of the feed-forward over dim: Llama's 8/3, at the next aligned width.
WIDTH = 2.75


class Llama(HuggingFace):
    """Grouped-query attention with the config's heads, SwiGLU of 2.75 dim."""

    family = "Llama"

    def stack(self, seq_len: int) -> Stack:
        """As many layers as cost what the looped network costs."""
        feed = 6 * self.cfg.dim * int(WIDTH * self.cfg.dim)
        return self.fitted(self.attention_flops(seq_len) + feed, seq_len)

    def settings(self, layers: int) -> Any:
        """A LlamaConfig."""
        return self.transformers.LlamaConfig(
            **self.basics(),
            num_key_value_heads=self.cfg.n_kv_heads,
            head_dim=self.cfg.head_dim,
            intermediate_size=int(WIDTH * self.cfg.dim),
            num_hidden_layers=layers,
        )
