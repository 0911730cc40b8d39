"""Weights of a Llama-like block under our names, in our order of rotated channels."""

from collections.abc import Callable

import torch
from torch import Tensor

from open_mythos.checkpoint.foreign.source import interleaved
from open_mythos.config.mythos import MythosConfig


Read = Callable[[str], Tensor]


def block_weights(read: Read, layer: int, cfg: MythosConfig) -> dict[str, Tensor]:
    """The tensors of one of our blocks, by their names in it.

    Args:
        read: Name in the source -> tensor.
        layer: Of the source.
        cfg: The network's config.
    """
    at, width = f"model.layers.{layer}.", cfg.head_dim

    def joined(kind: str) -> Tensor:
        q, k, v = (read(f"{at}self_attn.{part}_proj.{kind}") for part in "qkv")
        return torch.cat((*(interleaved(rows, len(rows) // width) for rows in (q, k)), v))

    gate_up = [read(f"{at}mlp.{part}_proj.weight") for part in ("gate", "up")]
    found = {
        "attn_norm.weight": read(f"{at}input_layernorm.weight"),
        "ffn_norm.weight": read(f"{at}post_attention_layernorm.weight"),
        "attn.wqkv.weight": joined("weight"),
        "attn.wo.weight": read(f"{at}self_attn.o_proj.weight"),
        "ffn.gate_up.weight": torch.cat(gate_up),
        "ffn.down.weight": read(f"{at}mlp.down_proj.weight"),
    }
    if cfg.attention_bias:
        found["attn.bias"] = joined("bias")
    if cfg.qk_norm:
        for part in "qk":
            norm = read(f"{at}self_attn.{part}_norm.weight")
            found[f"attn.{part}_norm.weight"] = interleaved(norm, 1)
    return found


def outer_weights(read: Read, cfg: MythosConfig) -> dict[str, Tensor]:
    """Embedding, last norm, and the head where it is not tied."""
    found = {
        "embed.weight": read("model.embed_tokens.weight"),
        "norm.weight": read("model.norm.weight"),
    }
    if not cfg.tied_head:
        found["head.weight"] = read("lm_head.weight")
    return found
