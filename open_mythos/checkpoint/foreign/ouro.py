"""Ouro (LoopLM; arXiv 2510.25741): settings and names."""

from typing import Any

import torch
from torch import Tensor

from open_mythos.checkpoint.foreign.source import Settings, Weights, core_name, head, interleaved
from open_mythos.config.designs import design
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError


MODEL_TYPES = ("ouro", "OuroForCausalLM")

# Ours -> theirs; vectors of width dim.
NORMS = {"attn_norm": "input_layernorm", "attn_out_norm": "input_layernorm_2"}
NORMS |= {"ffn_norm": "post_attention_layernorm", "ffn_out_norm": "post_attention_layernorm_2"}


def config(said: Settings) -> MythosConfig:
    """The network of a config.json: all layers are the core, and the loop ends in the norm.

    Raises:
        CheckpointError: If its equations are not those of our parts.
    """
    said.must("hidden_act", "silu", absent="silu")
    said.must("attention_bias", False, None, absent=False)
    said.must("use_sliding_window", False, None, absent=False)
    rope = _rope(said)
    layers: Any = said.values.get("layer_types") or []
    if set(layers) - {"full_attention"}:
        raise CheckpointError(
            f"layer_types has {sorted(set(layers))}; this library has only 'full_attention'"
        )
    dim, heads = said.whole("hidden_size"), said.whole("num_attention_heads")
    width = said.whole("head_dim", dim // max(heads, 1))
    base = MythosConfig(
        vocab_size=said.whole("vocab_size"),
        dim=dim,
        n_heads=heads,
        n_kv_heads=said.whole("num_key_value_heads", heads),
        head_width=None if width * heads == dim else width,
        max_seq_len=said.whole("max_position_embeddings"),
        max_loop_iters=said.whole("total_ut_steps", 4),
        prelude_layers=0,
        core_layers=said.whole("num_hidden_layers"),
        coda_layers=0,
        attn_type="gqa",
        dense_hidden=said.whole("intermediate_size"),
        rope_theta=rope,
        norm_eps=said.real("rms_norm_eps"),
        tied_head=said.flag("tie_word_embeddings", default=False),
        last_norm=False,
    )
    return design("ouro", base)


def _rope(said: Settings) -> float:
    """The base of the rotary frequencies, under either of transformers' names."""
    rope: Any = said.values.get("rope_parameters") or said.values.get("rope_scaling") or {}
    plain = isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in (None, "default")
    if not plain:
        raise CheckpointError(
            f"rope_scaling is {rope!r}; this library's frequencies are not scaled"
        )
    stated = rope.get("rope_theta")
    return said.real("rope_theta", None if stated is None else float(stated))


def weights(said: Settings, given: Weights, cfg: MythosConfig) -> dict[str, Tensor]:  # noqa: ARG001
    """The state of our network; its gate is the halting probability (`exit="gate:0.5"`).

    Raises:
        CheckpointError: Naming the key that is missing or has another shape.
    """
    table = given.take("model.embed_tokens.weight", cfg.vocab_size, cfg.dim)
    out = {
        "embed.weight": table,
        **head(given, cfg, "model.embed_tokens.weight"),
        "recurrent.post_norm.weight": given.take("model.norm.weight", cfg.dim),
        "recurrent.act.halt.weight": given.take("model.early_exit_gate.weight", 1, cfg.dim),
        "recurrent.act.halt.bias": given.take("model.early_exit_gate.bias", 1),
    }
    given.pass_over("model.rotary_emb.inv_freq")
    for i in range(cfg.core_layers):
        out |= _block(given, f"model.layers.{i}", core_name(i), cfg)
    return out


def _block(given: Weights, theirs: str, ours: str, cfg: MythosConfig) -> dict[str, Tensor]:
    """One block; the pairs that rotate lie half a head apart, ours side by side."""
    dim, hidden, width = cfg.dim, cfg.dense_width, cfg.head_dim
    out = {
        f"{ours}.{name}.weight": given.take(f"{theirs}.{their}.weight", dim)
        for name, their in NORMS.items()
    }
    attn, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
    q = given.take(f"{attn}.q_proj.weight", cfg.n_heads * width, dim)
    k = given.take(f"{attn}.k_proj.weight", cfg.n_kv_heads * width, dim)
    v = given.take(f"{attn}.v_proj.weight", cfg.n_kv_heads * width, dim)
    turned = (interleaved(q, cfg.n_heads), interleaved(k, cfg.n_kv_heads))
    out[f"{ours}.attn.wqkv.weight"] = torch.cat((*turned, v))
    out[f"{ours}.attn.wo.weight"] = given.take(f"{attn}.o_proj.weight", dim, cfg.n_heads * width)
    gate_up = [given.take(f"{mlp}.{name}_proj.weight", hidden, dim) for name in ("gate", "up")]
    out[f"{ours}.ffn.gate_up.weight"] = torch.cat(gate_up)
    out[f"{ours}.ffn.down.weight"] = given.take(f"{mlp}.down_proj.weight", dim, hidden)
    return out
