"""Weights of a Llama-like block under our names, in our order of rotated channels."""

from collections.abc import Callable

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig


Read = Callable[[str], Tensor]


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Channels of heads in our order: pairs that turn together beside each other.

    Llama's channel j turns with j + head_dim / 2, ours 2 j with 2 j + 1. Queries and keys in one
    order give the same products as in the other, so nothing else has to know.

    Args:
        rows: (heads * head_dim, ...): rows of a weight, a bias, or a norm of one head.
        head_dim: Width of a head.
    """
    halves = rows.unflatten(0, (-1, 2, head_dim // 2))
    ordered: Tensor = halves.transpose(1, 2).flatten(0, 2)
    return ordered


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
        return torch.cat((interleave(q, width), interleave(k, width), v))

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
            found[f"attn.{part}_norm.weight"] = interleave(norm, width)
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
