"""Huginn (Raven, recurrent-pretraining; arXiv 2502.05171): settings and names."""

import math
from typing import Any

import torch
from torch import Tensor

from open_mythos.checkpoint.foreign.source import Settings, Weights, head, layer_names, no_gate
from open_mythos.config.designs import design
from open_mythos.config.mythos import MythosConfig


MODEL_TYPES = ("huginn_raven", "RavenForCausalLM")

# Ours -> theirs; vectors of width dim.
NORMS = {"attn_norm": "norm_1", "attn_out_norm": "norm_2", "ffn_norm": "norm_3"}
NORMS |= {"ffn_out_norm": "norm_4"}


def config(said: Settings) -> MythosConfig:
    """The network of a config.json.

    Raises:
        CheckpointError: If its equations are not those of our parts.
    """
    for key, value in {
        "bias": False,
        "block_class_name": "SandwichBlock",
        "norm_class_name": "RMSNorm_llama",
        "mlp_class_name": "GatedMLP",
        "nonlin_name": "SiLU",
        "injection_type": "linear",
        "rope_condense_ratio": 1,
        "test_time_noise": 0,
    }.items():
        said.must(key, value, absent=value)
    heads = said.whole("num_attention_heads", said.values.get("n_heads"))
    base = MythosConfig(
        vocab_size=said.whole("padded_vocab_size", said.whole("vocab_size")),
        dim=said.whole("n_embd"),
        n_heads=heads,
        n_kv_heads=said.whole("num_key_value_heads", heads),
        max_seq_len=said.whole("block_size"),
        max_loop_iters=said.whole("mean_recurrence"),
        prelude_layers=said.whole("n_layers_in_prelude"),
        core_layers=said.whole("n_layers_in_recurrent_block"),
        coda_layers=said.whole("n_layers_in_coda"),
        attn_type="gqa",
        dense_hidden=said.whole("intermediate_size"),
        rope_theta=said.real("rope_base"),
        norm_eps=said.real("norm_eps"),
        attention_bias=said.flag("qk_bias", default=True),
        tied_head=said.flag("tie_embeddings", default=True),
        coda_input="norm",
    )
    return design("huginn", base)


def embedding_scale(said: Settings, cfg: MythosConfig) -> float:
    """What embeddings are multiplied by."""
    stated: Any = said.values.get("init_values")
    known = stated.get("embed_scale") if isinstance(stated, dict) else None
    return math.sqrt(cfg.dim) if known is None else float(known)


def weights(said: Settings, given: Weights, cfg: MythosConfig) -> dict[str, Tensor]:
    """The state of our network.

    The scale of the embeddings goes into their table; where the head is that table too, the last
    norm takes it out again.

    Raises:
        CheckpointError: Naming the key that is missing or has another shape.
    """
    scale, whole = embedding_scale(said, cfg), "transformer"
    table = given.take(f"{whole}.wte.weight", cfg.vocab_size, cfg.dim)
    last = given.take(f"{whole}.ln_f.weight", cfg.dim)
    out = {
        "embed.weight": table * scale,
        "coda_input.weight": last,
        "norm.weight": last / scale if cfg.tied_head else last,
        "recurrent.injection.mix.weight": given.take(
            f"{whole}.adapter.weight", cfg.dim, 2 * cfg.dim
        ),
        **head(given, cfg, f"{whole}.wte.weight"),
        **no_gate(table, cfg.dim),
    }
    given.pass_over("freqs_cis")
    for theirs, ours in layer_names(cfg):
        out |= _block(given, f"{whole}.{theirs}", ours, cfg)
    return out


def _block(given: Weights, theirs: str, ours: str, cfg: MythosConfig) -> dict[str, Tensor]:
    """One block; the pairs that rotate lie side by side, as ours do."""
    heads, width = cfg.n_heads + 2 * cfg.n_kv_heads, cfg.head_dim
    out = {
        f"{ours}.{name}.weight": given.take(f"{theirs}.{their}.weight", cfg.dim)
        for name, their in NORMS.items()
    }
    for name, their, *shape in (
        ("attn.wqkv", "attn.Wqkv", heads * width, cfg.dim),
        ("attn.wo", "attn.proj", cfg.dim, cfg.n_heads * width),
        ("ffn.gate_up", "mlp.fc", 2 * cfg.dense_width, cfg.dim),
        ("ffn.down", "mlp.proj", cfg.dim, cfg.dense_width),
    ):
        out[f"{ours}.{name}.weight"] = given.take(f"{theirs}.{their}.weight", *shape)
    if cfg.attention_bias:
        bias = given.take(f"{theirs}.attn.qk_bias", 2, 1, cfg.n_heads, width).flatten()
        none = torch.zeros(cfg.n_kv_heads * width, dtype=bias.dtype)
        out[f"{ours}.attn.bias"] = torch.cat((bias, none))
    return out
